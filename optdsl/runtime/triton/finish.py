"""The kernel that finishes reductions: one program a record of the finish table.

Input: records (see program.py), partials or results. Output: results. The order of every sum is
fixed by the record alone, so that the bits are the same from run to run; no atomics.

Relies on: triton/math.py. Does not do: launching (launch.py).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton types its functions itself, from their arguments.

from __future__ import annotations

import triton
import triton.language as tl

from optdsl.runtime.triton.math import greatest, maximum


@triton.jit
def finish(records, source, results, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """results[target + j] = op over i < count of source[first + i * stride + j], j < width, in
    float64. COUNT partials are taken at once; no record is wider than WIDTH."""
    record = records + 6 * tl.program_id(0)
    operation = tl.load(record)
    first = source + tl.load(record + 1)
    stride = tl.load(record + 2)
    count = tl.load(record + 3).to(tl.int32)
    target = results + tl.load(record + 4)
    width = tl.load(record + 5).to(tl.int32)
    i = tl.arange(0, COUNT)[:, None].to(tl.int64)
    j = tl.arange(0, WIDTH)
    across = (j < width)[None, :]
    if operation == 0:
        total = tl.zeros([COUNT, WIDTH], tl.float64)
        for start in range(0, count, COUNT):
            at = first + (start + i) * stride + j[None, :]
            total += tl.load(at, (start + i < count) & across, other=0.0)
        tl.store(target + j, tl.sum(total, axis=0), j < width)
    else:
        sign = tl.where(operation == 1, 1.0, -1.0).to(tl.float64)  # min x = -max -x
        largest = tl.full([COUNT, WIDTH], float("-inf"), tl.float64)
        for start in range(0, count, COUNT):
            at = first + (start + i) * stride + j[None, :]
            value = tl.load(at, (start + i < count) & across, other=0.0) * sign
            value = tl.where(start + i < count, value, float("-inf"))
            largest = maximum(largest, value)
        tl.store(target + j, greatest(largest, 0) * sign, j < width)
