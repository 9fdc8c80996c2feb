"""Addresses into a table on the device, as arguments of a kernel.

A CUDA graph keeps the arguments of its kernels, so that a replay finds the gradients that were
there when it was captured, whatever the table holds by then.

Relies on: nothing. Does not do: the usual upload, from pinned memory (launch.py).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton types its functions itself, from their arguments.

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

WIDTH = 8
"""Addresses of one launch."""


@triton.jit(do_not_specialize=["first", "last", "column", "a", "b", "c", "d", "e", "f", "g", "h"])
def store(table, first, last, column, a, b, c, d, e, f, g, h, K: tl.constexpr):
    """table[first + i, column] = the i-th address. Behind row `last` comes the last address again,
    for that row."""
    base = table + column
    tl.store(base + first * K, a)
    tl.store(base + tl.minimum(first + 1, last) * K, b)
    tl.store(base + tl.minimum(first + 2, last) * K, c)
    tl.store(base + tl.minimum(first + 3, last) * K, d)
    tl.store(base + tl.minimum(first + 4, last) * K, e)
    tl.store(base + tl.minimum(first + 5, last) * K, f)
    tl.store(base + tl.minimum(first + 6, last) * K, g)
    tl.store(base + tl.minimum(first + 7, last) * K, h)


def place(table: Tensor, column: int, width: int, addresses: Sequence[int]) -> int:
    """Writes `addresses` into a column of `table`, whose rows have `width` entries; the number of
    launches."""
    last = len(addresses) - 1
    for first in range(0, last + 1, WIDTH):
        part = list(addresses[first : first + WIDTH])
        part += [addresses[-1]] * (WIDTH - len(part))
        store[(1,)](table, first, last, column, *part, K=width, num_warps=1, enable_fp_fusion=False)
    return -(-len(addresses) // WIDTH)
