"""Complex parameters as pairs of reals: storage, copies, evaluation, release, what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl.zoo
from optdsl.runtime.parameters.pairs import as_complex, as_real


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(shape: tuple[int, ...], rule: str = "AdamW", **options: Any) -> tuple[Any, ...]:
    """A complex parameter and its parts as a parameter of their own, each with its optimizer."""
    p, q = Parameter(numbers(*shape)), Parameter(as_real(numbers(*shape)).clone())
    make = getattr(optdsl.zoo, rule)
    return p, make([p], **options), q, make([q], **options)


def step(p: Parameter, optimizer: Any, number: int) -> None:
    g = numbers(*p.shape, seed=100 + number) if p.is_complex() else None
    if g is None:
        g = as_real(numbers(*p.shape[:-1], p.shape[-1] // 2, seed=100 + number))
    p.grad = g
    optimizer.step()


def test_views_share_memory_and_come_back() -> None:
    for shape in [(3, 4), (5,), (), (2, 0), (0,)]:
        z = numbers(*shape)
        r = as_real(z)
        assert r.shape == ((*shape[:-1], 2 * shape[-1]) if shape else (2,))
        assert r.data_ptr() == z.data_ptr()
        assert torch.equal(as_complex(r, shape), z)
    assert as_real(r) is r


@pytest.mark.parametrize(
    "options",
    [
        {"storage": "int8"},
        {"storage": {"exp_avg": "bf16", "exp_avg_sq": "int4"}},
        {"storage": "param"},
        {"maximize": True, "weight_decay": 0.3},
        {"backend": "triton"},
    ],
    ids=str,
)
def test_options_see_pairs(options: dict[str, Any]) -> None:
    p, ours, q, plain = pair((40, 60) if "backend" not in options else (4, 6), **options)
    for number in range(3):
        step(p, ours, number)
        step(q, plain, number)
    assert torch.equal(as_real(p), q)
    for key, value in plain.state[q].items():
        mine = ours.state[p][key]
        assert torch.equal(as_real(mine), value)
        assert mine.is_complex() == (
            key != "step" and value.dtype is torch.float32 and value.shape == q.shape
        )
    other = Parameter(p.detach().clone())
    resumed = optdsl.zoo.AdamW([other], **options)
    resumed.load_state_dict(ours.state_dict())
    step(p, ours, 3)
    step(other, resumed, 3)
    assert torch.equal(p, other)


def test_codes_load_as_numbers_and_numbers_as_codes() -> None:
    p, ours, q, plain = pair((40, 60), storage="int8")
    step(p, ours, 0)
    step(q, plain, 0)
    found = []
    for one, optimizer in ((p, ours), (q, plain)):
        wide = optdsl.zoo.AdamW([one])
        wide.load_state_dict(optimizer.state_dict())
        narrow = optdsl.zoo.AdamW([one], storage="int8")
        narrow.load_state_dict(wide.state_dict())
        found.append((wide.state[one]["exp_avg"], narrow.state[one]["exp_avg"]))
    (mine, codes), (theirs, wanted) = found
    assert mine.dtype is torch.complex64
    assert torch.equal(as_real(mine), theirs)
    assert torch.equal(codes, wanted)


def test_copies_release_and_evaluation() -> None:
    p, ours, q, plain = pair((3, 4), "ScheduleFreeAdamW")
    with ours.attach():
        for number in range(3):
            (p * numbers(3, 4, seed=100 + number).conj()).sum().real.backward()
            step(q, plain, number)
    assert torch.equal(as_real(p), q)
    before = p.detach().clone()
    for copied, other in (copy.deepcopy((p, ours)), pickle.loads(pickle.dumps((p, ours)))):
        step(copied, other, 3)
        assert other.state[copied]["z"].dtype is torch.complex64
    ours.eval()
    plain.eval()
    assert not torch.equal(p, before)
    assert torch.equal(as_real(p), q)
    assert ours.state[p]["p.train"].is_complex()
    resumed = optdsl.zoo.ScheduleFreeAdamW([other := Parameter(p.detach().clone())])
    resumed.load_state_dict(ours.state_dict())
    resumed.train()
    ours.train()
    assert torch.equal(p, before)
    assert torch.equal(other, before)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_what_cannot_be_pairs_is_refused() -> None:
    z = numbers(4, 4)
    for view in (z.conj(), z[:, ::2], z.T):
        with pytest.raises(ValueError, match="complex view that is conjugated, or strided"):
            optdsl.zoo.AdamW([Parameter(view)])
    with pytest.raises(ValueError, match=r"is torch.complex32; supported are .* complex128"):
        optdsl.zoo.AdamW([Parameter(torch.zeros(3, dtype=torch.complex32))])
    rows = Parameter(z[::2])  # whole rows
    optimizer = optdsl.zoo.SGD([rows], lr=1.0)
    before = z.clone()
    rows.grad = torch.ones(2, 4, dtype=torch.complex64)
    optimizer.step()
    assert torch.equal(z[::2], before[::2] - 1)
    assert torch.equal(z[1::2], before[1::2])


def test_a_state_of_another_shape_or_kind_is_refused() -> None:
    p, ours, _, _ = pair((3, 4))
    step(p, ours, 0)
    for bad in (numbers(3, 5), torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.int32)):
        checkpoint = copy.deepcopy(ours.state_dict())
        checkpoint["state"][0]["exp_avg"] = bad
        with pytest.raises(ValueError, match="the checkpoint's 'exp_avg' of parameter 0"):
            ours.load_state_dict(checkpoint)
    real = Parameter(torch.zeros(3, 8))
    with pytest.raises(ValueError, match="the checkpoint's 'exp_avg' of parameter 0"):
        optdsl.zoo.AdamW([real]).load_state_dict(ours.state_dict())
    p.grad_dtype = None
    p.grad = torch.zeros(3, 4)
    with pytest.raises(RuntimeError, match=r"gradient of parameter 0 is torch.float32 "):
        ours.step()


def test_autograd_sees_that_the_parameter_changed() -> None:
    p, ours, _, _ = pair((3, 4))
    loss = (p * p).abs().sum()
    step(p, ours, 0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
