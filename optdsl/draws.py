"""Counter-based random numbers: what is drawn depends on the key alone, on no order and no device.

Threefry 2x32 of 20 rounds (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011) makes
two words of 32 bits from a key and a counter of two words each. It is taken three times: a seed and
a parameter make what the parameter has as its own (`stream`); that, a place in the text and the
number of an update make a `key`; that and the number of an element make the element's words. It has
sums, turns and exclusive ors alone, which gcc makes vectors of: Philox, whose products are of 64
bits, took three times as long.

A number drawn is a float32, made of these words by one sequence of integer operations and of
float32 operations that IEEE 754 rounds one way: sums, products and a square root, none of them
fused. Generated kernels have the same sequence (templates/cpu/draws.c.j2, runtime/triton/draws.py)
and so the same bits, in every dtype. Uniform numbers have 24 bits. Normal ones are Box and
Muller's, of a logarithm and a sine that are right to 4 ulps; none is beyond 5.77.

Relies on: torch. Used by the interpreter and by generated code alike.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
GROUPS = 5
TURNS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""By how many bits a word is turned in the four rounds of a group."""
PARITY = 0x1BD11BDA
"""With the words of a key it makes a third one."""

LOG = (
    *(0.49999991, -0.33333951, 0.25001755, -0.19962072),
    *(0.16570508, -0.14917974, 0.14307521, -0.08734843),
)
"""q with log(1 + f) = f - f^2 q(f), for f between sqrt(1/2) - 1 and sqrt(2) - 1: of its degree the
polynomial of the least relative error of the logarithm, 2^-25."""
SINE = (1.5707964, -0.64596373, 0.079689682, -0.0046737664, 0.00015148513)
"""q with sin(pi/2 t) = t q(t^2), for t between -1 and 1: likewise, 2^-27."""
LOG_2 = 0.69314718
ROOT_HALF = 0x3F3504F3
"""The bits of sqrt(1/2)."""

Key = tuple[int, int]


def words(key: Key, low: Any, high: Any) -> tuple[Any, Any]:
    """Two words of 32 bits from a key and the words of a counter, which are ints, or int64 tensors
    of one shape."""
    keys = (*key, PARITY ^ key[0] ^ key[1])
    low, high = low + keys[0] & MASK, high + keys[1] & MASK
    for group in range(GROUPS):
        for turn in TURNS[group % 2]:
            low = low + high & MASK
            high = (high << turn | high >> 32 - turn) & MASK ^ low
        low = low + keys[(group + 1) % 3] & MASK
        high = high + keys[(group + 2) % 3] + group + 1 & MASK
    return low, high


def _halves(number: int) -> Key:
    """The lower and the upper word of 64 bits."""
    return number & MASK, number >> 32 & MASK


def stream(seed: int, parameter: int) -> int:
    """What all draws of a parameter have in common: a key, as an int of 64 bits with a sign."""
    low, high = words(_halves(seed), *_halves(parameter))
    return int(low | (high ^ 1 << 31) - (1 << 31) << 32)


def key(stream: int, site: int, at: int) -> Key:
    """What the draws of a place in the text and of one `at` have in common: the key for their
    elements."""
    low, high = words(_halves(stream), at & MASK, site & MASK)
    return int(low), int(high)


def uniform(word: Tensor) -> Tensor:
    """In [0, 1)."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def exponential(word: Tensor) -> Tensor:
    """-log(1 - u) of the uniform u, with mean 1: n log 2 - log(1 + f), 1 - u = (1 + f) 2^-n."""
    bits = (2**24 - (word >> 8)).to(torch.float32).view(torch.int32) - ROOT_HALF
    n = (24 - (bits >> 23)).to(torch.float32)
    f = ((bits & 0x7FFFFF) + ROOT_HALF).view(torch.float32) - 1
    return n * LOG_2 + f * (f * _polynomial(LOG, f) - 1)


def normal(first: Tensor, second: Tensor) -> Tensor:
    """Standard normal: a radius from the first word, from the second the sine of a half turn."""
    radius = exponential(first)
    signed = second - (second >> 31 << 32)
    turn = (signed >> 8).to(torch.float32) * 2.0**-23
    # In float64, since torch's own root of float32 may be off by an ulp; rounded twice it is not.
    root = torch.sqrt((radius + radius).to(torch.float64)).to(torch.float32)
    return root * (turn * _polynomial(SINE, turn * turn))


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for each in reversed(coefficients[:-1]):
        value = value * x + each
    return value


def draw(
    kind: str,
    shape: tuple[int, ...],
    *,
    seed: int,
    site: int,
    at: int,
    parameter: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`rand` in [0, 1), `randn` or `exponential`, in float32, of `shape`."""
    elements = torch.arange(math.prod(shape), dtype=torch.int64, device=device)
    return drawn(kind, key(stream(seed, parameter), site, at), elements).reshape(shape)


def drawn(kind: str, key: Key, elements: Tensor) -> Tensor:
    """What elements draw, by their numbers in int64."""
    first, second = words(key, elements & MASK, elements >> 32)
    if kind == "randn":
        return normal(first, second)
    return uniform(first) if kind == "rand" else exponential(first)
