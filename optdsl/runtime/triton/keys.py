"""The keys of random roundings where the device alone counts steps: rounding.rounding_keys.

Kernels find a parameter's key in the table of pointers, in the column of what lies beside p. Where
a plan resides (residence.py), t lies in `counts`, and this kernel follows the prologue.

    members [n, 3]   int64: seed, row of `counts`, number of the parameter

Relies on: rounding.py. Does not do: the keys of steps that the host counts (packing.py).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton types its functions itself, from their arguments.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def draw(members, counts, pointers, COLUMN: tl.constexpr, K: tl.constexpr):
    """The keys of this step, a program each; `pointers` has K columns."""
    member = members + 3 * tl.program_id(0)
    seed = tl.load(member)
    update = tl.load(counts + 2 * tl.load(member + 1)).to(tl.int64)
    key = _mixed(tl.full([], 0, tl.uint32), seed)
    key = _mixed(key, seed >> 32)
    key = _mixed(key, update)
    key = _mixed(key, tl.load(member + 2))
    tl.store(pointers + K * tl.program_id(0) + COLUMN, key.to(tl.int64))


@triton.jit
def _mixed(x, word):
    """The next word taken into a hash of 32 bits (lowbias32)."""
    x = (x ^ word.to(tl.uint32)) + 0x9E3779B9
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)
