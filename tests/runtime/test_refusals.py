"""What a compiled rule refuses, before anything has changed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from tests.runtime import programs
from tests.runtime.programs import Adam, optimizer_class
from tests.runtime.test_step import close, copies, parameters
from tests.runtime.twins import SHAPES


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, dtype=torch.int32), "is torch.int32; supported are float32"),
        (torch.zeros(3, 3).to_sparse(), "has layout torch.sparse_coo"),
    ],
)
def test_parameters_that_cannot_be_optimized(tensor, message):
    with pytest.raises(ValueError, match=message):
        Adam([tensor])


def test_options_that_are_not_there_yet():
    with pytest.raises(ValueError, match="differentiable=True is not supported yet"):
        Adam(parameters(SHAPES), differentiable=True)
    Adam(parameters(SHAPES), differentiable=False, capturable=True, foreach=True, fused=True)


def test_sparse_gradients_are_refused_before_anything_changes():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    other = Parameter(torch.ones(3))
    ours = Adam([other, embedding.weight])
    (embedding(torch.tensor([1, 2])).sum() + other.sum()).backward()
    before = copies([other, embedding.weight])
    with pytest.raises(RuntimeError, match="gradient of parameter 1 is sparse"):
        ours.step()
    close([other, embedding.weight], before, 0)
    assert ours.state_dict()["state"] == {}


def test_a_gradient_of_another_dtype_is_refused():
    p = Parameter(torch.ones(3))
    ours = Adam([p])
    p.grad = torch.ones(3)
    ours.step()
    p.grad.data = torch.ones(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"gradient of parameter 0 is torch\.float64"):
        ours.step()


@pytest.mark.parametrize("wrong", ["fast", None, (0.1, 0.2)])
def test_a_hyperparameter_that_is_no_number_any_more_is_named(wrong):
    params = parameters(SHAPES)
    for p in params:
        p.grad = torch.ones_like(p)
    ours = Adam(params, lr=0.1)
    ours.step()
    before = copies(params)
    ours.param_groups[0]["lr"] = wrong
    with pytest.raises(
        ValueError, match=r"Adam: lr is .*, which is not of the kind of its default"
    ):
        ours.step()
    close(params, before, 0)
    ours.param_groups[0]["lr"] = 0.1
    ours.step()


def test_parameters_without_memory_are_refused_when_they_are_stepped():
    p = Parameter(torch.ones(3, device="meta"))
    ours = Adam([p])
    p.grad = torch.ones(3, device="meta")
    with pytest.raises(RuntimeError, match="parameter 0 of group 0, a Parameter on meta, has no"):
        ours.step()


def test_unknown_backends_and_tables_of_another_version():
    params = parameters(SHAPES)
    with pytest.raises(ValueError, match="one of auto, cpu, triton, reference"):
        Adam(params, backend="cuda")
    other = optimizer_class(programs.make("Old", programs.ADAM.variants, "", version=0))
    with pytest.raises(RuntimeError, match="version 0"):
        other(params)
