"""Generated Triton kernels, run (in Triton's interpreter where there is no GPU), give what the plan
means in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from optdsl.ops import OPS, Kind
from optdsl.runtime.triton.launch import CUTTING
from tests import plans
from tests.rules import marked
from tests.triton.running import CUTTING as SMALL
from tests.triton.running import Shape, run
from tests.triton.sources import HAND, RULES, ZOO, plan_of

FLAT: list[Shape] = [
    (1, 1, 1),
    (1, 15, 1),
    (1, 16, 1),
    (1, 17, 1),
    (1, 9, 7),
    (1, 1, 64),
    (1, 8, 16),
]
MATRICES: list[Shape] = [(1, 1, 1), (1, 3, 5), (1, 1, 70), (1, 70, 1), (1, 17, 16), (1, 9, 48)]
BATCHES: list[Shape] = [(3, 5, 7), (2, 1, 16), (1, 20, 3)]
MIXED: list[Shape] = [(1, 9, 7), (1, 8, 16), (1, 70, 1), (1, 1, 1)]
COLUMNS: list[Shape] = [(1, 63, 1), (1, 128, 1), (1, 70, 1), (1, 1, 1)]
SHAPES = {"adafactor": MATRICES, "swan": MATRICES, "adafactor_last": BATCHES}

TOLERANCE = {
    torch.float64: (1e-12, 1e-13),
    torch.float32: (2e-5, 2e-6),
    torch.bfloat16: (2**-8, 1e-5),
    torch.float16: (2**-11, 1e-5),
}
"""Relative and absolute: some ulps of the values, and for short storage one rounding besides."""


def check(tensors: list[dict[str, Tensor]], wanted: list[dict[str, Tensor]]) -> None:
    for own, want in zip(tensors, wanted, strict=True):
        for name, tensor in own.items():
            rtol, atol = TOLERANCE[tensor.dtype]
            torch.testing.assert_close(
                tensor.double(), want[name], rtol=rtol, atol=atol, equal_nan=True, msg=name
            )


@pytest.mark.parametrize("name", HAND)
def test_every_plan_gives_what_it_means(name: str) -> None:
    plan = plan_of(name)
    for variant in range(len(plan.variants)):
        done = run(plan, SHAPES.get(name, FLAT), variant=variant, groups=2)
        check(done.tensors, done.wanted)


@pytest.mark.parametrize("name", [*marked(ZOO), *RULES])
def test_every_rule_gives_what_its_plan_means(name: str) -> None:
    plan = plan_of(name)
    # In a flat view a parameter has one column.
    mixed = COLUMNS if plan.rule.view == "flat" else MIXED
    shapes = [*mixed, *(BATCHES if plan.rule.view == "last" else ())]
    for variant in range(len(plan.variants)):
        done = run(plan, shapes, variant=variant, groups=2)
        check(done.tensors, done.wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["adamw", "adamw_param_states", "lamb", "adafactor", "shared"])
def test_every_dtype(name: str, dtype: torch.dtype) -> None:
    shapes: list[Shape] = [(1, 9, 7), (1, 8, 16)]
    done = run(plans.PLANS[name](), shapes, dtype)
    check(done.tensors, done.wanted)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "adafactor_last"])
def test_tensors_that_do_not_lie_on_16_bytes(name: str) -> None:
    shapes: list[Shape] = [(1, 9, 7), (1, 8, 16), (1, 70, 2)]
    done = run(plans.PLANS[name](), shapes, offset=1)
    check(done.tensors, done.wanted)


def test_stores_round_to_nearest_even() -> None:
    """p is stored as the evaluation's value rounded once, wherever float32 does not decide it."""
    done = run(plans.adamw(), [(1, 40, 25)], torch.bfloat16)
    got, want = done.tensors[0]["p"], done.wanted[0]["p"]
    rounded = want.to(torch.float32).to(torch.bfloat16)
    assert (got != rounded).sum() <= 2  # of 1,000; a cut would change half of them
    lower, upper = (torch.nextafter(got, torch.tensor(s * math.inf).to(got)) for s in (-1, 1))
    assert ((rounded >= lower) & (rounded <= upper)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["lamb", "shared", "adafactor"])
def test_nan_and_inf_reach_what_they_touch(name: str, bad: float) -> None:
    def poison(tensors: list[dict[str, Tensor]]) -> None:
        tensors[0]["g"][0, 1, 2] = bad

    done = run(plans.PLANS[name](), [(1, 9, 7), (1, 8, 16)], change=poison)
    check(done.tensors, done.wanted)


@pytest.mark.parametrize("op", ["min", "max"])
def test_minimum_and_maximum_keep_nan(op: str) -> None:
    def poison(tensors: list[dict[str, Tensor]]) -> None:
        for name in ("p", "g"):
            tensors[0][name].view(-1)[:3] = torch.tensor([math.nan, math.inf, -math.inf])
        tensors[0]["g"].view(-1)[5] = math.nan

    done = run(plans.one_map(op), [(1, 3, 3)], change=poison)
    check(done.tensors, done.wanted)
    assert done.tensors[0]["p"].isnan().sum() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("op", [op.name for op in OPS.values() if op.kind is Kind.MAP])
def test_every_op_keeps_its_error_bound(op: str, dtype: torch.dtype) -> None:
    """One application to ordinary numbers, against float64 (float64 itself: half an ulp more, since
    the reference is rounded, too). What cancels is measured in ulps of the largest operand."""
    before: list[Tensor] = []

    def positive(tensors: list[dict[str, Tensor]]) -> None:
        if op in ("pow", "log", "sqrt"):
            tensors[0]["p"].abs_()
        before.extend(tensors[0][name].clone() for name in ("p", "g", "m"))

    done = run(plans.one_map(op), [(1, 40, 25)], dtype, change=positive)
    got, want = done.tensors[0]["p"], done.wanted[0]["p"]
    size = want.to(dtype).abs()
    if op in ("fma", "lerp", "mod"):
        size = torch.stack([size, *(each.abs() for each in before)]).amax(0)
    step = torch.nextafter(size, torch.tensor(math.inf).to(dtype)) - size
    error = (got.double() - want).abs() / step.double()
    bound = OPS[op].error + (0.5 if dtype is torch.float64 else 0.0)
    assert error.max() <= max(bound, 0.501)


def test_the_same_bits_on_every_run() -> None:
    runs = [run(plans.adafactor(), MATRICES) for _ in range(2)]
    for first, second in zip(runs[0].tensors, runs[1].tensors, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("adafactor", (1, 2, 50_257)),
        ("adafactor", (1, 1_000_000, 1)),
        ("adafactor", (1, 3000, 3)),
        ("swan", (1, 2, 50_257)),
    ],
    ids=str,
)
def test_wide_rows_and_long_columns(name: str, shape: Shape) -> None:
    """In the tasks that the target really cuts."""
    done = run(plan_of(name), [shape], cutting=CUTTING)
    check(done.tensors, done.wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", [*HAND, *ZOO, *RULES])
def test_on_the_device(name: str, dtype: torch.dtype) -> None:
    plan = plan_of(name)
    shapes: list[Shape] = [*MIXED, (1, 300, 257), (1, 64, 512), (1, 5000, 1), (1, 3, 5000)]
    for variant in range(len(plan.variants)):
        for cutting in (SMALL, CUTTING):
            options = {"variant": variant, "groups": 2, "device": "cuda", "cutting": cutting}
            done = run(plan, shapes, dtype, **options)
            check(done.tensors, done.wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_the_same_bits_on_every_run_of_the_device(name: str) -> None:
    shapes: list[Shape] = [(1, 300, 257), (1, 64, 512)]
    runs = [run(plan_of(name), shapes, device="cuda", cutting=CUTTING) for _ in range(2)]
    for first, second in zip(runs[0].tensors, runs[1].tensors, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)
