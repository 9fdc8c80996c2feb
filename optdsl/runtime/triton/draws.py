"""Random draws in generated Triton kernels: those of optdsl/draws.py, bit for bit.

    draw_key(stream, site, at, first) -> key     what draws of a place have in common: two words,
                                                 and those of the number of the lanes' first element
    rand(key, i), randn(key, i), exponential(key, i) -> float32      of the lanes i from there

Relies on: draws.py. Does not do: streams (stages/buffers.py).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton types its functions itself, from their arguments.

from __future__ import annotations

import triton
import triton.language as tl

from optdsl import randomness
from optdsl.runtime.triton.math import sqrt

LOG_2 = tl.constexpr(randomness.LOG_2)
ROOT_HALF = tl.constexpr(randomness.ROOT_HALF)
PARITY = tl.constexpr(randomness.PARITY)
GROUPS = tl.constexpr(randomness.GROUPS)


@triton.constexpr_function
def turn_in(group, number):
    """By how many bits a word is turned in a round."""
    return randomness.TURNS[group % 2][number]


@triton.constexpr_function
def degree_of(name):
    """That of the polynomial LOG or SINE."""
    return len(getattr(randomness, name)) - 1


@triton.constexpr_function
def coefficient(name, power):
    """One of its numbers."""
    return getattr(randomness, name)[power]


@triton.jit
def draw_key(stream, site, at, first):
    low, high = _words(_halves(stream), at.to(tl.int64).to(tl.uint32), site)
    low_first, high_first = _halves(first)
    return low, high, low_first, high_first


@triton.jit
def rand(key, i):
    """Uniform in [0, 1)."""
    return (_drawn(key, i)[0] >> 8).to(tl.float32) * (1 / 16777216)


@triton.jit
def exponential(key, i):
    """With mean 1."""
    return _exponential(_drawn(key, i)[0])


@triton.jit
def randn(key, i):
    """Standard normal."""
    first, second = _drawn(key, i)
    radius = _exponential(first)
    turn = (second.to(tl.int32, bitcast=True) >> 8).to(tl.float32) * (1 / 8388608)
    return sqrt(radius + radius) * (turn * _polynomial(turn * turn, "SINE"))


@triton.jit
def _halves(number):
    """The lower and the upper word of 64 bits."""
    number = number.to(tl.int64)
    return number.to(tl.uint32), (number >> 32).to(tl.uint32)


@triton.jit
def _drawn(key, i):
    """The words of the lanes i. A task is short: its elements pass 2^32 once at most."""
    low = key[2] + i.to(tl.uint32)
    high = key[3] + (low < key[2]).to(tl.uint32)
    return _words(key, low, high)


@triton.jit
def _words(key, low, high):
    keys = key[0], key[1], key[0] ^ key[1] ^ PARITY
    low += keys[0]
    high += keys[1]
    for group in tl.static_range(GROUPS):
        for k in tl.static_range(4):
            low += high
            high = _turned(high, turn_in(group, k)) ^ low
        low += keys[(group + 1) % 3]
        high += keys[(group + 2) % 3] + (group + 1)
    return low, high


@triton.jit
def _turned(word, BY: tl.constexpr):
    return (word << BY) | (word >> (32 - BY))


@triton.jit
def _exponential(word):
    """-log(1 - u) of the uniform u."""
    left = (0x1000000 - (word >> 8).to(tl.int32)).to(tl.float32)
    bits = left.to(tl.int32, bitcast=True) - ROOT_HALF
    n = (24 - (bits >> 23)).to(tl.float32)
    f = ((bits & 0x7FFFFF) + ROOT_HALF).to(tl.float32, bitcast=True) - 1
    return n * LOG_2 + f * (f * _polynomial(f, "LOG") - 1)


@triton.jit
def _polynomial(x, NAME: tl.constexpr):
    degree: tl.constexpr = degree_of(NAME)
    value = tl.full([], coefficient(NAME, degree), tl.float32)
    for k in tl.static_range(degree - 1, -1, -1):
        value = value * x + coefficient(NAME, k)
    return value
