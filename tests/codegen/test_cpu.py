"""Generated C against float64 evaluation of the same values."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from optdsl.ops import OPS, Kind
from optdsl.schedule.plan import Domain, Phase, Plan, Store, Variant
from optdsl.types import DType, Storage
from tests.codegen.native_step import NativeStep, scalar_rows, storage_dtype
from tests.evaluation import Parameter, run_step, sizes_of
from tests.plans import PLANS, Sketch, gradient, kernel, one_map, parameter
from tests.rules import marked, shipped_plans

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = [(1, 1), (3, 5), (7, 17), (33, 1), (1, 33), (16, 64), (5, 2050)]
BATCHES = [(1, 4, 9), (3, 5, 7), (4, 1, 16), (2, 9, 1)]


def parameters(
    plan: Plan, variant: Variant, shapes: list[tuple[int, int, int]], dtype: torch.dtype
) -> list[Parameter]:
    """Parameters whose numbers their storage holds exactly; two groups where there are three."""
    random = torch.Generator().manual_seed(7)
    row = scalar_rows(plan)
    shared: dict[tuple[str, int], Tensor] = {}
    made = []
    for index, (batch, rows, cols) in enumerate(shapes):
        sizes = sizes_of(batch, rows, cols)
        group = int(index >= 2)
        buffers = {}
        for each in variant.buffers:
            shape: tuple[int, ...] = {
                Domain.FULL: (batch, rows, cols),
                Domain.ROW: (batch, rows, 1),
                Domain.COL: (batch, 1, cols),
                Domain.MATRIX: (batch, 1, 1),
            }.get(each.domain, (1, 1, 1))
            if each.domain is Domain.SHAPED:
                shape = (1, *(sizes.get(str(dim), dim) for dim in each.shape))
            value = torch.randn(shape, generator=random, dtype=torch.float64)
            if each.name == "mean_g":
                value *= 0.05  # a mean, whose square is less than the mean of squares
            elif each.name not in ("p", "g", "m"):
                value = value.abs() + 0.1  # second moments
            stored = storage_dtype(plan, each.storage, each.domain, dtype)
            value = value.to(stored).double()
            if each.domain in (Domain.GROUP, Domain.ALL):
                key = each.name, group if each.domain is Domain.GROUP else -1
                value = shared.setdefault(key, value)
            buffers[each.name] = value
        made.append(Parameter(buffers, row(variant, sizes), group, {}))
    return made


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of numbers of `dtype` around `value`."""
    info = torch.finfo(dtype)
    power = torch.exp2(torch.floor(torch.log2(value.abs().clamp_min(info.tiny))))
    return power * info.eps


def check(plan: Plan, shapes: list[tuple[int, int, int]], dtype: torch.dtype, **cut: int) -> None:
    for variant in plan.variants:
        wanted = parameters(plan, variant, shapes, dtype)
        given = parameters(plan, variant, shapes, dtype)
        step = NativeStep(plan, variant, dtype, **cut)
        shared: dict[int, dict[str, Tensor]] = {}
        memory = [step.stored(each) for each in given]
        for own, member in zip(memory, given, strict=True):
            for each in variant.buffers:
                if each.domain in (Domain.GROUP, Domain.ALL):
                    group = member.group if each.domain is Domain.GROUP else -1
                    own[each.name] = shared.setdefault(group, {}).setdefault(
                        each.name, own[each.name]
                    )
        run_step(plan, variant, wanted)
        step.run(given, memory, wanted)
        for member, own in zip(wanted, memory, strict=True):
            for name, reference in member.buffers.items():
                compare(name, own[name], reference)


def compare(name: str, found: Tensor, wanted: Tensor) -> None:
    """Half an ulp of the storage, for its one rounding, and the error of computing: 2^-18 of the
    largest number in float32 (64 float32 ulps: sums of 256 in 8 lanes, then some operations)."""
    computed = 1e-11 if found.dtype == torch.float64 else 2.0**-18
    bound = 0.5 * ulp(wanted, found.dtype) + computed * wanted.abs().max()
    error = (found.double() - wanted).abs()
    assert found.isfinite().all(), name
    assert bool((error <= bound).all()), f"{name}: {(error / bound).max():.2f} of what is allowed"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_plans(name: str, dtype: torch.dtype) -> None:
    plan = PLANS[name]()
    shapes = [(1, *each) for each in SHAPES]
    if plan.rule.view == "last":
        shapes += BATCHES
    check(plan, shapes, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", marked(sorted(shipped_plans())))
def test_shipped_rules(name: str, dtype: torch.dtype) -> None:
    plan = shipped_plans()[name]()
    # One element has no standard deviation: SGDSaI decides that on the host.
    shapes = [(1, *each) for each in SHAPES if each != (1, 1)]
    check(plan, shapes + (BATCHES if plan.rule.view == "last" else []), dtype)


@pytest.mark.parametrize("name", ["adamw", "clipped_adamw", "shared"])
def test_sizes_around_lanes_and_blocks(name: str) -> None:
    sizes = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257]
    sizes += [767, 768, 769, 1023, 1024, 1025, 4100]
    check(PLANS[name](), [(1, n, 1) for n in sizes], torch.float32, flat=16384)


@pytest.mark.parametrize("cols", [1, 3, 8, 15, 16, 17, 255, 256, 257, 4097])
@pytest.mark.parametrize("name", ["adafactor", "adafactor_last", "swan"])
def test_rows_around_lanes_and_blocks(name: str, cols: int) -> None:
    check(PLANS[name](), [(1, rows, cols) for rows in (1, 2, 7)], torch.float32, rows=4)


def test_pieces_do_not_change_flat_results() -> None:
    """Without reductions every cut gives the same bits; a tail is computed as the body is."""
    plan = PLANS["adamw"]()
    (variant,) = plan.variants
    outcomes = []
    for flat in (1000, 1003, 37, 1):
        given = parameters(plan, variant, [(1, 1000, 1)], torch.float32)
        step = NativeStep(plan, variant, torch.float32, flat=flat)
        memory = [step.stored(each) for each in given]
        step.run(given, memory)
        outcomes.append(memory[0]["p"])
    assert all(torch.equal(outcomes[0], each) for each in outcomes)


MAPS = [name for name, op in OPS.items() if op.kind is Kind.MAP]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 3.0, 1e30, -1e-30, float("inf"), -float("inf")]
SPECIAL += [float("nan"), 2.0**-140, 7.0, -3.0]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("op", MAPS)
def test_every_operation(op: str, dtype: torch.dtype) -> None:
    """Within the op table's error bound of the exact result, special values included."""
    plan = one_map(op)
    (variant,) = plan.variants
    operands = list(itertools.product(SPECIAL, repeat=min(OPS[op].arity, 2)))
    random = torch.randn(3, 500, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    columns = [torch.tensor(list(column)) for column in zip(*operands, strict=True)]
    columns += [columns[0].flip(0)] * (3 - len(columns))
    inputs = [
        torch.cat([columns[i].double(), 3 * random[i]]).to(dtype).double().reshape(1, -1, 1)
        for i in range(3)
    ]
    buffers = dict(zip(("p", "g", "m"), inputs, strict=True))
    step = NativeStep(plan, variant, dtype)
    parameter = Parameter({name: each.clone() for name, each in buffers.items()}, [], 0, {})
    memory = [step.stored(parameter)]
    step.run([parameter], memory)
    found = memory[0]["p"].double()
    # float64 has no wider oracle here: there the bound is that of a library of the same quality.
    wanted = Parameter({name: each.clone() for name, each in buffers.items()}, [], 0, {})
    run_step(plan, variant, [wanted])
    expected = wanted.buffers["p"]
    rounded = expected.to(dtype).double()
    allowed = (OPS[op].error + (1.0 if dtype == torch.float64 else 0.01)) * ulp(rounded, dtype)
    if op in ("lerp", "fma", "mod"):  # cancellation: the bound is of the operands' size
        allowed = allowed + 4 * ulp(sum(each.abs() for each in inputs), dtype)
    same = (found == rounded) | (found.isnan() & expected.isnan())
    close = (found - expected).abs() <= allowed
    wrong = ~(same | close)
    assert not wrong.any(), [
        (*(each.flatten()[i].item() for each in inputs), found.flatten()[i], expected.flatten()[i])
        for i in wrong.flatten().nonzero().flatten()[:4].tolist()
    ]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 40, 2049])
def test_nan_reaches_every_reduction(n: int) -> None:
    """At each place in turn: lanes, tails and blocks must not lose it."""
    plan = PLANS["shared"]()
    variant = plan.variants[0]
    step = NativeStep(plan, variant, torch.float32, flat=2050)
    for place in {*range(0, n, max(1, n // 40)), n - 1}:
        given = parameters(plan, variant, [(1, n, 1)], torch.float32)
        given[0].buffers["g"][0, place] = float("nan")
        given[0].buffers["p"][0, place] = float("nan")
        memory = [step.stored(each) for each in given]
        step.run(given, memory)
        assert memory[0]["seen"].isnan().all(), place  # max_of
        assert memory[0]["longest"].isnan().all(), place  # sum, then max
        assert memory[0]["best"].isnan().all(), place  # min_of


def stored_as(storage: Storage, values: Tensor) -> Tensor:
    """`values` of a FULL state after a pass that leaves it as it computes it: m + 0 * (g - m)."""
    plan = PLANS[{Storage.BF16: "adamw_bf16_states", Storage.FP16: "adamw_fp16_states"}[storage]]()
    (variant,) = plan.variants
    n = values.numel()
    zero = torch.zeros(1, n, 1, dtype=torch.float64)
    buffers = {"p": zero, "g": values.reshape(1, n, 1).double(), "m": zero, "v": zero + 1}
    scalars = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]  # m = 0 + 1 * (g - 0)
    parameter = Parameter(buffers, scalars, 0, {})
    step = NativeStep(plan, variant, values.dtype)
    memory = [step.stored(parameter)]
    step.run([parameter], memory)
    return memory[0]["m"].flatten()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("storage", [Storage.BF16, Storage.FP16])
def test_stores_round_once_to_nearest_even(storage: Storage, dtype: torch.dtype) -> None:
    """All narrow numbers, the ties between them, and their neighbours in the wide type."""
    narrow = {Storage.BF16: torch.bfloat16, Storage.FP16: torch.float16}[storage]
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(narrow)
    finite = every[every.isfinite()].double()
    ordered = torch.sort(finite).values
    ties = (ordered[1:] + ordered[:-1]) / 2
    centre = torch.cat([ordered, ties]).to(dtype)
    info = torch.tensor(float("inf"), dtype=dtype)
    wide = torch.cat([centre, torch.nextafter(centre, info), torch.nextafter(centre, -info)])
    special = torch.tensor([float("inf"), -float("inf"), 65519.9, 65520.0, -65520.0, 3.4e38, 1e-46])
    wide = torch.cat([wide, special.to(dtype)])
    found = stored_as(storage, wide)
    assert torch.equal(found.double(), exactly_rounded(wide.double(), ordered, narrow))
    assert stored_as(storage, torch.full((9,), float("nan"), dtype=dtype)).isnan().all()


def exactly_rounded(values: Tensor, grid: Tensor, narrow: torch.dtype) -> Tensor:
    """The nearest of `grid` (all finite numbers of `narrow`, ascending), ties to an even last bit;
    Inf from half a step beyond the largest on."""
    grid = torch.unique(grid)
    above = torch.searchsorted(grid, values).clamp(1, len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    to_low, to_high = values - low, high - values
    even_low = (low.to(narrow).view(torch.int16) & 1) == 0
    result = torch.where((to_low < to_high) | ((to_low == to_high) & even_low), low, high)
    top = grid[-1] + (grid[-1] - grid[-2]) / 2
    return torch.where(values.abs() >= top, values.sign() * float("inf"), result)


def test_loads_widen_exactly() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        plan = one_map("abs")
        (variant,) = plan.variants
        step = NativeStep(plan, variant, dtype)
        memory = [{name: every.clone() for name in ("p", "g")} | {"m": torch.zeros(2**16)}]
        shape = torch.zeros(1, 2**16, 1)
        step.run([Parameter({"p": shape}, [], 0, {})], memory)
        finite = ~every.isnan()
        assert torch.equal(memory[0]["p"][finite], every[finite].abs())
        assert memory[0]["p"][~finite].isnan().all()


def test_whole_numbers_are_divided_as_reals() -> None:
    """`where(g > 0, 1, 2) / 3`: in C both are ints, whose quotient would be 0."""
    s = Sketch("Whole", "optimizer Whole():\n    p = where(g > 0, 1, 2) / 3\n")
    chosen = s.make("where", s.make("gt", s.load("g"), 0), 1, 2)
    integral = chosen.type.with_(dtype=DType.INT)
    chosen = s.builder.make("where", chosen.args, integral, s.span)
    value = s.make("div", chosen, 3)
    buffers = [parameter(), gradient()]
    check(
        s.plan({}, buffers, [kernel(0, "whole_0", Phase(stores=(Store("p", value),)))]),
        [(1, 40, 1)],
        torch.float32,
    )
