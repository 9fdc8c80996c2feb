"""The integer tables of a step: tensors, tasks, where results stand, how reductions finish.

Input: the classes of a step (a variant and its tensors' sizes). Output: the tables that program.py
describes, as numpy arrays; addresses are left to plan.py.

Relies on: program.py, cohorts.py. Does not do: tensors, launching.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from optdsl.runtime.arrays import Floats, Ints
from optdsl.runtime.parameters.cohorts import Sizes
from optdsl.runtime.program import Kernel, Program, Reduction, Variant

SHARED = ("group", "all")
OPERATIONS = {"sum": 0, "max_of": 1, "min_of": 2}
PACKED = 2048
"""Elements of a task of which buffers are loaded from codes."""
LARGEST_BLOCK = 256
"""Elements that may share a scale."""
FINISH_WIDTH = 256
"""Columns of one finish record: 50,000 columns are finished by all threads, not by one."""


@dataclass(frozen=True)
class Cutting:
    """How passes are cut into tasks. `flat` elements a task; rows of about `row_elements`
    elements, but `column_rows` rows at least where columns are reduced, since each task leaves
    `cols` partials. Of a task, the elements (but of the last) are a multiple of `multiple`."""

    flat: int = 16384
    row_elements: int = 16384
    column_rows: int = 32
    multiple: int = 1

    def packed(self, *, blocks: bool) -> Cutting:
        """The same where a task's buffers are loaded before it, from codes where `blocks` says so:
        tasks of 8 KiB of each, which stay in L1, and of whole blocks of codes."""
        flat, rows = min(self.flat, PACKED), min(self.row_elements, PACKED)
        return replace(self, flat=flat, row_elements=rows, multiple=LARGEST_BLOCK)

    def rows(self, cols: int) -> int:
        """Rows of a task whose columns are not summed."""
        return max(1, -(-self.row_elements // cols))

    def elements(self, kernel: Kernel) -> int:
        """Elements of a task of the flat pass `kernel`."""
        return self.flat


@dataclass(frozen=True)
class Entry:
    """A tensor of a class: a parameter, or (`kind` group or all) the states shared by many."""

    sizes: Sizes
    row: int
    group_index: int
    kind: str = "parameter"


@dataclass(eq=False)
class Launch:
    """One kernel pass over one class. `work` is the number of elements of each task."""

    kernel: Kernel
    tasks: Ints
    work: Ints


@dataclass(eq=False)
class ClassTable:
    """The tables of one class (see program.py) and its kernel passes, in order."""

    variant: Variant
    entries: Sequence[Entry]
    pointers: Ints
    shapes: Ints
    scalars: Floats
    launches: list[Launch] = field(default_factory=list)


@dataclass(eq=False)
class StageTable:
    """What runs before a barrier: launches of all classes, as (class, launch), then both levels of
    the finish. `finish_of` gives, by a class's id and an entry, from where to where the records of
    the first level are that tensor's own."""

    number: int
    launches: list[tuple[ClassTable, Launch]]
    finish: Ints
    finish_shared: Ints
    finish_of: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)


class ResultLayout:
    """Where each result stands; grows as tensors are added."""

    def __init__(self, slots: Sequence[tuple[str, str]], groups: int) -> None:
        self.places: dict[str, tuple[str, int]] = {}
        counts: dict[str, int] = {}
        for slot, domain in slots:
            self.places[slot] = domain, counts.setdefault(domain, 0)
            counts[domain] += 1
        self.counts = counts
        self.size = counts.get("all", 0) + groups * counts.get("group", 0)

    def group(self, group_index: int) -> int:
        return self.counts.get("all", 0) + group_index * self.counts.get("group", 0)

    def reserve(self, count: int) -> int:
        start, self.size = self.size, self.size + count
        return start

    def add(self, sizes: Sizes) -> tuple[int, int]:
        """Offsets of a tensor's TENSOR results and of its MATRIX and COL results."""
        matrices = self.counts.get("matrix", 0) * sizes.batch
        columns = self.counts.get("col", 0) * sizes.batch * sizes.cols
        return self.reserve(self.counts.get("tensor", 0)), self.reserve(matrices + columns)

    def shared(self, slot: str, group_index: int) -> int:
        """Where a GROUP or ALL result stands."""
        domain, k = self.places[slot]
        return k if domain == "all" else self.group(group_index) + k

    def of_tensor(self, slot: str, shape: Ints) -> int:
        """Where the results of the tensor with the row `shape` of the shapes table begin: one, or
        one a matrix, or `cols` a matrix, one after another."""
        domain, k = self.places[slot]
        batch, cols = int(shape[3]), int(shape[2])
        if domain == "tensor":
            return int(shape[5]) + k
        if domain == "matrix":
            return int(shape[7]) + k * batch
        return int(shape[7]) + (self.counts.get("matrix", 0) + k * cols) * batch


def class_table(
    variant: Variant, entries: Sequence[Entry], rows: int, results: ResultLayout
) -> ClassTable:
    """Tables for `entries`, none of them empty; pointers and scalars are still zero."""
    shapes = np.zeros((len(entries), 8), np.int64)
    for index, entry in enumerate(entries):
        sizes = entry.sizes
        group = results.group(entry.group_index)
        tensor, matrix = results.add(sizes) if entry.kind == "parameter" else (group, 0)
        shapes[index] = (
            *(sizes.numel, sizes.rows, sizes.cols, sizes.batch),
            *(entry.row, tensor, group, matrix),
        )
    columns = len(variant.buffers) + len(variant.stored) + variant.draws
    pointers = np.zeros((len(entries), columns), np.int64)
    # The count of scalars is known only after `Variant.scalars` was called once.
    return ClassTable(variant, entries, pointers, shapes, np.zeros((rows, 0), np.float64))


class StageBuilder:
    """Collects the launches and finish records of the stages of a step."""

    def __init__(self, program: Program, results: ResultLayout, cutting: Cutting) -> None:
        self.program = program
        self.results = results
        self.cutting = cutting
        self.partials = 0
        self.stages: dict[int, StageTable] = {}
        self._records: dict[int, list[Ints]] = {}
        self._counts: dict[int, int] = {}
        self._open: dict[int, dict[tuple[str, int], list[tuple[int, int, int]]]] = {}
        self._operations: dict[str, tuple[str, int]] = {}

    def add(
        self,
        table: ClassTable,
        kernel: Kernel,
        chosen: Sequence[int],
        number: int,
        cutting: Cutting | None = None,
    ) -> None:
        """Adds `kernel` over the entries `chosen` of `table`, as part of stage `number`."""
        cutting = cutting or self.cutting
        launch, counts = cut(table, kernel, chosen, cutting, self.partials)
        table.launches.append(launch)
        empty = np.zeros((0, 6), np.int64)
        stage = self.stages.setdefault(number, StageTable(number, [], empty, empty))
        stage.launches.append((table, launch))
        if not kernel.reductions:
            return
        first = self.partials
        for index, count in zip(chosen, counts, strict=True):
            width = partial_width(kernel, table.entries[index].sizes)
            self._finish(number, kernel, table, index, first, width, count)
            first += count * width
        self.partials = first

    def _finish(
        self,
        number: int,
        kernel: Kernel,
        table: ClassTable,
        index: int,
        first: int,
        width: int,
        count: int,
    ) -> None:
        """The records of one tensor, whose `count` tasks leave `width` partials each."""
        records = self._records.setdefault(number, [])
        entry, shape, position = table.entries[index], table.shapes[index], 0
        for reduction in kernel.reductions:
            operation, source = OPERATIONS[reduction.op], first + position
            columns = entry.sizes.cols if reduction.domain == "col" else 1
            position += columns
            if reduction.domain in SHARED:
                self._shared(number, reduction, entry.group_index, (source, width, count))
                continue
            target = self.results.of_tensor(reduction.slot, shape)
            matrices = 1 if reduction.domain == "tensor" else entry.sizes.batch
            made = _own_records(operation, source, width, count, target, columns, matrices)
            records.append(made)
            span = self._counts.get(number, 0), self._counts.get(number, 0) + len(made)
            self._counts[number] = span[1]
            self.stages[number].finish_of.setdefault((id(table), index), []).append(span)

    def _shared(
        self, number: int, reduction: Reduction, group: int, source: tuple[int, int, int]
    ) -> None:
        key = reduction.slot, group if reduction.domain == "group" else -1
        known = self._operations.setdefault(reduction.slot, (reduction.op, number))
        if known != (reduction.op, number):
            raise ValueError(
                f"result {reduction.slot} is reduced in stages {known[1]} and {number}"
            )
        self._open.setdefault(number, {}).setdefault(key, []).append(source)

    def finished(self) -> list[StageTable]:
        """All stages in order, with their finish records."""
        for number, stage in self.stages.items():
            records, own = self._records.get(number, []), []
            shared = []
            for (slot, group), sources in self._open.get(number, {}).items():
                operation = OPERATIONS[self._operations[slot][0]]
                start = self.results.reserve(len(sources))
                for offset, (source, stride, count) in enumerate(sources):
                    own.append((operation, source, stride, count, start + offset, 1))
                target = self.results.shared(slot, group)
                shared.append((operation, start, 1, len(sources), target, 1))
            own_table = np.array(own, np.int64).reshape(-1, 6)
            stage.finish = np.concatenate([*records, own_table])
            stage.finish_shared = np.array(shared, np.int64).reshape(-1, 6)
        return [self.stages[number] for number in sorted(self.stages)]


def _own_records(
    operation: int, source: int, stride: int, count: int, target: int, columns: int, matrices: int
) -> Ints:
    """The finish records of one reduction of one tensor, whose tasks are `count`, equally many for
    each of `matrices`, each of which has `columns` results."""
    each = count // matrices
    offsets = np.arange(0, columns, FINISH_WIDTH)
    matrix = np.arange(matrices)[:, None]
    records = np.empty((matrices, len(offsets), 6), np.int64)
    records[..., 0] = operation
    records[..., 1] = source + matrix * each * stride + offsets
    records[..., 2] = stride
    records[..., 3] = each
    records[..., 4] = target + matrix * columns + offsets
    records[..., 5] = np.minimum(FINISH_WIDTH, columns - offsets)
    return records.reshape(-1, 6)


def partial_width(kernel: Kernel, sizes: Sizes) -> int:
    """How many partials a task of `kernel` leaves."""
    return sum(sizes.cols if each.domain == "col" else 1 for each in kernel.reductions)


def pieces(kernel: Kernel, sizes: Sizes, cutting: Cutting) -> tuple[Ints, Ints]:
    """The tasks of one tensor: their lo and hi."""
    domains = {each.domain for each in kernel.reductions}
    if kernel.layout == "rows":
        matrices, units = sizes.batch, sizes.rows
        chunk = cutting.rows(sizes.cols)
        if "col" in domains:
            chunk = max(chunk, cutting.column_rows)
        unit = cutting.multiple // math.gcd(cutting.multiple, sizes.cols)
        chunk = -(-chunk // unit) * unit
    else:
        within = kernel.domain in ("row", "col") or "matrix" in domains
        matrices = sizes.batch if within else 1
        units = sizes.elements(kernel.domain) // matrices
        chunk = cutting.elements(kernel)
    lo = np.arange(0, units, chunk, dtype=np.int64)
    hi = np.minimum(lo + chunk, units)
    starts = np.arange(matrices, dtype=np.int64)[:, None] * units
    return (starts + lo).ravel(), (starts + hi).ravel()


def cut(
    table: ClassTable, kernel: Kernel, chosen: Sequence[int], cutting: Cutting, first: int
) -> tuple[Launch, list[int]]:
    """The launch of `kernel` over the entries `chosen`, with partials from `first` on, and the
    number of tasks of each entry. Tensors of one size are cut once: a model has few sizes."""
    known: dict[Sizes, tuple[Ints, Ints]] = {}
    parts, widths = [], []
    for index in chosen:
        sizes = table.entries[index].sizes
        if sizes not in known:
            known[sizes] = pieces(kernel, sizes, cutting)
        parts.append(known[sizes])
        widths.append(partial_width(kernel, sizes))
    counts = [len(lo) for lo, _ in parts]
    tasks = np.zeros((sum(counts), 4), np.int64)
    if counts:
        tasks[:, 0] = np.repeat(chosen, counts)
        tasks[:, 1] = np.concatenate([lo for lo, _ in parts])
        tasks[:, 2] = np.concatenate([hi for _, hi in parts])
        steps = np.repeat(widths, counts)
        tasks[:, 3] = first + np.cumsum(steps) - steps
    work = tasks[:, 2] - tasks[:, 1]
    if kernel.layout == "rows":
        work = work * table.shapes[tasks[:, 0], 2]
    return Launch(kernel, tasks, work), counts
