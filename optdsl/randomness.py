"""What draws are made of, without torch: words of random bits, keys, coefficients.

Threefry 2x32 of 20 rounds (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011) makes
two words of 32 bits from a key and a counter of two words each. It is taken three times: a seed and
a parameter make what the parameter has as its own (`stream`); that, a place in the text and the
number of an update make a `key`; that and the number of an element make the element's words. It has
sums, turns and exclusive ors alone, which gcc makes vectors of: Philox, whose products are of 64
bits, took three times as long.

Relies on: nothing. Does not do: numbers from words (draws.py).
"""

from __future__ import annotations

from typing import Any

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
