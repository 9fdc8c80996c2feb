"""Numbers stored in eight and four bits, block by block: the meaning of `int8`, `int4` and `fp8`.

Input: float32 values, flat. Output: codes, as bytes, and a float32 scale for each block; and back.

A block is divided by its scale, its largest magnitude; what remains, in [-1, 1], becomes the code
of the nearest entry of a map. Maps and the points half way between two entries are worked out as
fractions and rounded once, so that they are the same on every machine: the C of codecs.c and the
Triton of triton/codecs.py work them out again and agree bit for bit. (bitsandbytes and torchao
build the same maps in float32, by a `linspace` whose last bit depends on the processor's fma:
entries differ by 2 ulps at most, and 3 to 7 codes in 8 million.)

Relies on: torch, numpy. Does not do: decide which states are stored so (groups, buffers).
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LEAST_SCALE = 1e-12
"""The scale of a block of smaller numbers or zeros, as in torchao; of fp8 before it is / 448."""
FP8_LARGEST = 448.0


class Encoded(NamedTuple):
    """`codes`: uint8 [code_bytes(n)]; `scales`: float32 [blocks(n)]."""

    codes: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Codec:
    """One way to store numbers: `block` numbers share a scale, `per_byte` codes share a byte.

    `decades` are those of the dynamic map (Dettmers et al., 2021, section 2.1), 0 for the linear
    map, None where codes are float8_e4m3fn. An unsigned map has no entry below 0: a negative number
    gets the lowest code.
    """

    name: str
    signed: bool
    block: int
    per_byte: int
    decades: int | None

    def blocks(self, n: int) -> int:
        """Scales of n numbers; the last block may be short."""
        return -(-n // self.block)

    def code_bytes(self, n: int) -> int:
        """Bytes of the codes of n numbers."""
        return -(-n // self.per_byte)

    def encode(self, values: Tensor) -> Encoded:
        """The codes and scales of `values`: float32 of any shape, read in order; other dtypes are
        rounded to float32 first.

        Of two codes that are equally near, the one of the larger number (torchao's rule; fp8: the
        even one). A block with a NaN or an infinity has the scale NaN and codes 0: all of it
        decodes to NaN, and so is seen.
        """
        flat = values.detach().reshape(-1).to(torch.float32)
        count = self.blocks(len(flat))
        padded = torch.nn.functional.pad(flat, (0, count * self.block - len(flat)))
        table = padded.view(count, self.block)
        # amax of no blocks at all is an error in torch.
        largest = table.abs().amax(1) if count else flat.new_empty(0)
        scales = largest.clamp(min=LEAST_SCALE) / (FP8_LARGEST if self.decades is None else 1.0)
        scales = torch.where(torch.isfinite(largest), scales, torch.nan)
        codes = self._nearest(table / scales[:, None])
        codes = torch.where(torch.isnan(scales)[:, None], 0, codes).view(-1)[: len(flat)]
        return Encoded(self._packed(codes), scales)

    def decode(self, codes: Tensor, scales: Tensor, n: int) -> Tensor:
        """The n float32 numbers that `codes` and `scales` stand for: entry times scale."""
        entries = self._entries(self._unpacked(codes, n))
        each = torch.arange(n, device=codes.device) // self.block
        return entries * scales[each]

    def _nearest(self, ratios: Tensor) -> Tensor:
        if self.decades is None:
            return ratios.to(torch.float8_e4m3fn).view(torch.uint8)
        middles = _on(self, ratios.device)[1]
        return torch.bucketize(ratios, middles, right=True).to(torch.uint8)

    def _entries(self, codes: Tensor) -> Tensor:
        if self.decades is None:
            return codes.view(torch.float8_e4m3fn).to(torch.float32)
        return _on(self, codes.device)[0][codes.long()]

    def _packed(self, codes: Tensor) -> Tensor:
        """Two codes of four bits in a byte: the first in the upper half, 0 after an odd last."""
        if self.per_byte == 1:
            return codes
        pairs = torch.nn.functional.pad(codes, (0, len(codes) % 2)).view(-1, 2)
        return pairs[:, 0] << 4 | pairs[:, 1]

    def _unpacked(self, codes: Tensor, n: int) -> Tensor:
        if self.per_byte == 1:
            return codes.view(-1)[:n]
        return torch.stack((codes.view(-1) >> 4, codes.view(-1) & 15), 1).view(-1)[:n]


INT8 = Codec("int8", True, 256, 1, 7)
UINT8 = Codec("int8", False, 256, 1, 7)
INT4 = Codec("int4", True, 128, 2, 3)
UINT4 = Codec("int4", False, 128, 2, 0)
FP8 = Codec("fp8", True, 256, 1, None)
CODECS = (INT8, UINT8, INT4, UINT4, FP8)


def codec(storage: str, *, signed: bool) -> Codec:
    """The codec of a storage name; one without a sign where there is one and `signed` is false.

    Raises KeyError for a storage that is no codec.
    """
    found = [each for each in CODECS if each.name == storage and each.signed >= signed]
    if not found:
        raise KeyError(storage)
    return min(found, key=lambda each: each.signed)


def exact_map(form: Codec) -> list[Fraction]:
    """The entries of a map, rising, as the numbers that they are meant to be.

    The dynamic map has decades below 1, the upper one of the most entries: each is divided into
    bins of equal width, twice as many in each as in the one below (one in the lowest, two without
    a sign), whose middles are the entries; then 0 and 1. The linear map has k / 16, k = 1..16.
    """
    if form.decades is None:
        raise ValueError(f"{form.name} has no map")
    if not form.decades:
        return [Fraction(k, 16) for k in range(1, 17)]
    entries = [Fraction(0), Fraction(1)]
    for decade in range(form.decades):
        bins = 2**decade * (1 if form.signed else 2)
        for each in range(bins):
            middle = Fraction(1, 10) + Fraction(9, 10) * Fraction(2 * each + 1, 2 * bins)
            entry = middle / 10 ** (form.decades - 1 - decade)
            entries += [entry, -entry] if form.signed else [entry]
    return sorted(entries)


@functools.cache
def tables(form: Codec) -> tuple[np.ndarray, np.ndarray]:
    """(entries, middles) of a map in float32: what a code stands for, and the least number that
    has the next code, middles[k] that of code k + 1."""
    exact = exact_map(form)
    entries = np.array([_least_from(each, nearest=True) for each in exact], np.float32)
    halves = [(a + b) / 2 for a, b in itertools.pairwise(exact)]
    return entries, np.array([_least_from(each) for each in halves], np.float32)


def _least_from(exact: Fraction, *, nearest: bool = False) -> np.float32:
    """The least float32 that is not below `exact`, or the one nearest to it."""
    above = np.float32(float(exact))
    while Fraction(float(above)) < exact:
        above = np.float32(np.nextafter(above, np.float32(np.inf)))
    below = np.float32(np.nextafter(above, np.float32(-np.inf)))
    while Fraction(float(below)) >= exact:
        above, below = below, np.float32(np.nextafter(below, np.float32(-np.inf)))
    nearer = exact - Fraction(float(below)) < Fraction(float(above)) - exact
    return below if nearest and nearer else above


@functools.cache
def _on(form: Codec, device: torch.device) -> tuple[Tensor, Tensor]:
    entries, middles = tables(form)
    return torch.from_numpy(entries).to(device), torch.from_numpy(middles).to(device)
