"""Bounds hold what float32 arithmetic does, and hold it closely."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from optdsl.interpreter.evaluate import torch_function
from optdsl.ops import OPS, Kind, Result
from optdsl.verify.bounds import Near, elementwise
from optdsl.verify.formats import FORMATS, distance, rounding, ulp

COUNT = 20_000


def random(seed: int, *, positive: bool = False) -> Tensor:
    """Float32 numbers of all sizes from 1e-4 to 1e4, as float64."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(COUNT, generator=generator, dtype=torch.float64)
    values *= 10.0 ** (8 * torch.rand(COUNT, generator=generator, dtype=torch.float64) - 4)
    return (values.abs() if positive else values).float().double()


def exact(values: Tensor) -> Near:
    return Near(values, torch.zeros_like(values))


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("dtype", "numpy"), [(torch.float32, np.float32), (torch.float64, np.float64),
                         (torch.float16, np.float16)]
)  # fmt: skip
def test_ulp_is_the_distance_to_the_next_number(dtype: torch.dtype, numpy: type) -> None:
    bits, smallest = FORMATS[dtype]
    sizes = [1.0, 1.5, 0.75, 3.0, 1000.0, 1e-3, 2.0**smallest, 2.0 ** (smallest - 1), 0.0]
    values = torch.tensor(sizes, dtype=torch.float64)
    expected = [float(np.spacing(numpy(size))) for size in sizes]
    assert ulp(values, dtype).tolist() == expected == ulp(-values, dtype).tolist()
    assert ulp(torch.tensor([1.0], dtype=torch.float64), dtype).item() == 2.0 ** (1 - bits)


def test_ulp_of_bfloat16() -> None:
    values = torch.tensor([1.0, 1.9, 2.0, 255.0, 256.0], dtype=torch.float64)
    assert ulp(values, torch.bfloat16).tolist() == [2**-7, 2**-7, 2**-6, 1.0, 2.0]


def test_ulp_where_the_format_ends() -> None:
    values = torch.tensor([65_504.0, 65_536.0, torch.inf, torch.nan], dtype=torch.float64)
    assert ulp(values, torch.float16).tolist() == [32.0, torch.inf, torch.inf, torch.inf]


@pytest.mark.parametrize("dtype", FORMATS)
def test_storing_stays_within_its_rounding(dtype: torch.dtype) -> None:
    values = random(0) if dtype is not torch.float16 else random(0).clamp(-6e4, 6e4)
    apart = (values.to(dtype).double() - values).abs()
    limit = rounding(values, torch.zeros_like(values), dtype)
    assert bool((apart <= limit).all())
    if dtype in (torch.bfloat16, torch.float16):
        assert float((apart / limit).max()) > 0.99


def test_distance() -> None:
    a = torch.tensor([1.0, torch.nan, torch.nan, torch.inf, torch.inf, 2.0])
    b = torch.tensor([3.0, torch.nan, 1.0, torch.inf, -torch.inf, torch.nan])
    assert distance(a, b).tolist() == [2.0, 0.0, torch.inf, 0.0, torch.inf, torch.inf]
    assert distance(torch.tensor([True, True]), torch.tensor([True, False])).tolist() == [0, 1]


# ---------------------------------------------------------------- one operation

REAL = [
    op.name
    for op in OPS.values()
    if op.kind is Kind.MAP and op.result is not Result.BOOL and op.name != "where"
]
POSITIVE = {"sqrt", "log", "pow"}


def operands(op: str, seed: int) -> list[Tensor]:
    drawn = [random(seed + k, positive=op in POSITIVE) for k in range(OPS[op].arity)]
    if op in ("exp", "sin", "cos"):
        drawn[0] = drawn[0].clamp(-80, 80)
    if op == "pow":
        drawn = [drawn[0].clamp(0.1, 10).float().double(), drawn[1].clamp(-30, 30)]
    if op == "lerp":
        drawn[2] = torch.rand(COUNT, dtype=torch.float64).float().double()
    return drawn


@pytest.mark.parametrize("op", REAL)
def test_exact_operands(op: str) -> None:
    values = operands(op, 1)
    near = elementwise(op, [exact(each) for each in values])
    function = torch_function(op)
    computed = function(*(each.float() for each in values), rows=0, cols=0).double()
    apart = distance(computed, near.value)
    beyond = apart > near.error
    assert not bool(beyond.any()), f"{int(beyond.sum())} of {COUNT} beyond"
    if OPS[op].error in (0.5, 1.5) and op != "fma":
        assert float((apart / near.error).nan_to_num().max()) > 0.5, "a bound that holds anything"


@pytest.mark.parametrize("op", REAL)
def test_operands_that_are_off(op: str) -> None:
    """Moved anywhere within their errors, the operands give something within the bound."""
    values = operands(op, 2)
    errors = [1e-5 * each.abs() for each in values]
    near = elementwise(op, [Near(v, e) for v, e in zip(values, errors, strict=True)])
    function = torch_function(op)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        moved = []
        for value, error in zip(values, errors, strict=True):
            part = 2 * torch.rand(COUNT, generator=generator, dtype=torch.float64) - 1
            moved.append((value + part * error).float())
        inside = [
            (m.double() - v).abs() <= e for m, v, e in zip(moved, values, errors, strict=True)
        ]
        computed = function(*moved, rows=0, cols=0).double()
        beyond = (distance(computed, near.value) > near.error) & torch.stack(inside).all(0)
        assert not bool(beyond.any()), f"{int(beyond.sum())} of {COUNT} beyond"


def test_a_cancelling_lerp_is_bounded_by_its_parts() -> None:
    """x + w (y - x) near 0: the rounding of y - x is larger than 1.5 ulps of what is left."""
    x = random(3)
    w = torch.rand(COUNT, dtype=torch.float64).clamp(0.1, 0.9).float().double()
    y = (x * (1 - 1 / w)).float().double()
    near = elementwise("lerp", [exact(x), exact(y), exact(w)])
    computed = torch_function("lerp")(x.float(), y.float(), w.float(), rows=0, cols=0).double()
    apart = (computed - near.value).abs()
    assert bool((apart <= near.error).all())
    assert bool((apart > 1.5 * ulp(near.value, torch.float32)).any())


def test_exact_zeros_stay_exact() -> None:
    zero, one = (exact(torch.tensor([each], dtype=torch.float64)) for each in (0.0, 1.0))
    assert elementwise("mul", [zero, one]).error.item() == 0
    assert elementwise("sub", [one, one]).error.item() == 0
    assert elementwise("sign", [elementwise("mul", [zero, one])]).error.item() == 0
    assert elementwise("add", [one, one]).error.item() > 0


def test_a_divisor_that_may_be_zero_has_no_bound() -> None:
    one = exact(torch.ones(3, dtype=torch.float64))
    divisor = Near(
        torch.tensor([1.0, 1e-9, 0.0]).double(), torch.tensor([1e-8, 1e-8, 0.0]).double()
    )
    near = elementwise("div", [one, divisor])
    assert near.error.isinf().tolist() == [False, True, False]
    assert (near.value[2].item(), near.error[2].item()) == (torch.inf, 0), "it is zero for sure"


def test_what_is_not_finite_is_so_for_sure() -> None:
    x = exact(torch.tensor([torch.nan, torch.inf, -torch.inf, 2.0], dtype=torch.float64))
    near = elementwise("mul", [x, exact(torch.tensor([3.0], dtype=torch.float64))])
    assert near.error[:3].tolist() == [0, 0, 0] and 0 < near.error[3].item() < 1e-6
    lost = elementwise("sub", [x, Near(x.value, torch.tensor([0.0, torch.inf, 0.0, 0.0]))])
    assert lost.error.isinf().tolist() == [False, True, False, False]


# ---------------------------------------------------------------- conditions


def test_comparisons_near_a_tie_are_undecided() -> None:
    a = Near(torch.tensor([1.0, 1.0, 1.0]).double(), torch.full((3,), 0.1).double())
    b = exact(torch.tensor([2.0, 1.05, 1.0]).double())
    near = elementwise("lt", [a, b])
    assert near.value.tolist() == [True, True, False]
    assert near.error.tolist() == [0, 1, 1]
    both = elementwise("and", [near, exact(torch.tensor([True, True, False]))])
    assert both.error.tolist() == [0, 1, 0]
    assert elementwise("not", [near]).error.tolist() == [0, 1, 1]


def test_what_an_undecided_condition_selects_is_bounded_by_both() -> None:
    condition = Near(torch.tensor([True, True]), torch.tensor([0.0, 1.0]).double())
    then, otherwise = (
        Near(torch.full((2,), v).double(), torch.full((2,), e).double())
        for v, e in ((5.0, 0.5), (1.0, 0.25))
    )
    near = elementwise("where", [condition, then, otherwise])
    assert near.value.tolist() == [5.0, 5.0]
    assert near.error.tolist() == [0.5, 4.25]


def test_a_sign_near_zero_may_be_any() -> None:
    x = Near(torch.tensor([1e-3, 1e-9]).double(), torch.full((2,), 1e-8).double())
    assert elementwise("sign", [x]).error.tolist() == [0, 2]
    assert elementwise("floor", [x]).error.tolist() == [0, 1]


def test_every_elementwise_op_was_tried() -> None:
    names = {op.name for op in OPS.values() if op.kind is Kind.MAP}
    conditions = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "isfinite", "where"}
    assert names == set(REAL) | conditions


@pytest.mark.parametrize("op", ["lt", "le", "gt", "ge", "eq", "ne"])
@pytest.mark.parametrize("apart", [0.0, 1e-3])
def test_comparisons_of_exact_numbers_are_decided(op: str, apart: float) -> None:
    x, y = random(5), random(5) + apart
    near = elementwise(op, [exact(x), exact(y)])
    assert near.error.max().item() == 0
    assert near.value.tolist() == torch_function(op)(x, y, rows=0, cols=0).tolist()
