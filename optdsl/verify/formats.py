"""Spacing of the numbers of a storage format.

Input: values in float64. Output: the distance to the next number (an ulp), and what rounding to
the format may change. Does not do: any arithmetic's error (bounds.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from optdsl.types import Storage

# dtype -> bits of the significand, exponent of the smallest normal number
FORMATS = {
    torch.float64: (53, -1022),
    torch.float32: (24, -126),
    torch.bfloat16: (8, -126),
    torch.float16: (11, -14),
}


STORED = {
    Storage.FLOAT32: torch.float32,
    Storage.BF16: torch.bfloat16,
    Storage.FP16: torch.float16,
}


def storage_format(storage: Storage, parameter: torch.dtype) -> torch.dtype:
    """The dtype that a state lies in; COMPUTE is that of values, PARAM the parameter's."""
    if storage is Storage.PARAM:
        return parameter
    return STORED.get(storage, compute_format(parameter))


def compute_format(parameter: torch.dtype) -> torch.dtype:
    """The dtype that values of parameters of a dtype are computed in."""
    return torch.float64 if parameter is torch.float64 else torch.float32


_EXPONENT = 0x7FF0_0000_0000_0000
"""The bits of a float64 that hold its exponent: alone they are the power of two below it."""


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of numbers of `dtype` around `values` (float64); infinite where it cannot hold
    them, NaN among them."""
    bits, smallest = FORMATS[dtype]
    below = (values.contiguous().view(torch.int64) & _EXPONENT).view(torch.float64)
    spacing = below.clamp(min=2.0**smallest) * 2.0 ** (1 - bits)
    largest = torch.finfo(dtype).max
    if bool((below.amax() if below.numel() else torch.zeros(())) * 2 > largest):
        fits = values.abs() <= largest
        spacing = torch.where(fits, spacing, torch.full_like(spacing, torch.inf))
    return spacing


def distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|; 0 where both are NaN or the same infinity, infinite where only one is. For
    conditions 1 where they differ."""
    if a.dtype is torch.bool:
        return (a != b).to(torch.float64)
    apart = (a - b).abs()
    if not bool(apart.sum().isfinite()):
        same = (a == b) | (a.isnan() & b.isnan())
        apart = torch.where(same, torch.zeros_like(apart), apart)
        apart = torch.where(apart.isnan(), torch.full_like(apart, torch.inf), apart)
    return apart


def rounding(values: Tensor, error: Tensor, dtype: torch.dtype) -> Tensor:
    """What storing as `dtype` adds to `error`, at most: half an ulp of the largest it may be."""
    return ulp(values.abs() + error, dtype) / 2
