"""Functions that generated Triton kernels call: what `triton.language` lacks or rounds loosely.

Input and output: blocks or numbers of float32 or float64, the result in the wider of the two. They
compile for NVIDIA and AMD and run in Triton's interpreter. The errors that the op table promises
are kept without `libdevice`, which the interpreter does not have.

Relies on: triton alone. Does not do: kernels (the generated module), launching (launch.py).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton types its functions itself, from their arguments.

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)
"""Triton's interpreter cuts float32 to bfloat16 where the hardware rounds."""


@triton.jit
def div(x, y):
    """x / y, rounded to nearest; Triton's own `/` is off by 2 ulps in float32 on NVIDIA."""
    return x / y if (x + y).dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def sqrt(x):
    """The square root, rounded to nearest; Triton's own is an approximation in float32."""
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def minimum(x, y):
    """The smaller; NaN where either is, which Triton passes over by default."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def maximum(x, y):
    """The larger; NaN where either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def both(x, y):
    """x and y, as integers: the interpreter joins no condition on a number to one on a block."""
    return (tl.cast(x, tl.int32) & tl.cast(y, tl.int32)) != 0


@triton.jit
def either(x, y):
    """x or y."""
    return (tl.cast(x, tl.int32) | tl.cast(y, tl.int32)) != 0


@triton.jit
def sign(x):
    """-1, 0 or 1; 0 for 0 and NaN."""
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def isfinite(x):
    """Neither Inf nor NaN."""
    return tl.abs(x) < float("inf")


@triton.jit
def round_even(x):
    """To the nearest integer, ties to even. `x - below` is exact, so 0.5 is met exactly."""
    below = tl.floor(x)
    rest = x - below
    up = (rest > 0.5) | ((rest == 0.5) & (tl.floor(below * 0.5) * 2 != below))
    return tl.where(up, below + 1, below)


@triton.jit
def exp(x):
    """e to the x. Triton's own rounds x * log2(e) in float32, which costs |x| / 2 ulps."""
    return tl.exp(x) if x.dtype == tl.float64 else _exp32(x)


@triton.jit
def _exp32(x):
    """2^n times the Taylor series of e^r, x = n log 2 + r, |r| <= 0.35: the next term is 2^-27."""
    x = tl.where(x > 90.0, 90.0, tl.where(x < -110.0, -110.0, x))  # Inf and 0 either way
    n = tl.floor(tl.fma(x, 1.4426950408889634, 0.5))
    r = tl.fma(n, -0.693359375, x)  # log 2 in two parts: n times the first is exact
    r = tl.fma(n, 2.12194440054690583e-4, r)
    series = tl.fma(r, 1 / 5040, 1 / 720)
    series = tl.fma(series, r, 1 / 120)
    series = tl.fma(series, r, 1 / 24)
    series = tl.fma(series, r, 1 / 6)
    series = tl.fma(series, r, 0.5)
    # In two steps, since 2^n itself may be too large or too small for a float32.
    half = tl.floor(n * 0.5)
    return (tl.fma(series, r * r, r) + 1) * _power_of_two(half) * _power_of_two(n - half)


@triton.jit
def _power_of_two(n):
    """2^n of a whole float32 n in [-126, 127]."""
    return ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def log(x):
    """The natural logarithm. Triton's own is an approximation on AMD, and numpy's in the
    interpreter is off by 3 ulps."""
    return tl.log(x) if x.dtype == tl.float64 else _log32(x)


@triton.jit
def _log32(x):
    """log m + e log 2, x = 2^e * m with m in [sqrt(1/2), sqrt(2)), in the form of fdlibm: below an
    ulp near 1, too, since m - 1 is exact."""
    tiny = x < 1.1754943508222875e-38  # subnormal: times 2^24 it is not
    bits = tl.where(tiny, x * 16777216.0, x).to(tl.int32, bitcast=True)
    # Taking the bits of sqrt(1/2) away carries into e where m is smaller.
    shifted = bits - 0x3F3504F3
    e = ((shifted >> 23) - tl.where(tiny, 24, 0)).to(tl.float32)
    f = ((shifted & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1
    s = div(f, f + 2)
    z = s * s
    series = tl.fma(z, 0.24279078841, 0.28498786688)
    series = tl.fma(series, z, 0.40000972152)
    series = tl.fma(series, z, 0.66666662693)
    square = 0.5 * f * f
    low = tl.fma(s, tl.fma(series, z, square), e * 9.0580006145e-06)
    result = tl.fma(e, 6.9313812256e-01, f - (square - low))
    result = tl.where(x == 0, -float("inf"), tl.where(x == float("inf"), x, result))
    return tl.where(x >= 0, result, float("nan"))


@triton.jit
def tanh(x):
    """Below 0.625 the rational function of Cephes, since 1 - 2 / (e^2x + 1) cancels there."""
    z = x * x
    p = (-0.964399179425052238628 * z - 99.2877231001918586564) * z - 1614.68768441708447952
    q = ((z + 112.811678491632931402) * z + 2235.48839060100448583) * z + 4844.06305325125486048
    small = x + x * z * div(p, q)
    large = 1 - div(2.0, exp(2 * tl.abs(x)) + 1)
    return tl.where(tl.abs(x) < 0.625, small, tl.where(x < 0, -large, large))


@triton.jit
def power(x, y):
    """x to the y, with the special cases of C's `pow`."""
    real: tl.constexpr = (x + y).dtype
    # Of one shape: the interpreter combines no condition on an array with one on a number.
    base, exponent = tl.broadcast(tl.cast(x, tl.float64), tl.cast(y, tl.float64))
    size = tl.abs(base)
    # For float32 the log of float64 will do: it leaves 700 * 2^-53 at worst, far below an ulp.
    wide: tl.constexpr = real == tl.float64
    result = _power64(size, exponent) if wide else tl.exp(exponent * tl.log(size))
    grows = (size > 1) == (exponent > 0)
    endless = (size == 0) | (size == float("inf")) | (tl.abs(exponent) == float("inf"))
    result = tl.where(endless, tl.where(grows, float("inf"), 0.0), result)
    whole = tl.floor(exponent) == exponent
    odd = whole & (tl.floor(exponent * 0.5) * 2 != exponent)
    negative = base.to(tl.int64, bitcast=True) < 0  # -0 included: an odd power keeps its sign
    result = result * tl.where(negative & odd, -1.0, 1.0)
    real_base = (base >= 0) | (base == -float("inf")) | (whole & (base < 0))
    result = tl.where(real_base & (exponent == exponent), result, float("nan"))
    one = (base == 1) | (exponent == 0) | ((base == -1) & (tl.abs(exponent) == float("inf")))
    return tl.where(one, 1.0, result).to(real)


@triton.jit
def _power64(x, y):
    """x^y of x > 0 within a few ulps: the logarithm to 2^-60, as a sum of two numbers.

    exp multiplies an error of its argument by the argument, at most 709, so that a logarithm
    rounded to 53 bits would cost up to 700 ulps.
    """
    tiny = x < 2.2250738585072014e-308  # subnormal: times 2^54 it is not
    bits = tl.where(tiny, x * 18014398509481984.0, x).to(tl.int64, bitcast=True)
    # x = 2^e * m with m in [sqrt(1/2), sqrt(2)): taking the bits of sqrt(1/2) away carries into e.
    shifted = bits - 0x3FE6A09E667F3BCD
    e = (shifted >> 52) - tl.where(tiny, 54, 0)
    m = ((shifted & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD).to(tl.float64, bitcast=True)
    # log m = 2 s + s^3 (2/3 + 2/5 s^2 + ...) with s = (m - 1) / (m + 1), |s| < 0.172; the sum
    # m - 1 is exact, m + 1 is above + lost.
    above = m + 1
    lost = m - (above - 1)
    s = (m - 1) / above
    rest = tl.fma(-s, above, m - 1)
    s_low = (rest - s * lost) / above
    z = s * s
    tail = z * 0.0
    # Not tl.fma, which takes a literal for a float32 before Triton 3.7.
    for k in tl.static_range(25, 1, -2):  # 0.172^26 / 27 is 2^-70
        tail = tail * z + 2.0 / k
    tail = tail * z * s + 2 * s_low
    # e * ln 2 in two parts; the upper has 32 bits, so that its product with e is exact.
    scale = e.to(tl.float64)
    upper = scale * 0.693147180369123816490
    high = upper + 2 * s
    low = (upper - high) + 2 * s + (tail + scale * 1.90821492927058770002e-10)
    # upper may be the smaller of the two where e is 0 only, and is then 0.
    total = high + low
    low = low - (total - high)
    product = y * total
    error = tl.fma(y, total, -product) + y * low
    result = tl.exp(product)
    return tl.where(result < float("inf"), tl.fma(result, error, result), result)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """x in `dtype`, rounded to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:
        x = tl.cast(x, tl.float32)
        bits = x.to(tl.uint32, bitcast=True)
        up = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        kept = tl.where(x == x, up, (bits >> 16) | 0x40)  # NaN stays NaN
        result = kept.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        result = tl.cast(x, dtype)
    return result


@triton.jit
def greatest(x, axis: tl.constexpr):
    """The largest along `axis` (None: of all); NaN where any is, which tl.max passes over."""
    largest = tl.max(tl.where(x == x, x, -float("inf")), axis)
    nan = tl.max((x != x).to(tl.int32), axis)
    return tl.where(nan > 0, float("nan"), largest)


@triton.jit
def least(x, axis: tl.constexpr):
    """The smallest along `axis` (None: of all); NaN where any is."""
    return -greatest(-x, axis)


@triton.jit
def element_pointer(address, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    """The address at `address` as a pointer; ALIGNED promises 16 bytes, for 128-bit accesses."""
    pointer = tl.load(address).to(tl.pointer_type(dtype))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
