"""The block codecs of codecs.py as functions for Triton kernels: arithmetic on codes, no tables.

Input and output, with CODEC one of "int8", "uint8", "int4", "uint4", "fp8" (u: without a sign):

    decode_block(codes, scale, CODEC) -> values     uint8 [R, B], float32 [R] -> float32 [R, B]
    encode_block(values, CODEC) -> codes, scale     real [R, B] -> uint8 [R, B], float32 [R]
    unpack(packed) -> codes, pack(codes) -> packed  uint8 [R, B / 2] <-> [R, B], of four bits

B is the codec's block, BLOCK(CODEC). What lies behind the end of a tensor is to be loaded as 0. Bit
for bit those of codecs.py, compiled and in Triton's interpreter, for NVIDIA and AMD.

A dynamic map is a straight line in each decade. Let q count the entries above 0 and `bins` those of
the decade, 2^floor(log2 q): the entry is (18 q - 16 bins + 9) / (2 step), and the boundary below it
(9 q - 8 bins) / step with step = S 10^D / 5^decade: all of them small integers, so that one rounded
division gives the entry, and one fma on which side of a boundary a number lies.

Relies on: triton. Does not do: loads, stores, masks (the generated kernels).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton types its functions itself, from their arguments.

from __future__ import annotations

import triton
import triton.language as tl

from optdsl.runtime.triton_math import INTERPRETED, div

BLOCKS = {"int8": 256, "uint8": 256, "int4": 128, "uint4": 128, "fp8": 256}
"""Numbers that share a scale, by codec."""


@triton.jit
def decode_block(codes, scale, CODEC: tl.constexpr):
    """The values [R, B] of `codes`, one a byte; `scale` is [R]."""
    code = codes.to(tl.int32)
    if CODEC == "fp8":
        entry = _fp8_entry(code)
    elif CODEC == "uint4":
        entry = (code + 1).to(tl.float32) * 0.0625
    elif CODEC == "int4":
        entry = _dynamic_entry(code - 7, 1, 3)
    elif CODEC == "int8":
        entry = _dynamic_entry(code - 127, 1, 7)
    else:
        entry = _dynamic_entry(code + 1, 2, 7)
    return entry * scale[:, None]


@triton.jit
def encode_block(values, CODEC: tl.constexpr):
    """The codes [R, B], one a byte, and scales [R] of `values` [R, B]; where one of a block is NaN
    or infinite, its codes are 0 and its scale is NaN."""
    x = values.to(tl.float32)
    largest = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)
    finite = largest < 0x7F800000
    largest = tl.where(finite, largest, 0)
    scale = tl.maximum(largest.to(tl.float32, bitcast=True), 1e-12)
    if CODEC == "fp8":
        scale = div(scale, 448.0)
    ratio = div(tl.where(finite[:, None], x, 0.0), scale[:, None])
    if CODEC == "fp8":
        code = _fp8_code(ratio)
    elif CODEC == "uint4":
        code = tl.maximum(ratio * 16 - 0.5, 0.0).to(tl.int32)
    elif CODEC == "int4":
        code = _dynamic_code(ratio, 1, 3) + 7
    elif CODEC == "int8":
        code = _dynamic_code(ratio, 1, 7) + 127
    else:
        code = _dynamic_code(ratio, 2, 7) - 1
    code = tl.where(finite[:, None], tl.maximum(code, 0), 0)
    return code.to(tl.uint8), tl.where(finite, scale, float("nan"))


@triton.jit
def unpack(packed):
    """Two codes of four bits of each byte, the upper one first."""
    return tl.interleave(packed >> 4, packed & 15)


@triton.jit
def pack(codes):
    """The inverse of `unpack`."""
    rows: tl.constexpr = codes.shape[0]
    half: tl.constexpr = codes.shape[1] // 2
    upper, lower = tl.split(tl.reshape(codes, (rows, half, 2)))
    return (upper << 4) | lower


@triton.jit
def _fma(x, y, z):
    """x * y + z, rounded once. The interpreter would round twice; there float64 holds all bits of
    what is multiplied here: 24 of a ratio and 17 of a step."""
    if INTERPRETED:
        wide = x.to(tl.float64) * y.to(tl.float64) + tl.cast(z, tl.float64)
        result = wide.to(tl.float32)
    else:
        result = tl.fma(x, y, tl.cast(z, tl.float32))
    return result


@triton.jit
def _power_of_two(n):
    """2^n of whole numbers."""
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _step(decade, S: tl.constexpr, D: tl.constexpr):
    """S 10^D / 5^decade, exactly."""
    below = D - 1 - decade
    fives = tl.where((below & 1) != 0, 5.0, 1.0) * tl.where((below & 2) != 0, 25.0, 1.0)
    return fives * tl.where((below & 4) != 0, 625.0, 1.0) * (S * 2**D * 5.0)


@triton.jit
def _dynamic_entry(count, S: tl.constexpr, D: tl.constexpr):
    """The entry of count = q, or of -q."""
    q = tl.abs(count).to(tl.float32)
    bits = q.to(tl.int32, bitcast=True)
    exponent = (bits >> 23) - 127
    bins = (bits & 0x7F800000).to(tl.float32, bitcast=True)
    decade = tl.minimum(tl.maximum(exponent - (S - 1), 0), D - 1)
    entry = div(18 * q - 16 * bins + 9, 2 * _step(decade, S, D))
    entry = tl.where(q >= S * 2**D, 1.0, tl.where(q >= S, entry, 0.0))
    return tl.where(count < 0, -entry, entry)


@triton.jit
def _dynamic_code(ratio, S: tl.constexpr, D: tl.constexpr):
    """q of the nearest entry, -q where it is negative. Ties go to the larger number."""
    size = tl.abs(ratio) if S == 1 else tl.maximum(ratio, 0.0)
    # A straight line for the logarithm finds the decade, or the one below it.
    bits = size.to(tl.int32, bitcast=True).to(tl.float32)
    guess = (bits * (0.3010299956639812 / 8388608) + (D - 0.7 - 127 * 0.3010299956639812)).to(
        tl.int32
    )
    decade = tl.minimum(tl.maximum(guess, 0), D - 1)
    step = _step(decade, S, D)
    bins = S * _power_of_two(decade)
    up = _fma(size, step, -10 * bins - 9) >= 0
    step = tl.where(up, step * 0.2, step)
    bins = tl.where(up, 2 * bins, bins)
    near = tl.floor(_fma(size, step, 8 * bins) * (1 / 9) + 0.5)
    rest = _fma(size, step, 8 * bins - 9 * near)
    below = (rest < 0) | ((rest == 0) & (ratio < 0))
    q = tl.minimum(tl.where(below, near - 1, near), 2 * bins - 1)
    # Half of the lowest entry, and half way from the highest but one to 1.
    lowest: tl.constexpr = (2 * S + 9) / 4
    highest: tl.constexpr = (S * 2**D * 5) - 2.25
    q = tl.where((bins == S) & (_fma(size, step, -lowest) < 0), S - 1.0, q)
    top = (bins == S * 2 ** (D - 1)) & (_fma(size, step, -highest) >= 0)
    q = tl.where(top & (ratio > 0), S * 2.0**D, q)
    whole = q.to(tl.int32)
    return tl.where(ratio < 0, -whole, whole) if S == 1 else whole


@triton.jit
def _fp8_entry(code):
    """float8_e4m3fn: 4 bits of exponent, NaN but no infinity; below 2^-6 a multiple of 2^-9."""
    size = code & 0x7F
    normal = ((size << 20) + 0x3C000000).to(tl.float32, bitcast=True)
    value = tl.where(size < 8, size.to(tl.float32) * 0.001953125, normal)
    value = tl.where(size == 0x7F, float("nan"), value)
    return tl.where(code >= 0x80, -value, value)


@triton.jit
def _fp8_code(ratio):
    """To nearest, ties to even."""
    w = ratio.to(tl.int32, bitcast=True)
    size = w & 0x7FFFFFFF
    normal = (size - 0x3C000000 + 0x7FFFF + ((size >> 20) & 1)) >> 20
    # Adding 2^14 leaves multiples of 2^-9 in the last bits.
    small = (tl.abs(ratio) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    return ((w >> 24) & 0x80) | tl.where(size < 0x3C800000, small, normal)
