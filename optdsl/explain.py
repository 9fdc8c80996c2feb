"""What a step costs: passes over memory, bytes, flops, launches, and why it needs them.

Input: a plan. Output: a `Report`, its text, its data for JSON. Relies on: the op table for flops,
the plan for what is loaded, written and reduced.

Bytes and flops are per element of a parameter, float32 throughout unless a state says otherwise.
Numbers per row, column or parameter are not counted (one of 1,000 columns is 0.1 %). What matrix
work reads and writes of tensors is counted, and its flops, for a matrix of a given shape; the
traffic inside it depends on the library. So are the copies of states that a step cannot load and
save task by task: they are decoded before it and encoded behind it.
Does not do: measure anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optdsl.copied import copied_states, values_of
from optdsl.dumps import condition_text
from optdsl.hosteval import Facts, host_number
from optdsl.ir.nodes import LoopBody, Rule, Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.schedule.plan import (
    Buffer,
    Decision,
    Domain,
    KernelPass,
    LibraryPass,
    Pass,
    Plan,
    Reduction,
    Variant,
    domain_of,
)
from optdsl.source import Source
from optdsl.types import STORAGE_BYTES, Dim, Storage

SHAPE = (1024, 1024)
"""The matrix whose flops are counted, where they depend on the shape."""


@dataclass(frozen=True)
class Moved:
    """A buffer that a pass reads or writes; bytes per parameter, 0 where it is smaller than p."""

    name: str
    bytes: float


@dataclass(frozen=True)
class PassReport:
    """`kind` is kernel, library or packing (of copies). `over` is what a kernel visits ("elements"
    of p: a pass over memory); `waits` says for which reductions, each with its place, it could not
    be part of an earlier pass."""

    name: str
    kind: str
    over: str
    lines: str
    reads: tuple[Moved, ...]
    writes: tuple[Moved, ...]
    reduces: tuple[str, ...]
    waits: tuple[str, ...]
    again: tuple[str, ...]
    flops: float

    @property
    def bytes(self) -> float:
        return round(sum(each.bytes for each in (*self.reads, *self.writes)), 3)


@dataclass(frozen=True)
class VariantReport:
    """One straight-line variant. `condition` says when it runs; empty where there is no other."""

    condition: str
    passes: tuple[PassReport, ...]
    launches: int
    state_bytes: float

    @property
    def copied(self) -> tuple[str, ...]:
        """States that are decoded before the step."""
        packing = [each for each in self.passes if each.kind == "packing"]
        return tuple(moved.name for each in packing[:1] for moved in each.reads)

    @property
    def over_memory(self) -> int:
        """Passes over all elements."""
        return sum(each.kind == "kernel" and each.over == "elements" for each in self.passes)

    @property
    def bytes(self) -> float:
        return sum(each.bytes for each in self.passes)

    @property
    def flops(self) -> float:
        return round(sum(each.flops for each in self.passes), 3)


@dataclass(frozen=True)
class Report:
    """`variants`: first the one that runs in a steady state, with default hyperparameters. `told`
    is that one in a module that stands alone, whose optimizer is told its storage when it is made,
    where it differs."""

    rule: str
    file: str
    shape: tuple[int, int]
    variants: tuple[VariantReport, ...]
    told: VariantReport | None = None

    @property
    def steady(self) -> VariantReport:
        return self.variants[0]

    def to_json(self) -> dict[str, Any]:
        """Plain data: the steady variant's totals, then every variant with its passes."""
        return {
            "rule": self.rule,
            **_totals(self.steady),
            "shape": list(self.shape),
            **({} if self.told is None else {"told": _told(self.told)}),
            "variants": [
                {"condition": each.condition, **_totals(each), "detail": _detail(each)}
                for each in self.variants
            ],
        }


def _totals(variant: VariantReport) -> dict[str, Any]:
    return {
        "passes": variant.over_memory,
        "bytes_per_param": variant.bytes,
        "state_bytes_per_param": variant.state_bytes,
        "flops_per_param": variant.flops,
        "launches": variant.launches,
    }


def _told(variant: VariantReport) -> dict[str, Any]:
    return {**_totals(variant), "copied": list(variant.copied)}


def _detail(variant: VariantReport) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "kind": each.kind,
            "over": each.over,
            "lines": each.lines,
            "reads": {moved.name: moved.bytes for moved in each.reads},
            "writes": {moved.name: moved.bytes for moved in each.writes},
            "reduces": list(each.reduces),
            "waits_for": list(each.waits),
            "computed_again": list(each.again),
            "bytes_per_param": each.bytes,
            "flops_per_param": each.flops,
        }
        for each in variant.passes
    ]


def explain_plan(plan: Plan, shape: tuple[int, int] = SHAPE, told: Plan | None = None) -> Report:
    """The report of `plan`; flops of matrix work are those of a matrix of `shape`. `told` is the
    plan of the rule in a module that stands alone, whose optimizer is told the same storage."""
    facts = Facts.steady(plan.rule, shape)
    usual = _decided(plan.decision, facts)
    order = sorted(plan.variants, key=lambda variant: variant.index != usual)
    variants = tuple(_Variant(plan, each, facts).report() for each in order)
    other = None if told is None else explain_plan(told, shape).steady
    if other is not None and other.bytes == variants[0].bytes:
        other = None
    return Report(plan.rule.name, _file(plan.rule.source), shape, variants, other)


def _decided(decision: Decision | int, facts: Facts) -> int:
    while not isinstance(decision, int):
        holds = host_number(decision.condition, facts)
        decision = decision.then if holds else decision.otherwise
    return decision


# ---------------------------------------------------------------- one variant

OVER = {
    Domain.FULL: ("elements", "element"),
    Domain.ROW: ("rows", "row"),
    Domain.COL: ("columns", "column"),
    Domain.MATRIX: ("matrices", "matrix"),
    Domain.TENSOR: ("parameters", "parameter"),
    Domain.GROUP: ("groups", "group"),
    Domain.ALL: ("the run", "run"),
}
"""What a pass visits, and what a reduction has one result of."""


@dataclass
class _Variant:
    plan: Plan
    variant: Variant
    facts: Facts

    def report(self) -> VariantReport:
        passes = []
        seen: set[str] = set()
        for each in self.variant.passes:
            passes.append(self._pass(each, seen))
            seen |= self._named(each)
        condition = condition_text(self.variant.path)
        found = tuple(self._packing(passes))
        return VariantReport(condition, found, self._launches(), self._state_bytes())

    @cached_property
    def copied(self) -> frozenset[str]:
        """The states that a step works on in copies, in float32."""
        return copied_states(self.variant)

    def _packing(self, passes: list[PassReport]) -> Iterator[PassReport]:
        """`passes`, between those that decode and encode what is copied."""
        names = [each.name for each in self.variant.buffers if each.name in self.copied]
        written = {moved.name for each in passes for moved in each.writes}
        kept = {name: Moved(name, STORAGE_BYTES[self._buffer(name).storage]) for name in names}
        copies = {name: Moved(name, STORAGE_BYTES[Storage.COMPUTE]) for name in names}
        saved = [name for name in names if name in written]
        if names:
            yield _packing("decode", kept.values(), copies.values())
        yield from passes
        if saved:
            yield _packing("encode", [copies[n] for n in saved], [kept[n] for n in saved])

    @property
    def rule(self) -> Rule:
        return self.plan.rule

    def _buffer(self, name: str) -> Buffer:
        return next(each for each in self.variant.buffers if each.name == name)

    def _moved(self, names: Iterable[str]) -> tuple[Moved, ...]:
        buffers = [self._buffer(name) for name in dict.fromkeys(names)]
        return tuple(Moved(b.text, self._bytes(b.domain, b.shape, self._found(b))) for b in buffers)

    def _found(self, buffer: Buffer) -> Storage:
        """As what passes find a buffer."""
        return Storage.COMPUTE if buffer.name in self.copied else buffer.storage

    def _bytes(self, domain: Domain, dims: Iterable[Dim], storage: Storage) -> float:
        """Per element of p; nothing for what is smaller than a row of it."""
        if domain is Domain.FULL:
            return STORAGE_BYTES[storage]
        if domain is not Domain.SHAPED:
            return 0.0
        rows, cols = self.facts.shape
        return STORAGE_BYTES[storage] * self._size(dims) / (rows * cols)

    def _state_bytes(self) -> float:
        """Of all states that a parameter of this variant has, read in it or not."""
        known = dict(self.variant.path)
        return sum(
            self._bytes(domain_of(state.type, self.rule.view), state.type.shape.dims, state.storage)
            for state in self.rule.states
            if all(bool(host_number(c, self.facts, known)) is side for c, side in state.scope)
        )

    def _launches(self) -> int:
        """Kernels of one class of parameters on a GPU; a stage's sums are finished by one launch,
        those of columns by another, those over parameters by one more. Matrix work comes on top."""
        kernels = [each for each in self.variant.passes if isinstance(each, KernelPass)]
        reductions = {(each.stage, r.domain) for each in kernels for r in each.reductions}
        finished = {(stage, domain is Domain.COL) for stage, domain in reductions}
        shared = {s for s, domain in reductions if domain in (Domain.GROUP, Domain.ALL)}
        return len(kernels) + len(finished) + len(shared)

    def _pass(self, each: Pass, seen: set[str]) -> PassReport:
        values = values_of(each)
        loads = [value.attr("buffer") for value in values if value.op == "load"]
        if isinstance(each, LibraryPass):
            stores = [store.buffer for store in each.outputs]
            kind, over, reduces = "library", "matrices", tuple[str, ...]()
            flops = self._library_flops(each)
        else:
            stores = [store.buffer for store in each.stores]
            kind, over = "kernel", OVER[each.domain][0]
            reduces = tuple(self._reduction(r) for p in each.phases for r in (*p.rows, *p.partials))
            flops = self._kernel_flops(each)
        return PassReport(
            each.name,
            kind,
            over,
            self._lines(values),
            self._moved(loads),
            self._moved(stores),
            reduces,
            self._waits(values),
            tuple(sorted(self._named(each) & seen)) if over == "elements" else (),
            flops,
        )

    def _reduction(self, reduction: Reduction) -> str:
        what = OVER[reduction.domain][1]
        return f"{reduction.op.removesuffix('_of')} of each {what}".replace("each run", "the run")

    def _waits(self, values: list[Value]) -> tuple[str, ...]:
        """The reductions of earlier passes that this one reads, as the rule writes them."""
        found = [value for value in values if value.op == "result"]
        return tuple(dict.fromkeys(f"{self._written(value)}" for value in found))

    def _written(self, value: Value) -> str:
        if value.span is None:
            return str(value.attr("slot"))
        text = " ".join(value.span.text.split())
        return f"{text} ({_file(value.span.source)}:{value.span.line})"

    def _named(self, each: Pass) -> set[str]:
        """What a pass computes of p's size, under the rule's names."""
        return {
            value.name
            for value in values_of(each)
            if value.args and value.name and self._domain(value) is Domain.FULL
        }

    def _domain(self, value: Value) -> Domain:
        return domain_of(value.type, self.rule.view)

    def _lines(self, values: list[Value]) -> str:
        """The lines that a pass computes something of: "6-9, 12", in other files "adam.opt:6"."""
        found: dict[str, set[int]] = {}
        for value in values:
            if value.args and value.span is not None:
                source = value.span.source
                file = "" if source == self.rule.source else f"{_file(source)}:"
                found.setdefault(file, set()).add(value.span.line)
        return ", ".join(f"{file}{_runs(lines)}" for file, lines in sorted(found.items()))

    # ------------------------------------------------------------ flops

    def _kernel_flops(self, each: KernelPass) -> float:
        """Per element of p: what is computed for each, and one addition for each reduction."""
        if each.domain is not Domain.FULL:
            return 0.0
        full = [v for v in values_of(each) if v.args and self._domain(v) is Domain.FULL]
        flops = sum(OPS[value.op].flops for value in full)
        for phase in each.phases:
            for reduction in (*phase.rows, *phase.partials):
                if self._domain(reduction.value) is Domain.FULL:
                    flops += OPS[reduction.op].flops
        return float(flops)

    def _library_flops(self, each: LibraryPass) -> float:
        roots = [store.value for store in each.outputs]
        rows, cols = self.facts.shape
        return self._work(roots, set()) / (rows * cols)

    def _work(self, roots: list[Value], done: set[Value]) -> float:
        """Flops of one matrix, for all under `roots` that is not in `done`."""
        total = 0.0
        for value in reachable(roots, into_loops=False):
            if value in done:
                continue
            done.add(value)
            if value.op == "loop":
                body: LoopBody = value.attr("body")
                ends = [*body.results, *(() if body.until is None else (body.until,))]
                outside = set(done)
                once = self._work([e for e in ends if _is_outside(e)], done)
                again = self._work(ends, outside | done)
                total += once + self._number(value.args[0]) * again
            elif value.type.on_device:
                total += self._flops(value)
        return total

    def _number(self, value: Value) -> float:
        if value.op == "scalar":
            value = self.variant.scalars[value.attr("index")]
        if value.type.on_device:  # what the host reads: once at most
            return 1.0
        return float(host_number(value, self.facts))

    def _flops(self, value: Value) -> float:
        row = OPS[value.op]
        size = self._size(value.type.shape.dims)
        if value.op == "matmul":
            return row.flops * size * self._size((value.args[0].type.shape.cols,))
        if value.op == "kth_smallest":  # a sort
            return row.flops * self._size(value.args[0].type.shape.dims)
        if row.kind is Kind.MATRIX and row.flops:  # inverses and decompositions: n^3
            side = self._size((value.args[0].type.shape.rows,))
            return row.flops * side**2 * self._size((value.type.shape.cols,))
        if row.kind is Kind.REDUCE:
            return row.flops * self._size(value.args[0].type.shape.dims)
        return row.flops * size

    def _size(self, dims: Iterable[Dim]) -> float:
        size = 1.0
        for dim in dims:
            if isinstance(dim, int):
                size *= dim
            elif dim in self.rule.dims:
                size *= float(host_number(self.rule.dims[dim], self.facts))
            else:
                size *= self.facts.sizes.get(dim, 1)
        return size


def _packing(name: str, reads: Iterable[Moved], writes: Iterable[Moved]) -> PassReport:
    moved = tuple(reads), tuple(writes)
    return PassReport(name, "packing", "elements", "", *moved, (), (), (), 0.0)


def _file(source: Source) -> str:
    return source.name.rsplit("/", 1)[-1]


def _runs(lines: set[int]) -> str:
    """Numbers as "6-9, 12"."""
    runs: list[list[int]] = []
    for line in sorted(lines):
        if runs and line == runs[-1][-1] + 1:
            runs[-1].append(line)
        else:
            runs.append([line])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def _is_outside(value: Value) -> bool:
    """Whether a value of a loop's body is the same in every pass of it."""
    return not any(each.op == "loop_arg" for each in reachable([value]))
