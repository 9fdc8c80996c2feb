"""A plan's Triton kernels on real tensors, beside what evaluation.py says of the same plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optdsl.codegen.prologue import triton_source
from optdsl.ir.nodes import reachable
from optdsl.runtime import program
from optdsl.runtime.counters import Counters
from optdsl.runtime.parameters.cohorts import ONE, Sizes
from optdsl.runtime.stages.tables import (
    ClassTable,
    Cutting,
    Entry,
    ResultLayout,
    StageBuilder,
    class_table,
)
from optdsl.runtime.triton.launch import TritonRunner
from optdsl.schedule.plan import Buffer, Domain, KernelPass, LibraryPass, Plan, Variant
from optdsl.types import Storage
from tests.evaluation import STREAM, Parameter, begins, evaluate, run_step

CUTTING = Cutting(flat=64, row_elements=64, column_rows=8)
"""Small tasks, so that small tensors have several: the interpreter takes 5 ms a program."""

DTYPES = {
    Storage.FLOAT32: torch.float32,
    Storage.BF16: torch.bfloat16,
    Storage.FP16: torch.float16,
}


def real_of(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def storage_dtype(storage: Storage, dtype: torch.dtype) -> torch.dtype:
    own = {Storage.PARAM: dtype, Storage.COMPUTE: real_of(dtype)}
    return own[storage] if storage in own else DTYPES[storage]


@dataclass
class Run:
    """`tensors` are the buffers that the kernels use, `wanted` those of the evaluation, by subject
    and name; `rounded` says which the kernels store in fewer bits than values have."""

    tensors: list[dict[str, Tensor]]
    wanted: list[dict[str, Tensor]]
    runner: TritonRunner
    launches: int


Shape = tuple[int, int, int]
EXTENT = {Domain.ROW: (1, 1, 0), Domain.COL: (1, 0, 1), Domain.MATRIX: (1, 0, 0)}
SHARED = (Domain.GROUP, Domain.ALL)


def run(
    plan: Plan,
    shapes: Sequence[Shape],
    dtype: torch.dtype = torch.float32,
    *,
    variant: int = 0,
    device: str = "cpu",
    cutting: Cutting = CUTTING,
    offset: int = 0,
    groups: int = 1,
    change: Callable[[list[dict[str, Tensor]]], None] = lambda tensors: None,
    seed: int = 0,
) -> Run:
    """Runs all stages on random tensors of `shapes` (batch, rows, cols), both ways. `offset` moves
    every tensor by so many elements from a multiple of 16 bytes; `change` edits the inputs."""
    chosen = plan.variants[variant]
    generator = torch.Generator().manual_seed(seed)
    count = len(chosen.scalars)
    numbers = 0.1 + 0.8 * torch.rand(groups, count, generator=generator, dtype=torch.float64)
    tensors = [
        _make_tensors(chosen, shape, dtype, generator, offset, torch.device(device))
        for shape in shapes
    ]
    _share(chosen, tensors, groups)
    change(tensors)
    wanted = [
        {name: each.to("cpu", torch.float64, copy=True) for name, each in own.items()}
        for own in tensors
    ]
    _share(chosen, wanted, groups)
    parameters = [
        Parameter(own, numbers[index % groups].tolist(), index % groups, {})
        for index, own in enumerate(wanted)
    ]
    run_step(plan, chosen, parameters)

    even = offset == 0 and not (chosen.planes and any(b * r * c % 16 for b, r, c in shapes))
    table = _Plan(plan, chosen, shapes, tensors, dtype, cutting, even, numbers)
    counters = Counters()
    runner = TritonRunner(_Source(triton_source(plan)), table, counters)  # type: ignore[arg-type]
    runner.begin(addresses=True)
    places = {stage.number: index for index, stage in enumerate(table.stages)}
    for number in sorted({each.stage for each in chosen.passes}):
        if number in places:
            runner.run(places[number], places[number] + 1)
        for each in chosen.passes:
            if isinstance(each, LibraryPass) and each.stage == number:
                _library(each, parameters, tensors)
    back = [{name: each.cpu() for name, each in own.items()} for own in tensors]
    return Run(back, wanted, runner, counters.launches)


@dataclass
class _Source:
    """All that the runner reads of a Program."""

    triton_source: str


def _make_tensors(
    variant: Variant,
    shape: Shape,
    dtype: torch.dtype,
    generator: torch.Generator,
    offset: int,
    device: torch.device,
) -> dict[str, Tensor]:
    own = {}
    for buffer in variant.buffers:
        extent = _extent(buffer, shape)
        values = torch.randn(extent, generator=generator, dtype=torch.float64)
        if buffer.role == "state":
            values = values.abs()
        stored = storage_dtype(buffer.storage, dtype)
        whole = torch.zeros(values.numel() + offset, dtype=stored, device=device)
        own[buffer.name] = whole[offset:].view(extent).copy_(values)
    return own


def _extent(buffer: Buffer, shape: Shape) -> list[int]:
    """The shape of a buffer as [batch, rows, cols]; what only library passes see has its own."""
    if buffer.domain is Domain.SHAPED:
        batch, rows, cols = shape
        sizes = {"rows": rows, "cols": cols, "numel": batch * rows * cols}
        sizes |= {"short": min(rows, cols), "long": max(rows, cols)}
        own = [each if isinstance(each, int) else sizes[each] for each in buffer.shape[-2:]]
        return [batch, *own]
    kept = (1, 1, 1) if buffer.domain is Domain.FULL else EXTENT.get(buffer.domain, (0, 0, 0))
    return [size if keep else 1 for size, keep in zip(shape, kept, strict=True)]


def _share(variant: Variant, tensors: list[dict[str, Tensor]], groups: int) -> None:
    """One tensor a group, or a run, for the buffers that are shared."""
    for buffer in variant.buffers:
        for index, own in enumerate(tensors):
            if buffer.domain in SHARED:
                first = index % groups if buffer.domain is Domain.GROUP else 0
                own[buffer.name] = tensors[first][buffer.name]


@dataclass
class _Buffers:
    """All that the runner reads of a ClassBuffers."""

    types: dict[str, torch.dtype]
    codecs: dict[str, str] = field(default_factory=dict)
    draws: bool = False


@dataclass
class _Class:
    """All that the runner reads of a StepClass."""

    table: ClassTable
    dtype: torch.dtype
    aligned: bool
    buffers: _Buffers


class _Plan:
    """All that the runner reads of a DevicePlan."""

    def __init__(
        self,
        plan: Plan,
        variant: Variant,
        shapes: Sequence[Shape],
        tensors: Sequence[dict[str, Tensor]],
        dtype: torch.dtype,
        cutting: Cutting,
        aligned: bool,
        numbers: Tensor,
    ) -> None:
        groups = numbers.shape[0]
        slots = [(slot, str(domain)) for slot, domain in plan.slots.items()]
        layout = ResultLayout(slots, groups)
        buffers = tuple(each.name for each in variant.buffers)
        kernels = [described(each) for each in variant.passes if isinstance(each, KernelPass)]
        bare = program.Variant(
            buffers, tuple(kernels), (), lambda h, e: (), (), stored=variant.stored
        )
        entries = [
            Entry(Sizes(b * r * c, r, c, b, 2), index % groups, index % groups)
            for index, (b, r, c) in enumerate(shapes)
        ]
        entries += [Entry(ONE, group, group, "group") for group in range(groups)]
        entries += [Entry(ONE, 0, 0, "all")]
        table = class_table(bare, entries, groups, layout)
        if variant.draws:
            table.pointers[:, -1] = STREAM
        table.scalars = numbers.numpy()
        for row in range(len(entries)):
            # A group's or the run's entry has the pointers of its first member: the shared ones.
            shared = row - len(shapes) if row < len(entries) - 1 else 0
            own = tensors[row if row < len(shapes) else shared]
            scalars = numbers[entries[row].row].tolist()
            table.pointers[row, : len(buffers)] = begins(variant, own, scalars)
        builder = StageBuilder(_Source(""), layout, cutting)  # type: ignore[arg-type]
        for each in variant.passes:
            if isinstance(each, KernelPass):
                kind = str(each.domain) if each.domain in SHARED else "parameter"
                chosen = [index for index, entry in enumerate(entries) if entry.kind == kind]
                builder.add(table, described(each), chosen, each.stage)
        self.stages = builder.finished()
        types = {name: tensors[0][name].dtype for name in variant.stored}
        self.classes = [_Class(table, dtype, aligned, _Buffers(types))]
        self.device = tensors[0]["p"].device
        self.partials, self.results = builder.partials, layout.size


def _operands(kernel: KernelPass) -> list[str]:
    """The buffers that the kernel reads."""
    sinks = [s for each in kernel.phases for s in (*each.rows, *each.partials, *each.stores)]
    values = reachable(sink.value for sink in sinks)
    return sorted({value.attr("buffer") for value in values if value.op == "load"})


def described(kernel: KernelPass) -> program.Kernel:
    reductions = tuple(
        program.Reduction(each.slot, each.op, str(each.domain)) for each in kernel.reductions
    )
    writes = tuple(each.buffer for each in kernel.stores)
    return program.Kernel(
        *(kernel.stage, kernel.name, str(kernel.domain), kernel.layout),
        *(tuple(_operands(kernel)), writes, reductions, kernel.draws),
    )


def _library(
    each: LibraryPass, parameters: Sequence[Parameter], tensors: Sequence[dict[str, Tensor]]
) -> None:
    """The library pass on what the kernels left, worked in float64."""
    for parameter, own in zip(parameters, tensors, strict=True):
        buffers = {name: value.to("cpu", torch.float64, copy=True) for name, value in own.items()}
        copy = Parameter(buffers, parameter.scalars, parameter.group, parameter.results)
        for store in each.outputs:
            own[store.buffer].copy_(evaluate(store.value, copy, {}))
