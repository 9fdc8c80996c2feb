"""Counter-based random numbers: what is drawn depends on the key alone, on no order and no device.

Philox 4x32-10 (Salmon et al., 2011) on int64 tensors. The key is (seed, call site), the counter
(at, parameter, element). Uniform numbers have 24 bits, so that float32 holds them exactly.
Relies on: torch. Used by the interpreter and by generated code alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32-bit by 32-bit product; int64 wraps, which keeps both right."""
    product = a * b
    return (product >> 32) & _MASK, product & _MASK


def words(seed: int, site: int, at: int, parameter: int, elements: Tensor) -> tuple[Tensor, ...]:
    """Four 32-bit words for each element index of `elements` (int64)."""
    counter = [
        elements & _MASK,
        (elements >> 32) & _MASK,
        torch.full_like(elements, at & _MASK),
        torch.full_like(elements, parameter & _MASK),
    ]
    key = [seed & _MASK, (site ^ (seed >> 32)) & _MASK]
    for _ in range(ROUNDS):
        high0, low0 = _product(counter[0], _MULTIPLIERS[0])
        high1, low1 = _product(counter[2], _MULTIPLIERS[1])
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(word + step) & _MASK for word, step in zip(key, _WEYL, strict=True)]
    return tuple(counter)


def _uniform(word: Tensor) -> Tensor:
    return (word >> 8).to(torch.float64) * 2.0**-24


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
    """`rand` in [0, 1), `randn` or `exponential`, in float64, of `shape`."""
    elements = torch.arange(math.prod(shape), dtype=torch.int64, device=device)
    first, second, _, _ = words(seed, site, at, parameter, elements)
    if kind == "rand":
        values = _uniform(first)
    elif kind == "exponential":
        values = -torch.log1p(-_uniform(first))
    else:
        radius = torch.sqrt(-2 * torch.log1p(-_uniform(first)))
        values = radius * torch.cos(2 * math.pi * _uniform(second))
    return values.reshape(shape)
