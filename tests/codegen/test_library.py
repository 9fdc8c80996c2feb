"""Generated library passes against float64 evaluation of the same values, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optdsl import hostmath
from optdsl.codegen.library import Library
from optdsl.diagnostics import CompileError
from optdsl.ir.nodes import LoopBody, Value, reachable
from optdsl.schedule.plan import Domain, LibraryPass, Plan, Store, Variant
from optdsl.types import DType, Shape
from tests.codegen.native_step import scalar_rows
from tests.evaluation import Parameter, evaluate, sizes_of
from tests.plans import PLANS, Sketch, gradient, parameter, temp, type_of
from tests.rules import shipped_plans

FULL = type_of(Domain.FULL, "rows")


def function_of(plan: Plan, name: str) -> Callable[..., tuple[Tensor, ...]]:
    names: dict[str, Any] = {**vars(hostmath), "torch": torch}
    exec("\n\n".join(Library(plan).texts()), names)
    function: Callable[..., tuple[Tensor, ...]] = names[name]
    return function


def check(plan: Plan, variant: Variant, library: LibraryPass, rows: int, cols: int) -> None:
    """Three parameters in one batch, each against its own evaluation."""
    random = torch.Generator().manual_seed(5)
    sizes = sizes_of(1, rows, cols)
    row = scalar_rows(plan)(variant, sizes)
    shapes = {each.name: (each.domain, each.shape) for each in variant.buffers}
    leaves = reachable([store.value for store in library.outputs])
    inputs: dict[str, Tensor] = {}
    results: dict[str, Tensor] = {}
    for leaf in leaves:
        if leaf.op == "load":
            domain, dims = shapes[leaf.attr("buffer")]
            own = [sizes.get(str(dim), dim) for dim in dims] or [1, 1]
            value = torch.randn(3, *own, generator=random, dtype=torch.float64)
            # A squared norm, and so large that what is divided by its root has a norm below 1.
            value = (value.abs() + 10) * rows * cols if domain is Domain.TENSOR else value
            inputs[leaf.attr("buffer")] = value
        if leaf.op == "result":
            value = torch.rand(3, 1, 1, generator=random, dtype=torch.float64)
            results[leaf.attr("slot")] = (value + 10) * rows * cols
    made = function_of(plan, library.name)(inputs, row, results, sizes)
    assert len(made) == len(library.outputs)
    for i in range(3):
        buffers = {name: each[i : i + 1] for name, each in inputs.items()}
        buffers["p"] = torch.zeros(1, rows, cols)
        own_results = {slot: each[i : i + 1] for slot, each in results.items()}
        reference = Parameter(buffers, row, 0, own_results)
        for store, value in zip(library.outputs, made, strict=True):
            wanted = evaluate(store.value, reference, {})
            torch.testing.assert_close(value[i : i + 1], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("rows", "cols"), [(4, 9), (9, 4), (5, 5), (1, 6)])
@pytest.mark.parametrize("name", ["Muon", "SWAN"])
def test_shipped_rules(name: str, rows: int, cols: int) -> None:
    plan = shipped_plans()[name]()
    passes = [(v, p) for v in plan.variants for p in v.passes if isinstance(p, LibraryPass)]
    assert passes
    for variant, library in passes:
        check(plan, variant, library, rows, cols)


def test_hand_plan() -> None:
    plan = PLANS["swan"]()
    (variant,) = plan.variants
    library = next(each for each in variant.passes if isinstance(each, LibraryPass))
    check(plan, variant, library, 4, 9)


# ---------------------------------------------------------------- single values


def made(s: Sketch, *values: Value) -> Plan:
    """A plan whose only pass computes `values`."""
    outputs = tuple(Store(f"out{i}", value) for i, value in enumerate(values))
    buffers = [parameter(), gradient(), *(temp(store.buffer) for store in outputs)]
    return s.plan({"lr": 0.1, "n": 4}, buffers, [LibraryPass(0, "made", outputs)])


def run(plan: Plan, rows: int = 4, cols: int = 3) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(1)
    p = torch.randn(2, rows, cols, generator=random, dtype=torch.float64)
    row = scalar_rows(plan)(plan.variants[0], sizes_of(1, rows, cols))
    return p, *function_of(plan, "made")({"p": p}, row, {}, sizes_of(1, rows, cols))


def sketch() -> tuple[Sketch, Value]:
    s = Sketch("Made", "optimizer Made():\n    p = p\n")
    return s, s.load("p")


def test_host_operands_of_functions_become_tensors() -> None:
    s, p = sketch()
    lr = s.scalar(s.hyper("lr"), "lr")
    values = [s.make("max", p, lr), s.make("div", 1, p), s.make("where", s.make("gt", p, lr), p, 0)]
    found, largest, inverse, chosen = run(made(s, *values))
    assert torch.equal(largest, found.clamp_min(0.1))
    assert torch.equal(inverse, 1 / found)
    assert torch.equal(chosen, torch.where(found > 0.1, found, 0.0))


def test_a_long_line_gives_operands_lines_of_their_own() -> None:
    s, p = sketch()
    above, below = (s.make("max", s.make(op, p), 0.0625) for op in ("abs", "exp"))
    plan = made(s, s.make("mul", p, s.make("sqrt", s.make("div", above, below))))
    (text,) = Library(plan).texts()
    assert "    bound = torch.maximum(torch." in text
    assert max(map(len, text.splitlines())) <= 100
    q, found = run(plan)
    assert torch.equal(found, q * torch.sqrt(q.abs().clamp_min(0.0625) / q.exp().clamp_min(0.0625)))


def test_a_long_line_keeps_the_sides_of_a_host_condition() -> None:
    s, p = sketch()
    steps = s.scalar(s.hyper("n"), "n")
    side = p
    for _ in range(3):
        side = s.make("sqrt", s.make("max", side, 0.0625))
    (text,) = Library(made(s, s.make("where", s.make("gt", steps, 3), p, side))).texts()
    (line,) = [each for each in text.splitlines() if "torch.sqrt" in each]
    assert "p if gt else torch.sqrt(" in line
    assert line.count("torch.sqrt") == 3


def test_names_that_read_as_numbers_get_an_underscore() -> None:
    s = Sketch("Made", "optimizer Made():\n    p = p\n")
    (text,) = Library(made(s, s.load("l"))).texts()
    assert 'l_ = inputs["l"]' in text


def test_a_host_condition_computes_one_side() -> None:
    s, p = sketch()
    steps = s.scalar(s.hyper("n"), "n")
    plan = made(s, s.make("where", s.make("gt", steps, 3), p, s.make("neg", p)))
    text = Library(plan).texts()[0]
    assert "p if (n > 3) else" in text
    found, value = run(plan)
    assert torch.equal(value, found)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("op", ["sum", "max_of", "min_of"])
def test_reductions(op: str, axis: int | None) -> None:
    s, p = sketch()
    shape = {None: Shape(), 0: Shape((), 1, "cols"), 1: Shape((), "rows", 1)}[axis]
    kind = FULL.with_(shape=shape)
    reduced = s.library(op, p, type=kind, axis=axis, over=None, scope=())
    found, value = run(made(s, reduced))
    dims = {None: (1, 2), 0: (1,), 1: (2,)}[axis]
    function = {"sum": torch.sum, "max_of": torch.amax, "min_of": torch.amin}[op]
    assert torch.equal(value, function(found, dim=dims, keepdim=True))


def counted(s: Sketch, p: Value, count: Value, until: bool = False) -> Value:
    """x = p; for k in range(count): x = x * (k + 1) (until the sum is above 100)."""
    x = s.leaf("loop_arg", FULL, "x", loop=1, index=0)
    k = s.host("loop_arg", DType.INT, loop=1, index=-1)
    k.name = "k"
    new = s.make("mul", x, s.make("add", k, 1), name="x")
    large = None
    if until:
        scalar = FULL.with_(shape=Shape())
        total = s.library("sum", new, type=scalar, axis=None, over=None, scope=())
        large = s.make("gt", total, 100)
    body = LoopBody((x,), (new,), large, k)
    loop = s.library("loop", count, p, type=FULL, body=body)
    return s.library("loop_result", loop, type=FULL, index=0)


def test_loops_count() -> None:
    s, p = sketch()
    plan = made(s, counted(s, p, s.scalar(s.hyper("n"), "n")), p)
    found, value, same = run(plan)
    assert torch.equal(value, found * 24)
    assert torch.equal(same, found)  # the loop's variable is not p's


def test_loops_with_no_pass_give_the_start() -> None:
    s, p = sketch()
    found, value = run(made(s, counted(s, p, s.scalar(s.make("sub", s.hyper("n"), 4)))))
    assert torch.equal(value, found)


def test_invariants_leave_the_loop() -> None:
    s, p = sketch()
    x = s.leaf("loop_arg", FULL, "x", loop=1, index=0)
    double = s.make("mul", p, 2)
    new = s.make("add", x, double, name="x")
    count = s.scalar(s.hyper("n"), "n")
    loop = s.library("loop", count, p, type=FULL, body=LoopBody((x,), (new,)))
    plan = made(s, s.library("loop_result", loop, type=FULL, index=0))
    lines = Library(plan).texts()[0].splitlines()
    where = next(i for i, line in enumerate(lines) if "p * 2" in line)
    assert where < next(i for i, line in enumerate(lines) if "for _ in" in line)
    found, value = run(plan)
    torch.testing.assert_close(value, found + 4 * (found * 2))


def test_nested_loops() -> None:
    s, p = sketch()
    outer = s.leaf("loop_arg", FULL, "x", loop=1, index=0)
    inner = s.leaf("loop_arg", FULL, "y", loop=2, index=0)
    count = s.scalar(s.hyper("n"), "n")
    step = s.make("mul", inner, 2, name="y")
    deep = s.library("loop", count, outer, type=FULL, body=LoopBody((inner,), (step,)))
    result = s.library("loop_result", deep, type=FULL, index=0)
    new = s.make("sub", result, p, name="x")
    loop = s.library("loop", count, p, type=FULL, body=LoopBody((outer,), (new,)))
    found, value = run(made(s, s.library("loop_result", loop, type=FULL, index=0)))
    wanted = found
    for _ in range(4):
        wanted = wanted * 16 - found
    assert torch.equal(value, wanted)


def test_entries_of_a_queue() -> None:
    s, p = sketch()
    queue_type = FULL.with_(shape=Shape((5,), "rows", "cols"))
    zero = s.library("full", s.value(0), type=queue_type)
    k = s.scalar(s.make("sub", s.hyper("n"), 1), "k")
    queue = s.library("put_index", zero, k, p, type=queue_type)
    entry = s.library("index", queue, k, type=FULL)
    other = s.library("index", queue, s.value(0), type=FULL)
    found, value, empty, full = run(made(s, entry, other, queue))
    assert torch.equal(value, found)
    assert torch.equal(empty, torch.zeros_like(found))
    assert full.shape == (2, 5, 4, 3)


def test_named_axes_line_up() -> None:
    s, p = sketch()
    queue_type = FULL.with_(shape=Shape((5,), "rows", "cols"))
    ones = s.library("full", s.value(1), type=queue_type)
    product = s.library("mul", ones, p, type=queue_type)
    found, value = run(made(s, product))
    assert torch.equal(value, found.unsqueeze(1).expand(2, 5, 4, 3))


def test_shared_random_numbers_are_a_clear_error() -> None:
    s, _ = sketch()
    draw = s.library("randn", s.value(1), type=FULL, site=0, over="all")
    with pytest.raises(CompileError, match="`randn` is not supported yet"):
        Library(made(s, s.make("add", draw, s.load("p")))).texts()
