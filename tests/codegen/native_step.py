"""Runs a plan's generated C with tables made here, one task after another.

Simple on purpose, and no part of the runtime: tests of the generator must not share its mistakes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optdsl import hostmath
from optdsl.codegen.cpu import c_source
from optdsl.codegen.host import Host
from optdsl.runtime.native import load_kernels
from optdsl.runtime.program import require
from optdsl.schedule.plan import Domain, KernelPass, LibraryPass, Plan, Variant
from optdsl.types import Storage
from tests.evaluation import STREAM, Parameter, begins, owners

FOLD = {"sum": np.add, "max_of": np.maximum, "min_of": np.minimum}


def storage_dtype(plan: Plan, storage: Storage, domain: Domain, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a buffer lies in memory for parameters of `dtype`."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    if domain is not Domain.FULL:
        return compute
    return {
        Storage.COMPUTE: compute,
        Storage.PARAM: dtype,
        Storage.FLOAT32: torch.float32,
        Storage.BF16: torch.bfloat16,
        Storage.FP16: torch.float16,
    }[storage]


def scalar_rows(plan: Plan) -> Callable[[Variant, dict[str, int]], list[float]]:
    """The scalar row of a parameter with given sizes, by the generated host functions, with the
    default hyperparameters and t = 9, when RAdam's root has begun."""
    host = Host(plan)
    names: dict[str, Any] = {**vars(hostmath), "require": require, "inf": inf, "nan": nan}
    exec("\n\n".join(host.texts()), names)
    hypers = {each.name: each.default for each in plan.rule.hypers}
    attributes = {each.name: each.default for each in plan.rule.attributes}
    names["check"](hypers)
    hypers |= {s.key: names["fill"](s.name, hypers, None) for s in plan.rule.host_states}

    def row(variant: Variant, sizes: dict[str, int]) -> list[float]:
        known = {**sizes, "t": 9, "steps": 9, "g_scale": 1.0, "attributes": attributes}
        e = SimpleNamespace(**known, first=lambda state: False)
        return [float(each) for each in names[host.scalars[variant.index]](hypers, e)]

    return row


@dataclass
class Layout:
    """Where results of each parameter stand, as runtime/program.py says."""

    plan: Plan
    parameters: Sequence[Parameter]
    size: int = 0
    offsets: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = {domain: self.slots(domain) for domain in Domain}
        groups = len({each.group for each in self.parameters})
        shared = len(count[Domain.ALL])
        self.size = shared + groups * len(count[Domain.GROUP])
        for each in self.parameters:
            group = shared + each.group * len(count[Domain.GROUP])
            tensor = self.size
            arrays = tensor + len(count[Domain.TENSOR])
            batch, cols = each.sizes["batch"], each.sizes["cols"]
            many = len(count[Domain.MATRIX]) * batch + len(count[Domain.COL]) * batch * cols
            self.size = arrays + many
            self.offsets.append((tensor, group, arrays))

    def slots(self, domain: Domain) -> list[str]:
        return [slot for slot, each in self.plan.slots.items() if each is domain]

    def place(self, slot: str, index: int, matrix: int) -> int:
        """Where the result of `slot` begins for parameter `index`."""
        domain = self.plan.slots[slot]
        order = self.slots(domain).index(slot)
        tensor, group, arrays = self.offsets[index]
        sizes = self.parameters[index].sizes
        if domain is Domain.ALL:
            return order
        if domain is Domain.GROUP:
            return group + order
        if domain is Domain.TENSOR:
            return tensor + order
        if domain is Domain.MATRIX:
            return arrays + order * sizes["batch"] + matrix
        before = len(self.slots(Domain.MATRIX)) * sizes["batch"]
        return arrays + before + (order * sizes["batch"] + matrix) * sizes["cols"]


@dataclass
class NativeStep:
    """A variant's kernels for parameters of one dtype. `flat` and `rows` cut the tasks."""

    plan: Plan
    variant: Variant
    dtype: torch.dtype
    flat: int = 1000
    rows: int = 3

    def __post_init__(self) -> None:
        name = str(self.dtype).removeprefix("torch.")
        self.library = load_kernels(c_source(self.plan), name)

    def stored(self, parameter: Parameter) -> dict[str, Tensor]:
        """The buffers of `parameter` as they lie in memory."""
        found = {}
        for each in self.variant.buffers:
            dtype = storage_dtype(self.plan, each.storage, each.domain, self.dtype)
            found[each.name] = parameter.buffers[each.name].to(dtype).contiguous()
        return found

    def run(
        self,
        parameters: Sequence[Parameter],
        memory: Sequence[dict[str, Tensor]],
        oracle: Sequence[Parameter] = (),
    ) -> None:
        """One step on `memory`, which `stored` gave for each of `parameters`. What library passes
        give is taken from `oracle`: they amplify errors, and are tested elsewhere."""
        layout = Layout(self.plan, parameters)
        results = np.full(layout.size, np.nan)
        for stage in sorted({each.stage for each in self.variant.passes}):
            passes = [each for each in self.variant.passes if each.stage == stage]
            for each in passes:
                if isinstance(each, KernelPass):
                    self.kernel(each, layout, memory, results)
            for each in passes:
                if isinstance(each, LibraryPass):
                    for own, given in zip(memory, oracle, strict=True):
                        for store in each.outputs:
                            own[store.buffer].copy_(given.buffers[store.buffer])

    def kernel(
        self,
        kernel: KernelPass,
        layout: Layout,
        memory: Sequence[dict[str, Tensor]],
        results: np.ndarray,
    ) -> None:
        function = getattr(self.library, kernel.name)
        fresh: dict[int, tuple[str, float]] = {}
        for index in owners(kernel.domain, [each.group for each in layout.parameters]):
            parameter = layout.parameters[index]
            sizes = parameter.sizes
            shape = [sizes[name] for name in ("numel", "rows", "cols", "batch")]
            row = np.array([*shape, 0, *layout.offsets[index]], np.int64)
            addresses = begins(self.variant, memory[index], parameter.scalars)
            beside = [0] * len(self.variant.stored)
            pointers = np.array([*addresses, *beside, STREAM & 2**64 - 1], np.uint64)
            scalars = np.array(parameter.scalars, np.float64)
            for lo, hi in self.tasks(kernel, sizes):
                widths = [
                    sizes["cols"] if each.domain is Domain.COL else 1 for each in kernel.reductions
                ]
                start = 5  # partials need not begin at the table's begin
                partials = np.full(start + sum(widths) + 3, np.nan)
                task = np.array([0, lo, hi, start], np.int64)
                tables = (task, pointers, row, scalars, partials, results)
                function(*(ctypes.c_void_p(each.ctypes.data) for each in tables))
                assert np.isnan(partials[:start]).all() and np.isnan(partials[-3:]).all()
                per_matrix = {Domain.COL: sizes["cols"]}.get(kernel.domain, sizes["rows"])
                for each, width in zip(kernel.reductions, widths, strict=True):
                    first = layout.place(each.slot, index, lo // per_matrix)
                    for i in range(width):
                        value = partials[start + i]
                        op, before = fresh.get(first + i, (each.op, None))
                        joined = value if before is None else FOLD[op](before, value)
                        fresh[first + i] = (each.op, joined)
                    start += width
        for place, (_, value) in fresh.items():
            results[place] = value

    def tasks(self, kernel: KernelPass, sizes: dict[str, int]) -> list[tuple[int, int]]:
        units = {
            Domain.FULL: sizes["rows"] if kernel.layout == "rows" else sizes["numel"],
            Domain.ROW: sizes["rows"],
            Domain.COL: sizes["cols"],
            Domain.MATRIX: sizes["batch"],
        }.get(kernel.domain, 1)
        by_matrix = kernel.layout == "rows" or kernel.domain in (Domain.ROW, Domain.COL)
        step = self.rows if kernel.layout == "rows" else self.flat
        return [
            (matrix * units + lo, matrix * units + min(lo + step, units))
            for matrix in range(sizes["batch"] if by_matrix else 1)
            for lo in range(0, units, step)
        ]
