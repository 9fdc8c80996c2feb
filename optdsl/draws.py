"""Counter-based random numbers: what is drawn depends on the key alone, on no order and no device.

A number drawn is a float32, made of two words of random bits (randomness.py) by one sequence of
integer operations and of float32 operations that IEEE 754 rounds one way: sums, products and a
square root, none of them fused. Generated kernels have the same sequence (templates/cpu/draws.c.j2,
runtime/triton/draws.py) and so the same bits, in every dtype. Uniform numbers have 24 bits. Normal
ones are Box and Muller's, of a logarithm and a sine that are right to 4 ulps; none is beyond 5.77.

Relies on: torch, randomness.py. Used by the interpreter and by generated code alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optdsl.randomness import LOG, LOG_2, MASK, ROOT_HALF, SINE, Key, key, stream, words


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
