"""Whole steps of shipped optimizers on the Triton target, beside the interpreter of rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import Parameter
from triton import knobs

import optdsl.zoo
from tests.rules import marked
from tests.triton.sources import ZOO

SHAPES = [(9, 7), (8, 16), (70,), (1,), (), (3, 4, 5), (0, 3), (6, 40)]
NAMES = marked(source.split("/")[1] for source in ZOO)

BOUND = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 0.02}
LOOSE = {torch.float64: 1e-7, torch.float32: 6e-3, torch.bfloat16: 0.1}
"""Relative to the largest element, after three steps. Matrix iterations amplify roundings."""


def make(name: str, backend: str, dtype: torch.dtype, device: str = "cpu") -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in SHAPES]
    params = [Parameter(each.to(device, dtype)) for each in values]
    return getattr(optdsl.zoo, name)(params, backend=backend), params


def train(optimizer: Any, params: list[Parameter], steps: int = 3, *, fresh: bool = True) -> None:
    """Steps with random gradients; `fresh` gives each step new gradient tensors."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step + 1)
        for p in params:
            g = torch.randn(p.shape, generator=generator).to(p)
            if fresh or p.grad is None:
                p.grad = g
            else:
                p.grad.copy_(g)
        optimizer.step()


def near(name: str, params: list[Parameter], others: list[Parameter], dtype: torch.dtype) -> None:
    for p, q in zip(params, others, strict=True):
        if p.numel():
            size = q.abs().max().clamp_min(1e-2)
            error = ((p.cpu().double() - q.cpu().double()).abs().max() / size).item()
            bound = (LOOSE if name in ("SWAN", "Muon") else BOUND)[dtype]
            assert error < bound, (name, tuple(p.shape))


@pytest.mark.parametrize("name", NAMES)
def test_steps_as_the_interpreter_does(name: str) -> None:
    check(name, torch.float32, "cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "Adafactor"])
def test_steps_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    check(name, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_steps_on_the_device(name: str, dtype: torch.dtype) -> None:
    check(name, dtype, "cuda")


def check(name: str, dtype: torch.dtype, device: str) -> None:
    ours, params = make(name, "triton", dtype, device)
    reference, others = make(name, "reference", dtype)
    train(ours, params)
    train(reference, others)
    near(name, params, others, dtype)


def test_gradients_may_keep_their_place_or_move() -> None:
    """Addresses are uploaded again only when they changed."""
    kept, params = make("AdamW", "triton", torch.float32)
    moved, others = make("AdamW", "triton", torch.float32)
    train(kept, params, fresh=False)
    train(moved, others, fresh=True)
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


def test_one_launch_for_all_tensors_of_a_pass() -> None:
    launches = {}
    for name in ("AdamW", "LAMB", "ClippedLion"):
        optimizer, params = make(name, "triton", torch.float32)
        train(optimizer, params, 2)
        launches[name] = optimizer.counters.launches
    # LAMB: two passes and a finish; ClippedLion: two passes, a finish a tensor, one over all.
    assert launches == {"AdamW": 2, "LAMB": 6, "ClippedLion": 8}


def test_a_changed_rate_makes_no_new_plan() -> None:
    ours, params = make("AdamW", "triton", torch.float32)
    reference, others = make("AdamW", "reference", torch.float32)
    for rate in (1e-3, 0.1):
        for optimizer, own in ((ours, params), (reference, others)):
            optimizer.param_groups[0]["lr"] = rate
            train(optimizer, own, 1)
    near("AdamW", params, others, torch.float32)
    assert ours.counters.plans == 1


def test_host_memory_is_for_the_interpreter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, params = make("AdamW", "triton", torch.float32)
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        train(optimizer, params, 1)
