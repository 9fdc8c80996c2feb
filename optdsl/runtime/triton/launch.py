"""The Triton target: generated kernels on a CUDA or HIP device, or in Triton's interpreter.

Input: a DevicePlan. Output: its `Runner`. Tables that never change are uploaded with the plan; a
step uploads its scalars, and the addresses of gradients if they moved, in one copy from pinned
memory. Then a kernel pass is one launch a class (in layout rows: and tile shape), a finish at most
two a level. Nothing is tuned at run time: a plan always makes the same launches.

Relies on: triton/finish.py, tables.py, the text in `Program.triton_source`.
Does not do: tables (tables.py), the choice of variants (engine.py).
"""

from __future__ import annotations

import hashlib
import itertools
import linecache
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton import knobs

from optdsl.runtime.arrays import Ints
from optdsl.runtime.counters import Counters
from optdsl.runtime.program import Kernel, Program
from optdsl.runtime.stages.packing import Able
from optdsl.runtime.stages.plan import DevicePlan, PrologueCall, StepClass
from optdsl.runtime.stages.tables import LARGEST_BLOCK, Cutting, Launch, StageTable
from optdsl.runtime.states.holdings import describe
from optdsl.runtime.storage.choice import compute_dtype
from optdsl.runtime.triton.codecs import BLOCKS
from optdsl.runtime.triton.finish import finish
from optdsl.runtime.triton.keys import draw
from optdsl.runtime.triton.place import place
from optdsl.runtime.triton.storage import WAYS, element_of

BLOCK = 2048 if torch.version.hip else 1024
"""Elements of a flat task with four operands or more: 4 a lane of 8 warps (AMD's have 64 lanes), a
128-bit access of each float32 operand; 8 a lane of 4 warps where some have 16 bits."""

TILE = 1024
COLUMN_ROWS = 32
"""Elements of a tile of rows, and its least rows where columns are summed, whose partials cost 8
bytes a column and task: with 32 rows, written and read, half a byte an element."""
CODED_ROWS = 8
"""The same for codes, of which a tile has whole blocks: 2,048 elements."""


def block_of(kernel: Kernel) -> int:
    """Elements of a flat task. With fewer operands they are more, so that a lane waits for as many
    bytes at once, and that reading the tables before them weighs less; but one that draws has
    something to do meanwhile, and six draws of eight elements kept 128 bytes on a stack."""
    if kernel.domain != "full" or kernel.draws:
        return BLOCK
    return BLOCK * max(1, 4 // max(1, len({*kernel.reads, *kernel.writes})))


def operands(kernel: Kernel) -> int:
    """What decides how many registers a kernel needs; more than 4 in a pass over rows, which keeps
    sums, and in one behind others, whose sums it reads; more than 8 where a lane has more elements,
    such as 32 of 16 bits: powers of them kept 120 to 152 bytes on a stack with 96 registers; over
    16 with many draws, which the compiler works on at once: six of 16 bits kept 96 with 128."""
    more = max(4 * (kernel.layout == "rows" or kernel.stage > 0), 16 * (kernel.draws > 2))
    return len({*kernel.reads, *kernel.writes}) + max(more, 8 * (block_of(kernel) > BLOCK))


class _Blocks(Cutting):
    """A flat task is one block."""

    def elements(self, kernel: Kernel) -> int:
        return block_of(kernel)

    def rows(self, cols: int) -> int:
        """As many as fill a tile, which is a power of two wide."""
        return max(1, self.row_elements // int(_powers(np.array(cols))))

    def packed(self, *, blocks: bool) -> Cutting:
        """With codes, tiles are as wide as a block of them, and so less high."""
        return replace(self, column_rows=CODED_ROWS) if blocks else self


CUTTING = _Blocks(row_elements=TILE, column_rows=COLUMN_ROWS)
LANE = 16
"""Elements of a flat tail: those of 8 bits that 128 hold."""
SPLITS_BY_ALIGNMENT = True
ABLE = Able(whole=frozenset(BLOCKS), anywhere=frozenset(WAYS), in_rows=False)
"""Codecs that kernels load and save themselves. A block of codes lies in one row of a tile."""

ELEMENT = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
MOST_COLUMNS = 2**30
"""Columns are counted in 32 bits, with a block beyond the last."""
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""A fused multiply-add stands where the kernel's text has one, and nowhere else."""
PROLOGUE = {**OPTIONS, "num_warps": 1}


def options_of(kept: Iterable[Any], operands: int, *, hip: bool) -> dict[str, Any]:
    """How a kernel of so many full `operands` that lie in memory as `kept` says is compiled.

    Where no element is of 16 bits, four of them are 128 bits already: 8 warps then have as many
    bytes on their way as 4 with eight elements a lane, and AdamW takes 48 registers for 60. The
    compiler is given just enough of them; left alone it may stop at 40 and put the rest on a
    stack, around the slow path of a division. Codes take most: four elements a lane.
    """
    kept = set(kept)
    types = [element_of(each) for each in kept]
    if not kept.isdisjoint(BLOCKS):
        limit = {} if hip else {"maxnreg": 80 if operands <= 4 else 128}
        return {**OPTIONS, "num_warps": 8, **limit}
    narrow = any(each.primitive_bitwidth < 32 for each in types)
    options = OPTIONS if narrow else {**OPTIONS, "num_warps": 8}
    if hip or any(each.primitive_bitwidth > 32 for each in types):
        return options
    if narrow:
        return {**options, "maxnreg": 96 if operands <= 8 else 128 if operands <= 16 else 168}
    return {**options, "maxnreg": 48 if operands <= 4 else 96 if operands <= 8 else 128}


NARROW = {"COUNT": 1024, "WIDTH": 1}
WIDE = {"COUNT": 32, "WIDTH": 64}
"""Blocks of the finish: of one number each, and of columns."""


@cache
def load_kernels(source: str) -> ModuleType:
    """The module whose text is `source`. Triton reads a kernel's text through `linecache`."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    name = f"optdsl_triton_{digest}"
    path = f"<{name}>"
    linecache.cache[path] = len(source), None, source.splitlines(keepends=True), path
    module = ModuleType(name)
    module.__file__ = path
    exec(compile(source, path, "exec"), module.__dict__)
    return module


@dataclass(frozen=True)
class _Call:
    """A launch with its arguments: `function[(programs,)](*tables, **constants)`."""

    function: Any
    programs: int
    tables: tuple[Tensor, ...]
    constants: dict[str, Any]

    def __call__(self) -> None:
        self.function[(self.programs,)](*self.tables, **self.constants)


class TritonRunner:
    """Runs the stages of one plan; `results` is the flat float64 table on the plan's device."""

    def __init__(self, program: Program, plan: DevicePlan, counters: Counters) -> None:
        """Raises RuntimeError for tensors in host memory outside of Triton's interpreter."""
        if plan.device.type == "cpu" and not knobs.runtime.interpret:
            raise RuntimeError(
                "the triton backend reaches tensors in host memory in Triton's interpreter alone: "
                "set TRITON_INTERPRET=1 before the start"
            )
        self._plan, self._counters = plan, counters
        self._kernels = load_kernels(program.triton_source)
        self._partials = self._floats(plan.partials)
        self.results = self._floats(plan.results)
        self._moving = _Moving(plan)
        self._live = torch.ones(1, dtype=torch.int64, device=plan.device)
        self._shared = self._partials, self.results, self._live
        self._keys = {
            id(each.table): self._upload(each.buffers.drawn())
            for each in plan.classes
            if each.buffers.draws
        }
        self._stages = [self._prepare(stage) for stage in plan.stages]

    def _floats(self, count: int) -> Tensor:
        return torch.zeros(max(1, count), dtype=torch.float64, device=self._plan.device)

    def begin(self, *, addresses: bool) -> None:
        """Uploads this step's scalars, and the addresses where they changed, or keys among them."""
        self._moving.upload(addresses or bool(self._keys))

    def begin_resident(
        self, prologues: Sequence[PrologueCall], *, addresses: bool, capturing: bool
    ) -> None:
        """Runs the prologues. While a graph is captured, addresses travel in a kernel's arguments,
        which the graph keeps: a copy would read the host's memory again in each replay."""
        with _device(self._plan.device):
            if capturing:
                self._place()
            elif addresses:
                self._moving.upload(addresses, scalars=False)
            for owner, each in zip(self._plan.classes, prologues, strict=True):
                scalars = self._moving.tables[id(owner.table)][2]
                function = getattr(self._kernels, each.kernel)
                function[(each.programs,)](*each.tables, self._live, scalars, **PROLOGUE)
                self._draw(owner, each.tables[0])
            self._counters.launches += len(prologues) + len(self._keys)

    def _draw(self, owner: StepClass, counts: Tensor) -> None:
        """The keys of a class's random roundings, of the count that its prologue left."""
        table, variant = owner.table, owner.table.variant
        if id(table) in self._keys:
            members, pointers = self._keys[id(table)], self._moving.tables[id(table)][0]
            column = len(variant.buffers) + variant.stored.index("p")
            constants = {"COLUMN": column, "K": table.pointers.shape[1], **PROLOGUE}
            draw[(len(members),)](members, counts, pointers, **constants)

    def end_residence(self) -> None:
        """The last step on the device may have been skipped."""
        self._live.fill_(1)

    def _place(self) -> None:
        for owner in self._plan.classes:
            if owner.gradient is not None:
                pointers, columns = self._moving.tables[id(owner.table)][0], owner.table.pointers
                addresses = columns[: len(owner.members), owner.gradient].tolist()
                self._counters.launches += place(
                    pointers, owner.gradient, columns.shape[1], addresses
                )

    def run(self, first: int, last: int) -> None:
        """Runs stages [first, last) on the current stream."""
        with _device(self._plan.device):
            for calls in self._stages[first:last]:
                for call in calls:
                    call()
                self._counters.launches += len(calls)

    def _prepare(self, stage: StageTable) -> list[_Call]:
        """The launches of one stage: kernels, then both levels of the finish."""
        calls = []
        classes = {id(each.table): each for each in self._plan.classes}
        for table, launch in stage.launches:
            owner = classes[id(table)]
            function = getattr(self._kernels, launch.kernel.name)
            real = compute_dtype(owner.dtype)
            types: dict[str, Any] = {"P": ELEMENT[owner.dtype], "REAL": ELEMENT[real]}
            touched = {*launch.kernel.reads, *launch.kernel.writes}
            for name, dtype in owner.buffers.types.items():
                if name in touched:
                    types[f"{name}_type"] = owner.buffers.codecs.get(name) or ELEMENT[dtype]
            kept = {each for name, each in types.items() if name != "REAL"}
            hip = torch.version.hip is not None
            options = options_of(kept, operands(launch.kernel), hip=hip)
            coded = not kept.isdisjoint(BLOCKS)
            pointers, shapes, scalars = self._moving.tables[id(table)]
            for tasks, tile in _tiles(owner, launch, coded=coded):
                tables = (self._upload(tasks), pointers, shapes, scalars)
                constants = {**types, **tile, **options}
                calls.append(_Call(function, len(tasks), (*tables, *self._shared), constants))
        levels = (stage.finish, self._partials), (stage.finish_shared, self.results)
        for records, source in levels:
            for part, blocks in _widths(records):
                arguments = self._upload(part), source, self.results
                calls.append(_Call(finish, len(part), arguments, {**blocks, **OPTIONS}))
        return calls

    def _upload(self, table: Ints) -> Tensor:
        return torch.from_numpy(table).to(self._plan.device)


class _Moving:
    """The tables that change from step to step, in one block on the device: the scalars of all
    classes, then their pointers. `tables` gives a class's pointers, shapes and scalars by the
    table's id."""

    def __init__(self, plan: DevicePlan) -> None:
        own = [each.table for each in plan.classes]
        self._arrays = [each.scalars for each in own] + [each.pointers for each in own]
        sizes = [array.size + array.size % 2 for array in self._arrays]  # 16 bytes
        self._starts = [0, *itertools.accumulate(sizes)]
        self._scalars = len(own)
        self._block = torch.zeros(self._starts[-1], dtype=torch.int64, device=plan.device)
        views = [
            self._block[start : start + array.size]
            for start, array in zip(self._starts, self._arrays, strict=False)
        ]
        self.tables = {
            id(table): (
                views[index + len(own)],
                torch.from_numpy(table.shapes).to(plan.device),
                views[index].view(torch.float64),
            )
            for index, table in enumerate(own)
        }

    def upload(self, addresses: bool, *, scalars: bool = True) -> None:
        count = len(self._arrays) if addresses else self._scalars
        begin = 0 if scalars else self._scalars
        offset, end = self._starts[begin], self._starts[count]
        # Pinned memory comes from torch's pool, which waits until the copy has read it.
        pinned = self._block.device.type != "cpu"
        staging = torch.empty(end - offset, dtype=torch.int64, pin_memory=pinned)
        host = staging.numpy()
        for start, array in zip(self._starts[begin:], self._arrays[begin:count], strict=False):
            host[start - offset : start - offset + array.size] = array.reshape(-1).view(np.int64)
        self._block[offset:end].copy_(staging, non_blocking=True)


def _device(device: torch.device) -> AbstractContextManager[Any]:
    if device.type == "cpu":
        return nullcontext()
    context: AbstractContextManager[Any] = torch.get_device_module(device).device(device)
    return context


def _tiles(
    owner: StepClass, launch: Launch, *, coded: bool
) -> Iterator[tuple[Ints, dict[str, Any]]]:
    """The tasks of a launch with the constants of their kernel. In layout rows tensors of
    different widths need different tiles, each a kernel of its own. Where a buffer is `coded`, a
    tile is made of whole blocks."""
    if launch.kernel.layout != "rows":
        whole = LARGEST_BLOCK if coded else LANE
        constants = {"BLOCK": block_of(launch.kernel), "WHOLE": whole}
        yield launch.tasks, {**constants, "ALIGNED": owner.aligned}
        return
    cols = owner.table.shapes[launch.tasks[:, 0], 2]
    rows = launch.tasks[:, 2] - launch.tasks[:, 1]
    if cols.max() > MOST_COLUMNS:
        member = owner.members[launch.tasks[cols.argmax(), 0]]
        raise ValueError(
            f"{describe(member)} has rows of {cols.max()} elements; the triton backend counts "
            f"{MOST_COLUMNS} at most"
        )
    aligned = owner.aligned & (cols % 16 == 0)
    summed = any(each.domain == "col" for each in launch.kernel.reductions)
    least = (CODED_ROWS if coded else COLUMN_ROWS) if summed else 1
    # Of the columns alone: tensors of few rows, and last tasks, are no kernels of their own.
    width = np.minimum(_powers(cols), TILE)
    height = np.maximum(_powers(rows), np.maximum(TILE // width, least))
    width = np.minimum(width, np.maximum(LARGEST_BLOCK if coded else 16, TILE // height))
    keys = np.stack([height, width, aligned.astype(np.int64)], axis=1)
    for key in np.unique(keys, axis=0):
        chosen = launch.tasks[(keys == key).all(axis=1)]
        yield chosen, {"ROWS": int(key[0]), "BLOCK": int(key[1]), "ALIGNED": bool(key[2])}


def _powers(numbers: Ints) -> Ints:
    """The powers of two equal to `numbers` or next above them."""
    return np.left_shift(1, np.frexp(numbers - 1)[1].astype(np.int64))


def _widths(records: Ints) -> Iterator[tuple[Ints, dict[str, int]]]:
    """Finish records of single numbers, then those of columns, none wider than a block."""
    narrow = records[records[:, 5] == 1]
    if len(narrow):
        yield narrow, NARROW
    wide = records[records[:, 5] > 1]
    if len(wide):
        limit = WIDE["WIDTH"]
        pieces = -(-wide[:, 5] // limit)
        offsets = np.concatenate([np.arange(each) for each in pieces]) * limit
        wide = np.repeat(wide, pieces, axis=0)
        wide[:, 1] += offsets
        wide[:, 4] += offsets
        wide[:, 5] = np.minimum(limit, wide[:, 5] - offsets)
        yield wide, WIDE
