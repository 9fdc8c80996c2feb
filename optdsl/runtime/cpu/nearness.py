"""Which tensors a thread steps alone, pass after pass, so that the cache still has them.

Input: stages one after another, each over all tensors. Output: phases: stages that all threads
share, and for each thread stages of its own over groups of whole tensors, with no barrier between.
Nothing in a group depends on another one, and each tensor's sums are formed as before: not a bit
differs.

LAMB moves 40 bytes an element in two passes, of which the second reads again what the first has
left.

Relies on: stages/tables.py. Does not do: the order of tasks within a stage (launch.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from optdsl.runtime.arrays import Ints
from optdsl.runtime.stages.tables import ClassTable, Launch, StageTable

SHARES = 8
"""A tensor of more than a thread's part divided by this is worked on by all threads: the last of
those that are dealt to threads should keep none of them waiting for long."""

Chosen = dict[int, Ints]
"""Of each class, by id, the entries."""


class Phase(NamedTuple):
    """`shared` come first; then each thread runs those of its own in `alone`."""

    shared: list[StageTable]
    alone: list[list[StageTable]]


class _Tensor(NamedTuple):
    table: int
    entry: int
    bytes: int


def phases(stages: Sequence[StageTable], threads: int, room: int) -> list[Phase]:
    """`stages` for `threads` threads, in groups of tensors of about `room` bytes. What sums over
    several tensors, or works on states of several, ends a phase."""
    found: list[Phase] = []
    run: list[StageTable] = []
    for stage in stages:
        run.append(stage)
        if _is_shared(stage):
            found.append(Phase(run, [[]] * threads))
            run = []
    if len(run) > 1:
        found.append(_divided(run, threads, room))
    elif run and found:
        found[-1].shared.extend(run)
    elif run:
        found.append(Phase(run, [[]] * threads))
    return found


def _is_shared(stage: StageTable) -> bool:
    return bool(len(stage.finish_shared)) or any(
        table.entries[int(launch.tasks[0, 0])].kind != "parameter"
        for table, launch in stage.launches
        if len(launch.tasks)
    )


def _divided(run: list[StageTable], threads: int, room: int) -> Phase:
    tables = dict.fromkeys(table for stage in run for table, _ in stage.launches)
    tensors = [
        _Tensor(id(table), index, 4 * len(table.variant.buffers) * entry.sizes.numel)
        for table in tables
        for index, entry in enumerate(table.entries)
        if entry.kind == "parameter"
    ]
    part = sum(each.bytes for each in tensors) / threads
    large = [each for each in tensors if threads > 1 and each.bytes * SHARES > part]
    small = sorted(set(tensors).difference(large), key=lambda each: -each.bytes)
    loads = [(0, thread) for thread in range(threads)]
    own: list[list[_Tensor]] = [[] for _ in range(threads)]
    for each in small:
        load, thread = loads[0]
        heapq.heapreplace(loads, (load + each.bytes, thread))
        own[thread].append(each)
    return Phase(
        _only(run, _chosen(large)) if large else [],
        [
            [stage for group in _groups(sorted(each), room) for stage in _only(run, group)]
            for each in own
        ],
    )


def _groups(tensors: Sequence[_Tensor], room: int) -> Iterator[Chosen]:
    group: list[_Tensor] = []
    held = 0
    for each in tensors:
        if group and held + each.bytes > room:
            yield _chosen(group)
            group, held = [], 0
        group.append(each)
        held += each.bytes
    if group:
        yield _chosen(group)


def _chosen(tensors: Sequence[_Tensor]) -> Chosen:
    entries: dict[int, list[int]] = {}
    for each in tensors:
        entries.setdefault(each.table, []).append(each.entry)
    return {table: np.array(sorted(own), np.int64) for table, own in entries.items()}


def _only(run: Sequence[StageTable], group: Chosen) -> list[StageTable]:
    """The stages with the tensors of `group` alone."""
    return [
        StageTable(
            stage.number,
            [(t, part) for t, launch in stage.launches if (part := _part(t, launch, group))],
            stage.finish[_records(stage, group)],
            stage.finish_shared,
        )
        for stage in run
    ]


def _part(table: ClassTable, launch: Launch, group: Chosen) -> Launch | None:
    own, entries = group.get(id(table)), launch.tasks[:, 0]
    if own is None:
        return None
    spans = zip(np.searchsorted(entries, own), np.searchsorted(entries, own, "right"), strict=True)
    rows = np.concatenate([np.arange(lo, hi) for lo, hi in spans])
    return Launch(launch.kernel, launch.tasks[rows], launch.work[rows]) if len(rows) else None


def _records(stage: StageTable, group: Chosen) -> Ints:
    """Which finish records are of `group`."""
    spans = [
        np.arange(*span)
        for table, entries in group.items()
        for entry in entries.tolist()
        for span in stage.finish_of.get((table, entry), ())
    ]
    return np.concatenate([np.zeros(0, np.int64), *spans])
