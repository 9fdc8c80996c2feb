"""The block codecs of codecs.py as functions for Triton kernels: arithmetic on codes, no tables.

Input and output, with CODEC one of "int8", "uint8", "int4", "uint4", "fp8" (u: without a sign):

    decode_block(codes, scale, CODEC) -> values     uint8 [R, B], float32 [R] -> float32 [R, B]
    encode_block(values, CODEC) -> codes, scale     real [R, B] -> uint8 [R, B], float32 [R]
    unpack(packed) -> codes, pack(codes) -> packed  uint8 [R, B / 2] <-> [R, B], of four bits

B is the codec's block, BLOCK(CODEC). What lies behind the end of a tensor is to be loaded as 0. Bit
for bit those of codecs.py, compiled and in Triton's interpreter, for NVIDIA and AMD.

A dynamic map is a straight line in each decade. Let q count the entries above 0 and `bins` those of
the decade, 2^floor(log2 q): the entry is (18 q - 16 bins + 9) / (2 step), and the boundary below it
(9 q - 8 bins) / step with step = S 10^D / 5^decade: all of them small integers, so that few
roundings give the entry, and one fma on which side of a boundary a number lies.

A GPU does half as many comparisons, choices and conversions in a cycle as sums and products, and an
eighth as many reciprocals. Hence what is unusual here: whole numbers live in the last bits of
2^23 + n, divisors are products with constants of two parts, and a block's scale is divided by once.
A step of AdamW with int8 states so has half the instructions, 177 an element on sm_90 for 351.

Relies on: triton. Does not do: loads, stores, masks (the generated kernels).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton types its functions itself, from their arguments.

from __future__ import annotations

import triton
import triton.language as tl

from optdsl.runtime.triton.math import INTERPRETED, div

BLOCKS = {"int8": 256, "uint8": 256, "int4": 128, "uint4": 128, "fp8": 256}
"""Numbers that share a scale, by codec."""


@triton.jit
def decode_block(codes, scale, CODEC: tl.constexpr):
    """The values [R, B] of `codes`, one a byte; `scale` is [R]."""
    code = codes.to(tl.int32)
    if CODEC == "fp8":
        entry = _fp8_entry(code)
    elif CODEC == "uint4":
        entry = _whole(code, 1) * 0.0625
    elif CODEC == "int4":
        entry = _dynamic_entry(_whole(code, -7), 1, 3)
    elif CODEC == "int8":
        entry = _dynamic_entry(_whole(code, -127), 1, 7)
    else:
        entry = _dynamic_entry(_whole(code, 1), 2, 7)
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
    ratio = _ratio(x, scale)
    if CODEC == "fp8":
        code = _fp8_code(ratio)
    elif CODEC == "uint4":
        code = tl.maximum(ratio * 16 - 0.5, 0.0).to(tl.int32)
    elif CODEC == "int4":
        code = _dynamic_code(ratio, 1, 3, 7)
    elif CODEC == "int8":
        code = _dynamic_code(ratio, 1, 7, 127)
    else:
        code = _dynamic_code(ratio, 2, 7, -1)
    code = tl.where(finite[:, None], code, 0)
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
    what is multiplied here: 24 of a ratio and as many of a step or a scale."""
    if INTERPRETED:
        x, y, z = (tl.cast(each, tl.float32).to(tl.float64) for each in (x, y, z))
        result = (x * y + z).to(tl.float32)
    else:
        result = tl.fma(x, tl.cast(y, tl.float32), tl.cast(z, tl.float32))
    return result


@triton.jit
def _whole(code, more: tl.constexpr):
    """code + more as a float32, for a code of eight bits."""
    return (code | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 - more)


@triton.jit
def _ratio(x, scale):
    """x / scale, rounded once, for each number of a block: a quotient within an ulp by a reciprocal
    in two parts, and from what that leaves the quotient itself (Markstein, 1990). The reciprocals
    of scales beyond 2^126 would be subnormal."""
    shrink = tl.where(scale >= 2.0**100, 2.0**-64, 1.0)
    scale = scale * shrink
    upper = div(1.0, scale)
    lower = _fma(-scale, upper, 1.0) * upper
    x = x * shrink[:, None]
    near = _fma(x, upper[:, None], x * lower[:, None])
    return _fma(_fma(near, -scale[:, None], x), upper[:, None], near)


# ---------------------------------------------------------------- dynamic maps


@triton.constexpr_function
def _digits(numerator, denominator, bits):
    """The whole number n of so many bits, and e: n / 2^e is what is below numerator / denominator,
    or that, for numbers below 1."""
    e = bits
    while numerator * 2**e < denominator * 2 ** (bits - 1):
        e += 1
    return numerator * 2**e // denominator, e


@triton.constexpr_function
def _short(divisor):
    """1 / divisor cut to 8 bits: its product with a whole number of 16 is exact."""
    n, e = _digits(1, divisor, 8)
    return n / 2**e


@triton.constexpr_function
def _left(divisor):
    """What `_short` leaves."""
    n, e = _digits(1, divisor, 8)
    return (2**e - n * divisor) / (2**e * divisor)


@triton.constexpr_function
def _cut(place, S, D):
    """The least float32 of the decade at `place`, counted from 1: above 0 at 1, and 1 itself at
    D + 1."""
    step = 4 * S * 2**D * 5 ** (D - max(0, place - 2))
    bound = 4 * (5 * S * 2 ** (place - 1) + 9)
    if place == 1:
        bound = 2 * S + 9
    elif place > D:
        bound, step = 20 * S * 2**D - 9, 4 * S * 2**D * 5
    n, e = _digits(bound, step, 24)
    return (n + (n * step < bound * 2**e)) / 2**e


@triton.jit
def _dynamic_entry(count, S: tl.constexpr, D: tl.constexpr):
    """The entry of count = q, or of -q, a whole number.

    Where bins = 2^n, the divisor of 18 q - 16 bins + 9 is one constant by 5^n. Three bits of the
    exponent are n - 1 with S = 1, from n = 1 on; below it the entry is that of 1, or 0."""
    v = tl.abs(count) + 0.5
    bits = v.to(tl.int32, bitcast=True)
    bins = (bits & 0x7F800000).to(tl.float32, bitcast=True)
    integer = _fma(bins, -16.0, v * 18.0)
    integer *= tl.where((bits & 0x800000) != 0, 5.0, 1.0)
    integer *= tl.where((bits & 0x1000000) != 0, 25.0, 1.0)
    one: tl.constexpr = 2 * S * 2**D * 5 ** (D + S - 2)
    short = _short(one)
    left = _left(one)
    if D > 3:
        many = (bits & 0x2000000) != 0
        short = tl.where(many, _short(one // 625), short)
        left = tl.where(many, _left(one // 625), left)
    entry = tl.minimum(_fma(integer, left, integer * short), 1.0)
    lowest: tl.constexpr = 11 / (2 * 10**D) if S == 1 else 0.0
    entry = tl.where(v < 2, tl.abs(count) * lowest, entry)
    return _with_sign(entry, count) if S == 1 else entry


@triton.jit
def _with_sign(size, of):
    sign = of.to(tl.int32, bitcast=True) & -0x80000000
    return (size.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def _dynamic_code(ratio, S: tl.constexpr, D: tl.constexpr, ZERO: tl.constexpr):
    """ZERO + q of the nearest entry, ZERO - q where it is negative, in the last 8 bits. Ties go to
    the larger number.

    Places are decades, counted from 1, and 0 for what is nearest to 0, with lines of their own. The
    boundary below q lies where size * step + shift is 9 q."""
    # Of an unsigned map, place 0 is for q = 1.
    size = tl.abs(ratio) if S == 1 else tl.maximum(ratio, 1 / (S * 10**D))
    if D == 3:
        up = size >= _cut(2, S, D)
        odd = size >= tl.where(up, _cut(3, S, D), _cut(1, S, D))
        step = tl.where(up, S * 2.0**D * 5, S * 2.0**D * 125)
        shift = tl.where(up, S * 16.0, S * 4.0)
    else:
        upper = size >= _cut(4, S, D)
        up = size >= tl.where(upper, _cut(6, S, D), _cut(2, S, D))
        above = tl.where(up, _cut(7, S, D), _cut(5, S, D))
        below = tl.where(up, _cut(3, S, D), _cut(1, S, D))
        odd = size >= tl.where(upper, above, below)
        step = tl.where(upper, S * 2.0**D * 5, S * 2.0**D * 3125) * tl.where(up, 1.0, 25.0)
        shift = tl.where(upper, S * 64.0, S * 4.0) * tl.where(up, 4.0, 1.0)
    step *= tl.where(odd, 1.0, 5.0)
    shift *= tl.where(odd, 2.0, 1.0)
    # q is less than 2 bins: below the cut, the line would go on.
    line = tl.minimum(_fma(size, step, shift), _fma(shift, 2.25, -5.0))
    near = _fma(line, 1 / 9, 12582912.0)  # 1.5 * 2^23 rounds, and leaves q in the last bits
    rest = _fma(size, step, _fma(near - 12582912.0, -9.0, shift)).to(tl.int32, bitcast=True)
    q = near.to(tl.int32, bitcast=True) + (ratio >= _cut(D + 1, S, D)).to(tl.int32)
    if S == 1:  # of a negative number, what is at a boundary lies below it
        sign = ratio.to(tl.int32, bitcast=True) >> 31
        code = ((q + ((rest + sign) >> 31)) ^ sign) + (ZERO - sign)
    else:
        code = q + (rest >> 31) + ZERO
    return code


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
