"""Complex parameters on every rule, beside their parts and beside torch's own classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.contract.cases import (
    IN_TORCH,
    SHAPES,
    Case,
    Named,
    contract,
    named,
    same,
    values,
)
from tests.contract.infos import info_of
from tests.contract.test_torch import reloaded, scalars_in_float64  # noqa: F401

STEPS = 3


def complex_parameters(dtype: torch.dtype) -> Named:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in (*SHAPES, ())]
    return [(f"layer{i}.weight", Parameter(each)) for i, each in enumerate(made)]


def parts(tensor: Tensor) -> Tensor:
    """The real and imaginary parts, in turn along the last dimension."""
    pairs = torch.view_as_real(tensor.detach().resolve_conj())
    return pairs.reshape(*tensor.shape[:-1], -1) if tensor.ndim else pairs


def complex_gradients(optimizer: Any, step: int) -> None:
    """Of every other parameter one that is conjugated when read, as autograd leaves it."""
    for index, (_, p) in enumerate(named(optimizer)):
        generator = torch.Generator().manual_seed(1000 * step + index)
        g = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        p.grad = g.conj() if index % 2 else g


def complex_train(optimizer: Any, first: int) -> None:
    for step in range(first, first + STEPS):
        complex_gradients(optimizer, step)
        for _, p in named(optimizer):  # some of torch's classes fail on a lazy conjugate
            p.grad = p.grad.resolve_conj()  # type: ignore[union-attr]
        optimizer.step()


@contract("complex parameters", backends=["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_parameters_are_pairs(case: Case, dtype: torch.dtype, record_property: Any) -> None:
    params = complex_parameters(dtype)
    if case.optimizer.program.unpaired:
        with pytest.raises(ValueError, match=r"'layer0.weight' is complex, .* \(\w+\.opt:\d+\)"):
            case.make(params)
        record_property("reason", "a statement knows rows and columns, which the error names")
        return
    others = [(name, Parameter(parts(p).clone())) for name, p in params]
    ours, plain = case.make(params), case.make(others)
    for step in range(STEPS):
        complex_gradients(ours, step)
        for (_, p), (_, q) in zip(params, others, strict=True):
            q.grad = parts(p.grad).clone()  # type: ignore[arg-type]
        ours.step()
        plain.step()
    assert same([parts(p) for p in values(params)], values(others))
    assert not same(values(params), values(complex_parameters(dtype)))
    copied = complex_parameters(dtype)
    resumed = case.make(copied)
    resumed.load_state_dict(reloaded(ours))
    again = resumed.state_dict()["state"]
    pairs = zip(
        ours.state_dict()["state"].items(), plain.state_dict()["state"].values(), strict=True
    )
    for (index, mine), theirs in pairs:
        assert mine.keys() == theirs.keys() == again[index].keys()
        for key, value in mine.items():
            full = key != "step" and theirs[key].shape == others[index][1].shape
            assert value.dtype is again[index][key].dtype is (dtype if full else theirs[key].dtype)
            assert torch.equal(parts(value) if full else value, theirs[key])
            assert torch.equal(value, again[index][key])


RULES = sorted(IN_TORCH - {"Adafactor", "Muon"})
"""The rules of torch.optim that take complex parameters."""


@pytest.mark.usefixtures("scalars_in_float64")
@pytest.mark.parametrize("rule", RULES)
def test_complex_runs_move_between_here_and_torch(rule: str) -> None:
    case = Case(rule, "cpu")
    peer = getattr(torch.optim, rule)
    for given in info_of(case).optim_inputs_func(device="cpu"):
        options = {k: float(v) if torch.is_tensor(v) else v for k, v in given.kwargs.items()}
        params = complex_parameters(torch.complex128)
        theirs = peer(params, **options)
        complex_train(theirs, 0)
        middle, checkpoint = values(params), reloaded(theirs)
        complex_train(theirs, 3)
        others = [(n, Parameter(m.clone())) for (n, _), m in zip(params, middle, strict=True)]
        ours = case.make(others)
        ours.load_state_dict(checkpoint)
        back = reloaded(ours)
        complex_train(ours, 3)
        third = [(n, Parameter(m.clone())) for (n, _), m in zip(params, middle, strict=True)]
        returned = peer(third, **options)
        returned.load_state_dict(back)
        complex_train(returned, 3)
        for found in (values(others), values(third)):
            for a, b in zip(found, values(params), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=given.desc)
        kept = ours.state_dict()["state"]
        for index, (_, p) in enumerate(params):
            for key, value in theirs.state.get(p, {}).items():
                assert value is None or key == "step" or kept[index][key].dtype is value.dtype
