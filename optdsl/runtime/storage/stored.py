"""What a codec is: how the values of a tensor are kept in memory, and had back.

Input: values. Output: the tensors that are kept (elements, and what lies beside them), and values.
What `load` gives after `save` is what is computed with; it has been rounded once.

Relies on: torch, codecs.py. Does not do: who has which (choice.py), parameters (rounding.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optdsl.runtime.storage import codecs

Parts = Sequence[Tensor]
"""What is kept of one state or parameter: its elements, then what lies beside them."""


@dataclass(frozen=True)
class Part:
    """One of these tensors: what its key ends in, its dtype and its shape."""

    beside: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Codec:
    """One number an element, of `dtype`, rounded to nearest."""

    name: str
    dtype: torch.dtype

    @property
    def plain(self) -> bool:
        """Whether an element is its value, so that a kernel reads and writes it where it is."""
        return True

    def layout(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """What is kept of values of `shape`."""
        return (Part("", self.dtype, shape),)

    def load(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        """The values, of `shape`; the first part itself where that holds them as they are."""
        return parts[0]

    def save(self, values: Tensor, parts: Parts, key: int = 0) -> None:
        """Writes `values`, of the shape that `load` gives. `key` is that of random roundings."""
        parts[0].copy_(values)


SCALE = ".scale"
"""What the key of a state's scales ends in."""

FLOAT64 = Codec("float64", torch.float64)
FLOAT32 = Codec("float32", torch.float32)
BF16 = Codec("bf16", torch.bfloat16)
FP16 = Codec("fp16", torch.float16)
PLAIN = {each.dtype: each for each in (FLOAT64, FLOAT32, BF16, FP16)}


@dataclass(frozen=True)
class BlockCodec(Codec):
    """Codes of a few bits, in the flat order of the tensor, and a float32 scale for each block of
    `form.block` of them, under the key with `.scale` behind it. Codes of eight bits have the
    tensor's shape, two of four bits share a byte of a flat tensor."""

    form: codecs.Codec

    @property
    def plain(self) -> bool:
        return False

    def layout(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        n = torch.Size(shape).numel()
        codes = shape if self.form.per_byte == 1 else (self.form.code_bytes(n),)
        return (
            Part("", self.dtype, codes),
            Part(SCALE, torch.float32, (self.form.blocks(n),)),
        )

    def load(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        n = torch.Size(shape).numel()
        codes = parts[0].reshape(-1).view(torch.uint8)
        return self.form.decode(codes, parts[1], n).reshape(shape)

    def save(self, values: Tensor, parts: Parts, key: int = 0) -> None:
        codes, scales = self.form.encode(values)
        parts[0].view(torch.uint8).copy_(codes.reshape(parts[0].shape))
        parts[1].copy_(scales)
