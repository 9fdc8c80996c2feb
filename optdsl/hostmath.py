"""Arithmetic on host numbers: IEEE double, no exceptions, Inf and NaN pass.

Python's own operators raise on `1 / 0`, `sqrt(-1)`, `exp(1000)`; a rule must not stop for
them. Used by the interpreter and by generated code, so that both agree bit for bit.
Relies on: nothing. Does not do: tensors.
"""

from __future__ import annotations

import math

Number = float | int | bool
LARGEST_POWER = 1024
"""Exponents up to which a power of integers is one."""


def div(x: Number, y: Number) -> float:
    try:
        return x / y
    except ZeroDivisionError:
        if x == 0 or x != x:
            return math.nan
        return math.copysign(math.inf, x) * math.copysign(1.0, y)


def floordiv(x: Number, y: Number) -> Number:
    try:
        return x // y
    except ZeroDivisionError:
        return div(x, y)


def mod(x: Number, y: Number) -> Number:
    """x - y * floor(x / y), the sign of y; NaN where y is 0."""
    try:
        return x % y
    except ZeroDivisionError:
        return math.nan


def power(x: Number, y: Number) -> Number:
    if isinstance(y, int) and abs(y) > LARGEST_POWER:
        x = float(x)  # 9^9^9 as an integer has 370 million digits
    try:
        result = x**y
    except ZeroDivisionError:
        return math.inf
    except OverflowError:
        return math.inf if x > 0 or y % 2 == 0 else -math.inf
    return math.nan if isinstance(result, complex) else result


def sqrt(x: Number) -> float:
    return math.sqrt(x) if x >= 0 else math.nan


def exp(x: Number) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def log(x: Number) -> float:
    if x > 0:
        return math.log(x)
    return -math.inf if x == 0 else math.nan


def sin(x: Number) -> float:
    return math.sin(x) if math.isfinite(x) else math.nan


def cos(x: Number) -> float:
    return math.cos(x) if math.isfinite(x) else math.nan


def tanh(x: Number) -> float:
    return math.tanh(x)


def sign(x: Number) -> Number:
    return (x > 0) - (x < 0)


def floor(x: Number) -> Number:
    return math.floor(x) if math.isfinite(x) else x


def ceil(x: Number) -> Number:
    return math.ceil(x) if math.isfinite(x) else x


def round_even(x: Number) -> Number:
    """To the nearest integer, ties to even."""
    return round(x) if math.isfinite(x) else x


def minimum(x: Number, y: Number) -> Number:
    """NaN where either is."""
    return x if x < y or x != x else y


def maximum(x: Number, y: Number) -> Number:
    return x if x > y or x != x else y


def fma(x: Number, y: Number, z: Number) -> Number:
    return x * y + z


def lerp(x: Number, y: Number, w: Number) -> Number:
    """x + w * (y - x)."""
    return x + w * (y - x)


def isfinite(x: Number) -> bool:
    return math.isfinite(x)


def whole(x: Number) -> int:
    """A size, rounded towards 0; 0 where it is not finite, as where an unused one divides by 0."""
    return int(x) if math.isfinite(x) else 0


def site_in_pass(site: int, number: int) -> int:
    """The call site that a random draw has in pass `number`, from 0, of a loop around it.

    Multiples of 2^32 over the golden ratio by sites below 1,000 lie a million apart, so that each
    pass of each loop has draws of its own.
    """
    return (site * 0x9E3779B1 + number + 1) & 0xFFFFFFFF
