"""Gradient scaling: torch.amp.GradScaler over shipped rules, against runs without it.

The scale is a power of two, so that a scaled run has the same bits as a plain one.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn import Parameter

import optdsl
import optdsl.zoo
from tests.rules import CORE, shipped_plans

RULES = [
    pytest.param(name, marks=() if name in CORE else pytest.mark.slow)
    for name in sorted(shipped_plans())
]
SHAPES = [(6, 4), (5,), (3, 4, 2), (), (40, 3), (0, 2)]
# They divide by the deviation of a row, which of a vector is nothing.
MATRICES = [(6, 4), (8, 8), (40, 3)]
OF_MATRICES = ("GradNorm", "Whitening", "PolarExpress")
OVERFLOW = 2  # the step in which a gradient is infinite

DRAWING = """
optimizer Langevin(lr = 1e-3, temperature = 1.0):
    p -= lr * g + sqrt(2 * lr * temperature) * randn()
"""

CLIP = """
optimizer Clip(lr = 1.0):
    p -= lr * g * min(1, 1 / norm(g, over = all))
"""


def parameters(name: str, dtype: torch.dtype = torch.float32) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = MATRICES if name in OF_MATRICES else SHAPES
    return [Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def named(params: list[Parameter]) -> list[tuple[str, Parameter]]:
    return [(f"layer{index}.weight", p) for index, p in enumerate(params)]


def slopes(params: list[Parameter], step: int) -> list[Tensor]:
    """The gradients of a loss, before it is scaled."""
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(p.shape, generator=generator).to(p.dtype) for p in params]


def backward(params: list[Parameter], step: int, scaler: GradScaler, *, broken: bool) -> None:
    loss = sum((p * c).sum() for p, c in zip(params, slopes(params, step), strict=True))
    scaler.scale(loss).backward()
    if broken:
        params[-2].grad[0] = float("inf")  # type: ignore[index]


def content(optimizer: Any, params: list[Parameter]) -> Any:
    return copy.deepcopy((optimizer.state_dict(), [p.detach() for p in params]))


def same(one: Any, two: Any) -> bool:
    """Equality to the last bit, NaN equal to itself."""
    if isinstance(one, Tensor):
        return bool(
            isinstance(two, Tensor)
            and one.dtype is two.dtype
            and torch.equal(one.nan_to_num(), two.nan_to_num())
            and torch.equal(one.isnan(), two.isnan())
        )
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def scaled_run(make: Any, params: list[Parameter], *, unscale: bool = False) -> Any:
    """Five steps, and one that overflows; the scale changes on the way."""
    optimizer = make(named(params))
    scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(6):
        before = content(optimizer, params)
        backward(params, step, scaler, broken=step == OVERFLOW)
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if step == OVERFLOW:
            assert same(content(optimizer, params), before)
            assert optimizer.counters.skipped == 1
    assert scaler.get_scale() != 1024.0
    return optimizer


def plain_run(make: Any, params: list[Parameter]) -> Any:
    """The same without a scaler, and without the step that overflows."""
    optimizer = make(named(params))
    for step in range(6):
        if step != OVERFLOW:
            for p, c in zip(params, slopes(params, step), strict=True):
                p.grad = c
            optimizer.step()
    return optimizer


def compare(make: Any, name: str = "", dtype: torch.dtype = torch.float32, **options: Any) -> None:
    ours, others = parameters(name, dtype), parameters(name, dtype)
    scaled, plain = scaled_run(make, ours, **options), plain_run(make, others)
    assert same(content(scaled, ours), content(plain, others))


@pytest.mark.parametrize("name", RULES)
def test_a_scaled_run_has_the_bits_of_a_plain_one(name: str) -> None:
    compare(getattr(optdsl.zoo, name), name)


@pytest.mark.parametrize("name", ["AdamW", "ClippedLion", "SWAN"])
def test_gradients_may_be_unscaled_before_the_step(name: str) -> None:
    compare(getattr(optdsl.zoo, name), name, unscale=True)


@pytest.mark.parametrize("name", ["AdamW", "LAMB", "LookaheadAdamW", "SGDSaI"])
def test_the_reference_does_as_the_kernels_do(name: str) -> None:
    rule = getattr(optdsl.zoo, name)
    compare(lambda params: rule(params, backend="reference"), name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    compare(optdsl.zoo.AdamW, dtype=dtype)


def test_uphill() -> None:
    compare(lambda params: optdsl.zoo.ClippedLion(params, maximize=True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_skipped_step_draws_no_numbers(backend: str) -> None:
    rule = optdsl.compile_text(DRAWING).Langevin
    compare(lambda params: rule(params, seed=3, backend=backend))


def test_the_clip_sees_gradients_without_the_scale() -> None:
    """A norm of 5, scaled by 1024, is cut to 1 and not to 1 / 1024."""
    clip = optdsl.compile_text(CLIP).Clip
    p = Parameter(torch.zeros(2))
    optimizer, scaler = clip([p]), GradScaler("cpu", init_scale=1024.0)
    scaler.scale((p * torch.tensor([3.0, 4.0])).sum()).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(p.detach(), torch.tensor([-0.6, -0.8]))


def test_a_scale_that_is_no_power_of_two_is_divided_out_as_torch_does() -> None:
    """By a product with the reciprocal in float32."""
    ours, others = parameters("SGD"), parameters("SGD")
    for params, make, unscale in (
        (ours, optdsl.zoo.SGD, False),
        (others, torch.optim.SGD, True),
    ):
        optimizer, scaler = make(params, lr=0.125), GradScaler("cpu", init_scale=1000.0)
        backward(params, 0, scaler, broken=False)
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(ours, others, strict=True))


def test_half_precision_is_unscaled_in_float32() -> None:
    """2^-17 / 2^10 is no number of float16; torch's scaler would make it 0 on the way."""
    p = Parameter(torch.zeros(3, dtype=torch.float16))
    p.grad = torch.full((3,), 2.0**-17, dtype=torch.float16)
    optimizer = optdsl.zoo.SGD([p], lr=2.0**12)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    optimizer.step()
    assert torch.equal(p.detach(), torch.full((3,), -(2.0**-15), dtype=torch.float16))


def test_a_skipped_step_leaves_nothing_behind_even_as_the_first() -> None:
    p = Parameter(torch.ones(3))
    p.grad = torch.full((3,), float("nan"))
    optimizer = optdsl.zoo.AdamW([p])
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(3))
    assert optimizer.state_dict()["state"] == {}


def test_closures_are_refused_as_torch_refuses_them() -> None:
    p = Parameter(torch.ones(3))
    optimizer, scaler = optdsl.zoo.AdamW([p]), GradScaler("cpu")
    scaler.scale(p.sum()).backward()
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, closure=lambda: p.sum())
