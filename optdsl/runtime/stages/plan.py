"""The plan of a step on one device: classes of parameters with their tables, stage by stage.

Input: the cohorts that take part with the variant that each runs, and where states and temps lie.
Output: a `DevicePlan`, which is kept and run again as long as the same variants are chosen and no
tensor moves; a step then only writes new scalars and gradient addresses into its tables.

A target implements `Runner`: it runs a range of stages, finishes included, of one plan. What it
reads of a plan: `classes[i].table` (see program.py), `stages`, `partials` and `results`. The arrays
`pointers` and `scalars` change in place before each `begin`; all else never changes.

Relies on: tables.py, holdings.py, buffers.py. Does not do: choosing variants, the scan of
gradients (engine.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from optdsl.runtime.arrays import Ints
from optdsl.runtime.parameters.cohorts import ONE, Cohort, Member, Sizes
from optdsl.runtime.parameters.tensors import Tensors
from optdsl.runtime.program import Kernel, Program, Variant
from optdsl.runtime.stages.buffers import Arena, ClassBuffers, SharedTemps
from optdsl.runtime.stages.library import Batch
from optdsl.runtime.stages.packing import Able
from optdsl.runtime.stages.tables import (
    SHARED,
    ClassTable,
    Cutting,
    Entry,
    ResultLayout,
    StageBuilder,
    StageTable,
    class_table,
)
from optdsl.runtime.states.holdings import Holdings


@dataclass(eq=False)
class StepClass:
    """Parameters with the same variant, dtype, storage and alignment. The first entries of the
    table are `members`, at `indices` among all parameters, then come those of shared states. Row i
    of the scalars is that of `cohorts[i]`; `gradient` is the column of the gradients' addresses,
    None where the variant reads none."""

    table: ClassTable
    members: list[Member]
    cohorts: list[Cohort]
    dtype: torch.dtype
    aligned: bool
    indices: slice | Ints
    gradient: int | None
    buffers: ClassBuffers

    @cached_property
    def cells(self) -> Ints:
        """Where the addresses of the members' gradients stand in the table."""
        cells: Ints = self.table.pointers[: len(self.members), self.gradient]
        return cells


@dataclass(eq=False)
class Evaluated:
    """An evaluation of the model: the classes that take part in it, with their points."""

    op: str
    slot: str
    points: list[tuple[StepClass, str | None]]


@dataclass(eq=False)
class Joined:
    """A reduction over parameters: the classes that take part in it, with where their parts lie."""

    op: str
    slot: str
    over: str
    k: int | None
    parts: list[tuple[StepClass, str]]


@dataclass(eq=False)
class Segment:
    """Stages [first, last) of `DevicePlan.stages` in one go, then library passes, then what is
    joined of all parameters, then evaluations of the model."""

    first: int
    last: int
    batches: list[Batch] = field(default_factory=list)
    joins: list[Joined] = field(default_factory=list)
    models: list[Evaluated] = field(default_factory=list)


@dataclass(eq=False)
class DevicePlan:
    """`partials` and `results` are the lengths of the flat float64 tables; `written` the parameters
    that the plan changes; `addresses` is the version of those gradients whose addresses stand in
    the tables."""

    device: torch.device
    classes: list[StepClass]
    stages: list[StageTable]
    segments: list[Segment]
    partials: int
    results: int
    written: Tensors
    runner: Runner | None = None
    addresses: int = -1

    @cached_property
    def aligned(self) -> list[StepClass]:
        """The classes whose gradients are taken as lying on 16 bytes."""
        return [each for each in self.classes if each.aligned and each.gradient is not None]

    @property
    def launches(self) -> int:
        """The number of kernel passes."""
        return sum(len(stage.launches) for stage in self.stages)

    def reported(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The reports of a step that was run, those of its first class where classes differ."""
        found = {name: self.classes[0].buffers.number(f"report_{name}") for name in names}
        return {name: number for name, number in found.items() if number is not None}


class PrologueCall(NamedTuple):
    """The kernel that works out the scalar rows of a class, its programs and its tables: counts,
    inputs and gate (see residence.py)."""

    kernel: str
    programs: int
    tables: tuple[Tensor, Tensor, Tensor]


class Runner(Protocol):
    """A target's side of one plan. `results` is the flat table of finished reductions, float64, on
    the plan's device."""

    results: Tensor

    def begin(self, *, addresses: bool) -> None:
        """Starts a step: scalars were written, addresses of gradients too where that is said."""

    def run(self, first: int, last: int) -> None:
        """Runs stages [first, last), each with both levels of its finish."""


class ResidentRunner(Runner, Protocol):
    """That of a target whose plans may reside on the device (see residence.py)."""

    def begin_resident(
        self, prologues: Sequence[PrologueCall], *, addresses: bool, capturing: bool
    ) -> None:
        """Starts a step whose scalars the device works out, by a prologue for each class. While
        `capturing`, the addresses become part of the graph."""

    def end_residence(self) -> None:
        """The host writes scalars again from now on."""


@dataclass(frozen=True)
class Order:
    """What is asked of `plan_device`: cohorts with their variants and hyperparameters."""

    cohort: Cohort
    variant: int
    h: Mapping[str, Any]


def plan_device(
    program: Program,
    device: torch.device,
    orders: Sequence[Order],
    holdings: Holdings,
    arena: Arena,
    cutting: Cutting,
    aligned: Mapping[int, bool] | None,
    able: Able,
) -> DevicePlan | None:
    """The plan for the members of `orders` on `device`, None where all are empty.

    `aligned` says by `Member.index` whether a gradient lies on 16 bytes; classes are split by that,
    and by the same of their other tensors, where it is given. `able` says which buffers the target
    itself loads and saves. May move `arena`.
    """
    results = ResultLayout(program.slots, len(holdings.groups))
    builder = StageBuilder(program, results, cutting)
    shared = SharedTemps(arena)
    arena.start()
    classes = []
    for variant, members, placed in _classes(program, device, orders, holdings, aligned, able):
        step_class = _make_class(program, variant, members, placed, holdings, results, shared, able)
        classes.append(step_class)
    if not classes:
        return None
    arena.settle()
    _add_launches(program, builder, classes)
    stages = builder.finished()
    segments = _segments(classes, stages, results)
    writing = [each for each in classes if "p" in each.buffers.packing.writes]
    written = [member.own for each in writing for member in each.members]
    return DevicePlan(
        *(device, classes, stages, segments), builder.partials, results.size, Tensors(written)
    )


Placed = list[tuple[Cohort, Mapping[str, Any]]]


def _classes(
    program: Program,
    device: torch.device,
    orders: Sequence[Order],
    holdings: Holdings,
    aligned: Mapping[int, bool] | None,
    able: Able,
) -> list[tuple[Variant, list[tuple[Member, int, bool]], Placed]]:
    """The classes: a variant, its members with their scalar rows, and the rows' cohorts."""
    found: dict[tuple[Any, ...], tuple[list[tuple[Member, int, bool]], Placed]] = {}
    for order in orders:
        variant = program.variants[order.variant]
        for member in order.cohort.members:
            if member.p.device != device:
                continue
            for name in variant.states:  # those of empty parameters, too
                holdings.parts(holdings.states[name], member, order.h, order.cohort.e)
            if member.sizes.numel == 0:
                continue
            even = False
            if aligned is not None:
                even = aligned[member.index] and _aligned(variant, member, order, holdings)
            codecs = [holdings.codec(holdings.states[n], member).name for n in variant.states]
            codecs.append(holdings.choice.of_parameter(member.p.dtype).name)
            fits = able.whole.isdisjoint(codecs) or able.fits(variant, member)
            key = order.variant, member.p.dtype, *codecs, fits, even
            members, placed = found.setdefault(key, ([], []))
            if not placed or placed[-1][0] is not order.cohort:
                placed.append((order.cohort, order.h))
            members.append((member, len(placed) - 1, even))
    return [
        (program.variants[index], members, placed)
        for (index, *_), (members, placed) in found.items()
    ]


def _aligned(variant: Variant, member: Member, order: Order, holdings: Holdings) -> bool:
    """Whether the parameter and its states lie on 16 bytes, with all that lies beside and each of
    their planes; temps do."""
    if variant.planes and member.sizes.numel % 16:
        return False
    states = [holdings.states[name] for name in variant.states]
    parted = {plane.state for plane in variant.planes}
    full = [each for each in states if each.domain == "full" or each.name in parted]
    parts = [holdings.parts(each, member, order.h, order.cohort.e) for each in full]
    _, own = holdings.parameter(member)
    tensors = [*own, *(each for many in parts for each in many)]
    return all(each.data_ptr() % 16 == 0 for each in tensors)


def _make_class(
    program: Program,
    variant: Variant,
    members: list[tuple[Member, int, bool]],
    placed: Placed,
    holdings: Holdings,
    results: ResultLayout,
    shared: SharedTemps,
    able: Able,
) -> StepClass:
    entries = [
        Entry(_sizes(variant, member, placed[row], holdings), row, member.group_index)
        for member, row, _ in members
    ]
    rows: dict[int, int] = {}
    for member, row, _ in members:
        rows.setdefault(member.group_index, row)
    entries += [Entry(ONE, row, group, "group") for group, row in rows.items()]
    entries += [Entry(ONE, 0, members[0][0].group_index, "all")]
    table = class_table(variant, entries, len(placed), results)
    own = [member for member, _, _ in members]
    buffers = ClassBuffers(program, table, own, placed, holdings, shared, able)
    return StepClass(
        table,
        own,
        [cohort for cohort, _ in placed],
        own[0].p.dtype,
        members[0][2],
        _indices(own),
        variant.buffers.index("g") if "g" in variant.buffers else None,
        buffers,
    )


def _indices(members: Sequence[Member]) -> slice | Ints:
    """As a range where they are one: numpy copies it in a tenth of the time."""
    found = [member.index for member in members]
    if found == list(range(found[0], found[0] + len(found))):
        return slice(found[0], found[0] + len(found))
    return np.array(found, np.int64)


def _sizes(
    variant: Variant, member: Member, placed: tuple[Cohort, Mapping[str, Any]], holdings: Holdings
) -> Sizes:
    """The matrix that the passes of `variant` see of a parameter."""
    if variant.blocks is None:
        return member.sizes
    cohort, h = placed
    known = holdings.sizes(member, h, cohort.e)
    cols = variant.blocks if isinstance(variant.blocks, int) else known[variant.blocks]
    return member.sizes._replace(rows=member.sizes.numel // cols, cols=cols)


def _add_launches(program: Program, builder: StageBuilder, classes: Sequence[StepClass]) -> None:
    """Adds all kernel passes. States of a group or of the run are written behind everything else:
    what is the last stage of one variant may be the middle of another, which reads them still."""
    states = {state.name for state in program.states}
    deferred = [
        kernel
        for step_class in classes
        for kernel in step_class.table.variant.kernels
        if kernel.domain in SHARED and not kernel.reductions and states.issuperset(kernel.writes)
    ]
    variants = [step_class.table.variant for step_class in classes]
    stages = [each.stage for v in variants for each in v.kernels if each not in deferred]
    stages += [each.stage for v in variants for each in v.libraries]
    end = 1 + max(stages, default=0)
    done: set[tuple[str, int]] = set()
    for step_class in classes:
        step_class.buffers.settle()
        for kernel in step_class.table.variant.kernels:
            chosen = _chosen(step_class, kernel, program, done)
            if chosen:
                number = end if kernel in deferred else kernel.stage
                packing, cutting = step_class.buffers.packing, builder.cutting
                if packing.by_task:
                    cutting = cutting.packed(blocks=packing.blocks)
                builder.add(step_class.table, kernel, chosen, number, cutting)


def _chosen(
    step_class: StepClass, kernel: Kernel, program: Program, done: set[tuple[str, int]]
) -> list[int]:
    """The entries that `kernel` runs over. What is shared by several classes is worked once."""
    entries = step_class.table.entries
    if kernel.domain not in SHARED:
        return [i for i, entry in enumerate(entries) if entry.kind == "parameter"]
    chosen = []
    for index, entry in enumerate(entries):
        if entry.kind != kernel.domain:
            continue
        group = entry.group_index if kernel.domain == "group" else -1
        written = {(name, group) for name in kernel.writes}
        written |= {(each.slot, group) for each in kernel.reductions}
        if written & done and not written <= done:
            raise ValueError(
                f"{program.name}: {', '.join(kernel.writes)} would be updated by two variants"
            )
        if not written <= done:
            chosen.append(index)
        done |= written
    return chosen


def _segments(
    classes: Sequence[StepClass], stages: Sequence[StageTable], results: ResultLayout
) -> list[Segment]:
    """Stages up to the next library pass, join or evaluation of the model, which run after the
    kernels of their own stage."""
    batches: dict[int, list[Batch]] = {}
    joins: dict[int, dict[str, Joined]] = {}
    models: dict[int, dict[str, Evaluated]] = {}
    for step_class in classes:
        for library in step_class.table.variant.libraries:
            made = step_class.buffers.batches(library, results)
            batches.setdefault(library.stage, []).extend(made)
        for each in step_class.table.variant.models:
            found = models.setdefault(each.stage, {})
            evaluated = found.setdefault(each.slot, Evaluated(each.op, each.slot, []))
            evaluated.points.append((step_class, each.point))
        for one in step_class.table.variant.joins:
            known = joins.setdefault(one.stage, {})
            k = step_class.buffers.size(one.k) if isinstance(one.k, str) else one.k
            joined = known.setdefault(one.slot, Joined(one.op, one.slot, one.over, k, []))
            joined.parts.append((step_class, one.part))
    segments, first = [], 0
    for number in sorted({*batches, *joins, *models}):
        last = sum(stage.number <= number for stage in stages)
        put, calls = joins.get(number, {}).values(), models.get(number, {}).values()
        segments.append(Segment(first, last, batches.get(number, []), [*put], [*calls]))
        first = last
    if first < len(stages):
        segments.append(Segment(first, len(stages)))
    return segments
