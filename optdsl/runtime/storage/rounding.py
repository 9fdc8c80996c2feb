"""Parameters of 16 bits: how what rounding would lose is kept, or lost without a bias.

Input: float32 values of a parameter in bfloat16 or float16. Output: the parameter, and what lies
beside it. A change that is smaller than half the distance to the next number vanishes in nearest
rounding, so that a parameter stands still under small steps; each of these codecs mends that:

    stochastic   rounds up with the probability that makes the mean exact; nothing beside it
    master       a float32 copy, which steps work on; the parameter is that, rounded
    kahan        what the last rounding lost, in the parameter's dtype; values are the sum
    split        the lower 16 bits of the float32 value, of which a bfloat16 is the upper half

Relies on: stored.py, torch. Does not do: the same in C (storage.c), who has which (choice.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optdsl.runtime.arrays import Ints
from optdsl.runtime.storage.stored import Codec, Part, Parts

HALVES = (torch.bfloat16, torch.float16)
_MASK = 0xFFFFFFFF
Words = NDArray[np.uint32]


def random_bits(count: int, key: int, device: torch.device | str = "cpu") -> Tensor:
    """16 random bits for each of `count` elements, as int64: the lower half of a hash of 32 bits
    for an even element, the upper one for the next. It has one product behind a Weyl sequence,
    multiples of 2^32 over the golden ratio that C adds up, and the spread of a hash with two:
    numbers of a tensor up to a million elements apart are correlated by 0.007 at most, with
    lowbias32 (Wellons, 2018) by 0.004."""
    index = torch.arange(count, device=device)
    x = ((index >> 1) + key) * 0x9E3779B9 & _MASK
    x = (x ^ _turned(x, 6) ^ _turned(x, 17)) * 0x85EBCA6B & _MASK
    x = x ^ x >> 15
    return torch.where((index & 1) == 0, x & 0xFFFF, x >> 16)


def _turned(x: Tensor, by: int) -> Tensor:
    """The 32 bits of `x` turned to the left."""
    return (x << by | x >> (32 - by)) & _MASK


def rounding_keys(seeds: Ints, members: Ints, updates: Ints) -> Ints:
    """What tells the roundings of parameters from each other and from step to step: 32 bits for
    each member, by its number, of its seed and the number of its update."""
    x = np.zeros(len(members), np.uint32)
    for each in (seeds, seeds >> 32, updates, members):
        x = _mixed((x ^ each.astype(np.uint32)) + np.uint32(0x9E3779B9))
    return x.astype(np.int64)


def _mixed(x: Words) -> Words:
    """All of lowbias32."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    result: Words = x ^ x >> np.uint32(16)
    return result


def _bits(values: Tensor) -> Tensor:
    """The bits of float32 numbers, as int64 in [0, 2^32)."""
    return values.to(torch.float32).contiguous().view(torch.int32).to(torch.int64) & _MASK


def _float(bits: Tensor) -> Tensor:
    """The float32 numbers of such bits."""
    return (bits - (bits >> 31 << 32)).to(torch.int32).view(torch.float32)


def _unlike_nan(values: Tensor, result: Tensor) -> Tensor:
    return torch.where(values.isnan(), values, result)


@dataclass(frozen=True)
class Stochastic(Codec):
    """Up with the probability of the distance to the number below, measured in that to the next:
    by 16 random bits for each element. What is a number of the dtype stays as it is."""

    @property
    def plain(self) -> bool:
        return False

    def load(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        return parts[0].to(torch.float32)

    def save(self, values: Tensor, parts: Parts, key: int = 0) -> None:
        values = values.to(torch.float32)
        random = random_bits(values.numel(), key, values.device).reshape(values.shape)
        rounded = _up_bf16 if self.dtype is torch.bfloat16 else _up_fp16
        parts[0].copy_(rounded(values, random))


def _up_bf16(values: Tensor, random: Tensor) -> Tensor:
    """The random bits are added below those that are kept."""
    return _unlike_nan(values, _float(_bits(values) + random & 0xFFFF0000))


def _up_fp16(values: Tensor, random: Tensor) -> Tensor:
    """13 bits are dropped. Numbers below 2^-14 are multiples of 2^-24; what they have beyond one is
    compared."""
    normal = _float(_bits(values) + (random >> 3) & 0xFFFFE000)
    steps = values.abs() * 2.0**24
    below = steps.floor()
    small = (below + (random < (steps - below) * 65536.0)) * 2.0**-24
    chosen = torch.where(values.abs() < 2.0**-14, torch.copysign(small, values), normal)
    return _unlike_nan(values, chosen)


@dataclass(frozen=True)
class Beside(Codec):
    """A codec with one tensor more, of `extra` (None: the parameter's dtype), under `key`."""

    key: str
    extra: torch.dtype

    @property
    def plain(self) -> bool:
        return False

    def layout(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        return Part("", self.dtype, shape), Part(self.key, self.extra, shape)


class Master(Beside):
    """A parameter that is not its master rounded was changed by hand, and counts."""

    def load(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        p, master = parts
        same = master.to(p.dtype).view(torch.int16) == p.view(torch.int16)
        return torch.where(same, master, p.to(torch.float32))

    def save(self, values: Tensor, parts: Parts, key: int = 0) -> None:
        parts[1].copy_(values)
        parts[0].copy_(parts[1])


class Kahan(Beside):
    """Nothing lies beside what is not finite."""

    def load(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        return parts[0].to(torch.float32) + parts[1].to(torch.float32)

    def save(self, values: Tensor, parts: Parts, key: int = 0) -> None:
        values = values.to(torch.float32)
        parts[0].copy_(values)
        rest = values - parts[0].to(torch.float32)
        parts[1].copy_(torch.where(rest.isfinite(), rest, 0.0))


class Split(Beside):
    """The upper half rounds to nearest, ties away from zero, so that the lower half, with a sign,
    tells the rest of the bits. The lower half of a NaN is 0."""

    def load(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        upper = parts[0].view(torch.int16).to(torch.int64) & 0xFFFF
        return _float((upper << 16) + parts[1].to(torch.int64) & _MASK)

    def save(self, values: Tensor, parts: Parts, key: int = 0) -> None:
        bits = _bits(values)
        upper = torch.where(values.isnan(), bits >> 16 | 0x40, bits + 0x8000 >> 16)
        lower = torch.where(values.isnan(), 0, bits - (upper << 16))
        parts[0].view(torch.int16).copy_(upper - (upper >> 15 << 16))
        parts[1].copy_(lower)


def of_half(way: str, plain: Codec) -> Codec:
    """The codec of parameters that lie as `plain` does, a format of 16 bits, by its name above."""
    name, dtype = f"{way}_{plain.name}", plain.dtype
    match way:
        case "stochastic":
            return Stochastic(name, dtype)
        case "master":
            return Master(name, dtype, "p.master", torch.float32)
        case "kahan":
            return Kahan(name, dtype, "p.compensation", dtype)
        case "split":
            return Split(name, dtype, "p.low", torch.int16)
    return plain
