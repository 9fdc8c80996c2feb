"""Spacing of the numbers of a storage format.

Input: values in float64. Output: the distance to the next number (an ulp), and what rounding to
the format may change. Does not do: any arithmetic's error (bounds.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from optdsl.runtime.storage.codecs import LEAST_SCALE, Codec
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


def coding(values: Tensor, error: Tensor, codec: Codec) -> Tensor:
    """What storing in codes adds to `error`, at most: half the distance between the two entries of
    the codec's map around a number that is off by so much, times the scale of its block, which the
    largest number of the block may change by its own error."""
    flat, off = values.reshape(-1), error.reshape(-1).nan_to_num(posinf=0.0)
    pad = -len(flat) % codec.block
    sizes = torch.nn.functional.pad(flat.abs() + off, (0, pad)).view(-1, codec.block)
    largest = sizes.amax(1).repeat_interleave(codec.block)[: len(flat)].clamp(min=LEAST_SCALE)
    entries = _entries(codec)
    scale = largest / entries[-1]
    around = [_apart(each / scale, entries) for each in (flat - off, flat + off)]
    apart = torch.maximum(*around)
    # An ulp for the ratio and one for the product.
    return (apart * scale + 2 * ulp(largest, torch.float32)).reshape(values.shape)


def _entries(codec: Codec) -> Tensor:
    """What the codes of a codec stand for, at a scale of 1, rising."""
    codes = torch.arange(256 if codec.per_byte == 1 else 16, dtype=torch.uint8)
    packed = codes if codec.per_byte == 1 else codes[::2] << 4 | codes[1::2]
    scales = torch.ones(codec.blocks(len(codes)))
    values = codec.decode(packed, scales, len(codes)).to(torch.float64)
    return torch.sort(values[values.isfinite()]).values


def _apart(ratios: Tensor, entries: Tensor) -> Tensor:
    """Half the distance of the entries around each of `ratios`; beyond them that to the last."""
    above = torch.searchsorted(entries, ratios.contiguous()).clamp(1, len(entries) - 1)
    low, high = entries[above - 1], entries[above]
    return torch.maximum((high - low) / 2, torch.maximum(low - ratios, ratios - high))
