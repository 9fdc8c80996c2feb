"""A step of momentum for each codec, as a generated kernel would call it: for runs and compilers.

`pointers` has the addresses of p, g, codes and scales; a program takes ROWS whole blocks.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from optdsl.runtime.triton.codecs import decode_block, encode_block, pack, unpack
from optdsl.runtime.triton.math import element_pointer

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls


@triton.jit
def _step(
    pointers,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BYTES: tl.constexpr,
    CODEC: tl.constexpr,
):
    p = element_pointer(pointers, tl.float32, ALIGNED)
    g = element_pointer(pointers + 1, tl.float32, ALIGNED)
    packed = element_pointer(pointers + 2, tl.uint8, ALIGNED)
    scales = element_pointer(pointers + 3, tl.float32, ALIGNED)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = row[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    at_byte = row[:, None] * BYTES + tl.arange(0, BYTES)[None, :]
    codes = tl.load(packed + at_byte)
    if BYTES < BLOCK:
        codes = unpack(codes)
    m = decode_block(codes, tl.load(scales + row), CODEC)
    m += (tl.load(g + at) - m) * 0.125
    tl.store(p + at, tl.load(p + at) - m * 0.25)
    new, scale = encode_block(m, CODEC)
    if BYTES < BLOCK:
        new = pack(new)
    tl.store(packed + at_byte, new)
    tl.store(scales + row, scale)


@triton.jit
def int8(pointers, ALIGNED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    _step(pointers, ALIGNED, ROWS, BLOCK, BLOCK, "int8")


@triton.jit
def uint8(pointers, ALIGNED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    _step(pointers, ALIGNED, ROWS, BLOCK, BLOCK, "uint8")


@triton.jit
def int4(pointers, ALIGNED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    _step(pointers, ALIGNED, ROWS, BLOCK, BLOCK // 2, "int4")


@triton.jit
def uint4(pointers, ALIGNED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    _step(pointers, ALIGNED, ROWS, BLOCK, BLOCK // 2, "uint4")


@triton.jit
def fp8(pointers, ALIGNED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    _step(pointers, ALIGNED, ROWS, BLOCK, BLOCK, "fp8")


KERNELS: dict[str, Any] = {each.__name__: each for each in (int8, uint8, int4, uint4, fp8)}
