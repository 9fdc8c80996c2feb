"""The limit: loops that read and write what a rule's passes do, and compute next to nothing.

Input: the passes of a plan, as `explain` reports them. Output: a function that moves as many
bytes over buffers that are given. In place, in chunks of 64 KiB over one parallel region a pass,
as the compiled rule does it: a copy or a triad reads more than it counts, and streaming stores
lose where what is written was read. Relies on: the runtime's C builder. Does not do: time itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optdsl.explain import PassReport, VariantReport
from optdsl.runtime.arrays import Ints
from optdsl.runtime.native import load

CHUNK = 16_384
"""Elements of a chunk: 64 KiB of float32."""


@dataclass(frozen=True)
class Shape:
    """A pass over memory: how many arrays it changes in place, and how many it only reads."""

    changed: int
    read: int


def shape_of(kernel: PassReport) -> Shape:
    """Of a pass: arrays of four bytes an element, whatever stands in them."""
    read = sum(each.bytes for each in kernel.reads) / 4
    written = sum(each.bytes for each in kernel.writes) / 4
    return Shape(round(written), max(0, round(read - written)))


def shapes_of(variant: VariantReport) -> list[Shape]:
    """The passes of a variant that go over memory."""
    found = [shape_of(each) for each in variant.passes if each.over == "elements"]
    return [each for each in found if each.changed or each.read]


def loop_source(shape: Shape) -> str:
    """C for one pass: every changed array takes a part of itself and of all that is read.
    `table` holds the arrays' addresses for each chunk, `counts` its elements."""
    changed = [f"w{k}" for k in range(shape.changed)]
    names = [*changed, *(f"r{k}" for k in range(shape.read))]
    arrays = [
        f"        float *restrict {name} = table[chunk * {len(names)} + {k}];"
        for k, name in enumerate(names)
    ]
    lines = [f"            const float all = {' + '.join(f'{name}[i]' for name in names)};"]
    lines += [f"            {name}[i] = 0.9f * {name}[i] + 1e-6f * all;" for name in changed]
    if not changed:
        lines.append("            sum += all;")
    return "\n".join(
        [
            "void loop(float *const *table, const long long *counts, long long chunks,",
            "          int threads, float *result)",
            "{",
            "    float sum = 0;",
            "    #pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : sum)",
            "    for (long long chunk = 0; chunk < chunks; chunk++) {",
            *arrays,
            "        #pragma omp simd reduction(+ : sum)",
            "        for (long long i = 0; i < counts[chunk]; i++) {",
            *lines,
            "        }",
            "    }",
            "    *result = sum;",
            "}",
            "",
        ]
    )


def roofline(shapes: Sequence[Shape], buffers: Sequence[Sequence[Tensor]]) -> Callable[[], None]:
    """One run of all passes over `buffers`: lists of equally long float32 tensors in host memory,
    one list for each tensor of the case. A pass that wants more arrays than a list has reads them
    again. Raises NativeError without a C compiler."""
    calls = []
    for shape in shapes:
        loop = load(loop_source(shape), "-fopenmp").loop
        loop.restype = None
        table, counts = _chunks(shape.changed + shape.read, buffers)
        calls.append((loop, table, counts))
    result = ctypes.c_float()

    def run() -> None:
        threads = ctypes.c_int(torch.get_num_threads())
        for loop, table, counts in calls:
            places = (ctypes.c_void_p(each.ctypes.data) for each in (table, counts))
            loop(*places, ctypes.c_longlong(len(counts)), threads, ctypes.byref(result))

    return run


def _chunks(arrays: int, buffers: Sequence[Sequence[Tensor]]) -> tuple[Ints, Ints]:
    """For each chunk of each tensor the addresses of `arrays` arrays, and its elements."""
    addresses, counts = [], []
    for given in buffers:
        chosen = [given[k % len(given)].data_ptr() for k in range(arrays)]
        for start in range(0, given[0].numel(), CHUNK):
            addresses.append([each + 4 * start for each in chosen])
            counts.append(min(CHUNK, given[0].numel() - start))
    return np.array(addresses, np.int64), np.array(counts, np.int64)
