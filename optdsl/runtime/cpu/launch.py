"""The CPU target: generated C kernels, run by the driver on torch's number of threads.

Input: a DevicePlan of tensors in host memory. Output: its `Runner`. One foreign call runs all
stages up to the next library pass; its arguments are made once.

Relies on: native.py, driver.c. Does not do: tables (tables.py), the choice of variants (engine.py).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from optdsl.runtime.arrays import Ints
from optdsl.runtime.counters import Counters
from optdsl.runtime.cpu.nearness import Phase, phases
from optdsl.runtime.cpu.strips import (
    PAIRED_FLAGS,
    SUFFIX,
    halves_source,
    in_pairs,
    in_strips,
    pairs_source,
    strips_source,
)
from optdsl.runtime.native import NativeError, load, load_kernels, runtime_text
from optdsl.runtime.program import Program
from optdsl.runtime.stages.packing import Able
from optdsl.runtime.stages.plan import DevicePlan, StepClass
from optdsl.runtime.stages.tables import ClassTable, Cutting, Launch, StageTable
from optdsl.runtime.storage.choice import compute_dtype
from optdsl.runtime.storage.stored import PLAIN

CUTTING = Cutting()
"""Tasks of 16,384 elements: 64 KiB of each float32 operand, which stay in L2 between phases."""

SPLITS_BY_ALIGNMENT = False
"""x86 and Arm load from any address at full speed, so that one class serves both."""

SERIAL_WORK = 32_768
"""Elements up to which the caller's thread works alone: a parallel region costs some 5 us, the
time of about 8,000 elements of AdamW, and far more where another process holds a core."""

HALVES = frozenset(
    f"{way}_{half}" for way in ("stochastic", "master", "kahan") for half in ("bf16", "fp16")
) | {"split_bf16"}
ABLE = Able(HALVES | {"int8", "uint8", "int4", "uint4", "fp8"})
"""Codecs that are loaded and saved by the strip (strips.py), or by the driver around each task or
chunk of one, with the functions of halves.c and codecs.c."""

LINE = 32
"""Float32 numbers in two cache lines, which processors fetch as a pair: threads share none of their
scratch memory, which each writes several times in every chunk."""
APART = 512
"""Numbers between the scratch memory of two threads: kernels ask for what lies 1 KiB ahead, and
would take the other thread's lines away from it in every chunk. Two threads were no faster than one
at rounding at random without it."""

CHUNK = 512
"""Elements that are loaded, worked on and saved at a time where there are codes, 1.04 times as fast
as whole tasks."""

NEAR = 2**20
"""Bytes that a thread's pass may leave to its next: about what a core's own cache holds."""

TASK_WORK = 256
"""What starting a task costs, in elements."""


ELEMENTS = {
    "bf16": ("bf16", "widen_bf16", "narrow_bf16"),
    "fp16": ("fp16", "widen_fp16", "narrow_fp16"),
    "float32": ("float", "", ""),
}
"""Of elements that are not as values are computed: their C type, what loads and stores them."""


@cache
def driver() -> Any:
    """The foreign function optdsl_run; without threads where the compiler has no OpenMP.

    Raises NativeError without a working compiler.
    """
    text = runtime_text("cpu/driver.c")
    try:
        library = load(text, "-fopenmp")
    except NativeError:
        library = load(text, "-Wno-unknown-pragmas")
    function = library.optdsl_run
    function.restype = None
    return function


@cache
def codec_functions() -> Any:
    """The library of `codec_source`. Raises NativeError without a working compiler."""
    return load(codec_source())


def codec_source() -> str:
    """The C of all codecs."""
    numbers, lanes, codes = (
        runtime_text(f"storage/{name}.c") for name in ("numbers", "lanes", "codecs")
    )
    return numbers + halves_source(sorted(HALVES)) + lanes + codes


@dataclass(eq=False)
class _Call:
    """The arguments of one foreign call; `kept` are the tables that they point to."""

    arguments: tuple[Any, ...]
    kept: list[Any]
    parallel: bool


class CpuRunner:
    """Runs the stages of one plan; `results` is the flat float64 table as a tensor."""

    def __init__(self, program: Program, plan: DevicePlan, counters: Counters) -> None:
        self._plan, self._counters = plan, counters
        self._partials = np.zeros(max(1, plan.partials), np.float64)
        self._results = np.zeros(max(1, plan.results), np.float64)
        self.results = torch.from_numpy(self._results)
        self._driver = driver()
        self._calls: dict[tuple[int, int, int], _Call] = {}
        self._owners = {id(each.table): each for each in plan.classes}
        self._kernels: dict[tuple[int, str], int] = {}
        for each in plan.classes:
            for name, address in _addresses(program, each):
                self._kernels[id(each.table), name] = address

    def begin(self, *, addresses: bool) -> None:
        """Nothing: the kernels read the plan's own arrays."""

    def run(self, first: int, last: int) -> None:
        """Runs stages [first, last) in at most one parallel region."""
        if first == last:
            return
        key = first, last, torch.get_num_threads()
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = self._prepare(*key)
        self._counters.calls += 1
        self._counters.regions += call.parallel
        self._driver(*call.arguments)

    def _prepare(self, first: int, last: int, threads: int) -> _Call:
        stages = self._plan.stages[first:last]
        total = sum(int(launch.work.sum()) for stage in stages for _, launch in stage.launches)
        if total <= SERIAL_WORK:
            threads = 1
        found = phases(stages, threads, NEAR)
        own = [stage for phase in found for each in phase.alone for stage in each]
        shared = [stage for phase in found for stage in phase.shared]
        kept: list[Any] = [own, shared]
        room = max(self._room(stage) for stage in (*own, *shared))
        scratch = _aligned(room * threads)
        table = np.array([self._phase(each, threads, kept) for each in found], np.int64)
        arguments = (
            ctypes.c_void_p(table.ctypes.data),
            ctypes.c_longlong(len(found)),
            ctypes.c_void_p(self._partials.ctypes.data),
            ctypes.c_void_p(self._results.ctypes.data),
            ctypes.c_void_p(scratch.ctypes.data),
            ctypes.c_longlong(room),
            ctypes.c_longlong(threads),
        )
        return _Call(arguments, [*kept, table, scratch], threads > 1)

    def _phase(self, phase: Phase, threads: int, kept: list[Any]) -> list[int]:
        """One `struct phase` of the driver."""
        shared = self._stages(phase.shared, threads, kept)
        own = np.array([self._stages(each, 1, kept) for each in phase.alone], np.int64)
        kept.append(own)
        return [*shared, own.ctypes.data]

    def _stages(self, stages: Sequence[StageTable], threads: int, kept: list[Any]) -> list[int]:
        """Where stages for the driver lie, and how many there are."""
        table = np.array([self._stage(each, threads, kept) for each in stages], np.int64)
        kept.append(table)
        return [table.ctypes.data, len(stages)]

    def _room(self, stage: StageTable) -> int:
        """Numbers that the largest task of a stage needs for what is loaded before it."""
        sizes = [
            len(self._packed(self._owners[id(table)], launch))
            * (self._chunk(table, launch) or int(launch.work.max(initial=0)))
            for table, launch in stage.launches
        ]
        largest = max(sizes, default=0)
        return -(-largest // LINE) * LINE + APART if largest else 0

    def _chunk(self, table: ClassTable, launch: Launch) -> int:
        """Elements of a task at a time; 0 where it goes by rows or leaves sums of it all."""
        kernel = launch.kernel
        return 0 if kernel.layout == "rows" or kernel.reductions else CHUNK

    def _packed(self, owner: StepClass, launch: Launch) -> Ints:
        """The records of the buffers that the driver loads and saves around each task."""
        variant, by_task = owner.table.variant, owner.buffers.packing.by_task
        touched = {*launch.kernel.reads, *launch.kernel.writes}
        touched -= in_strips(launch.kernel, by_task).keys()
        records = [
            (
                variant.buffers.index(name),
                len(variant.buffers) + variant.stored.index(name),
                _codec(f"load_{codec.name}") if name in launch.kernel.reads else 0,
                _codec(f"save_{codec.name}") if name in launch.kernel.writes else 0,
            )
            for name, codec in by_task.items()
            if name in touched
        ]
        return np.array(records, np.int64).reshape(-1, 4)

    def _stage(self, stage: StageTable, threads: int, kept: list[Any]) -> list[int]:
        """One `struct stage` of the driver."""
        passes = np.zeros((len(stage.launches), 12), np.int64)
        for row, (table, launch) in enumerate(stage.launches):
            packed = self._packed(self._owners[id(table)], launch)
            kept.append(packed)
            passes[row] = (
                self._kernels[id(table), launch.kernel.name],
                len(launch.tasks),
                launch.tasks.ctypes.data,
                table.pointers.ctypes.data,
                table.pointers.shape[1],
                table.shapes.ctypes.data,
                table.scalars.ctypes.data,
                table.scalars.shape[1],
                packed.ctypes.data,
                len(packed),
                launch.kernel.layout == "rows",
                self._chunk(table, launch),
            )
        ends = deal([launch.work for _, launch in stage.launches], threads)
        kept += [passes, ends]
        return [
            *(passes.ctypes.data, len(passes), ends.ctypes.data, len(ends)),
            *(stage.finish.ctypes.data, len(stage.finish)),
            *(stage.finish_shared.ctypes.data, len(stage.finish_shared)),
        ]


def _aligned(count: int) -> NDArray[np.float32]:
    """Room for `count` numbers that begins where a pair of cache lines does."""
    whole = np.empty(count + LINE, np.float32)
    skipped = -whole.ctypes.data % (4 * LINE) // 4
    return whole[skipped : skipped + count]


def _codec(name: str) -> int:
    return _address(getattr(codec_functions(), name))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _addresses(program: Program, step_class: StepClass) -> Iterator[tuple[str, int]]:
    """The functions of a class's kernels, by the kernels' names. Those in pairs find all as
    float32, and so are of a library of their own."""
    variant, buffers = step_class.table.variant, step_class.buffers
    by_task, dtype = buffers.packing.by_task, step_class.dtype
    kept = {name: PLAIN[each].name for name, each in buffers.types.items()}
    kept |= {"g": PLAIN[dtype].name, **buffers.codecs}
    single = compute_dtype(dtype) is torch.float32
    paired = {each.name for each in variant.kernels if single and in_pairs(each, kept)}
    for kernel in variant.kernels:
        if kernel.name in paired:
            types = dict.fromkeys(buffers.types, torch.float32)
            flags = [*PAIRED_FLAGS, *storage_flags(program, torch.float32, types)]
            text = program.c_source + pairs_source(variant, kept)
            library, suffix = load_kernels(text, "float32", *flags), SUFFIX
        else:
            flags = [*storage_flags(program, dtype, buffers.types)]
            text = program.c_source + strips_source(variant, by_task)
            library = load_kernels(text, str(dtype).removeprefix("torch."), *flags)
            suffix = SUFFIX if in_strips(kernel, by_task) else ""
        yield kernel.name, _address(getattr(library, kernel.name + suffix))


def storage_flags(
    program: Program, dtype: torch.dtype, types: Mapping[str, torch.dtype]
) -> Iterator[str]:
    """What a build for parameters of `dtype` must be told of how buffers lie in memory, by the
    `types` of their elements: nothing of those that lie as the rule declares them."""
    real = compute_dtype(dtype)
    declared = {state.name: state.storage for state in program.states} | {"p": "param"}
    usual = {"compute": real, "param": dtype}
    for name, each in types.items():
        kind, storage = PLAIN[each].name, declared[name]
        if each is not usual.get(storage) and kind != storage:
            spelt = re.sub(r"\W", "_", name)
            element, widen, narrow = ELEMENTS[kind] if each is not real else ("real", "", "")
            yield f"-D{spelt}_stored={element}"
            yield f"-D{spelt}_widen={widen}"
            yield f"-D{spelt}_narrow={narrow}"


def deal(work: Sequence[Ints], parts: int) -> Ints:
    """Where each of `parts` contiguous ranges of tasks ends, for about equal work."""
    costs = np.concatenate([np.zeros(0, np.int64), *work]) + TASK_WORK
    if not len(costs):
        return np.zeros(parts, np.int64)
    middles = np.cumsum(costs) - costs / 2
    goals = costs.sum() * np.arange(1, parts + 1) / parts
    ends: Ints = np.searchsorted(middles, goals).astype(np.int64)
    return ends
