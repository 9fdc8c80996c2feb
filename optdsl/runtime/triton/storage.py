"""p and the states as generated Triton kernels load and save them, however they are kept.

KEPT is how a buffer lies in memory: a dtype, or the name of a codec of stored.py and rounding.py,
whose bits these are. A `place` is where a task's part of a buffer begins. Lanes are elements of a
flat task [N], whose places are numbers, or of rows [R, N], whose places are columns [R, 1]:

    kept(table, column, beside, first, KEPT, ALIGNED, rows) -> place    `first`: its first element
    load(place, start, end, LANES, KEPT) -> values                      LANES lanes from `start` on,
    save(place, start, end, values, KEPT)                               those before `end`

What is loaded beyond `end`, and where `rows` is false, is 0. Where elements share a scale, a task
begins with a block of them, and so does each row; `start` and LANES are made of whole blocks.

Relies on: triton/codecs.py, triton/math.py. Does not do: who has which codec (packing.py).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton types its functions itself, from their arguments.

from __future__ import annotations

import triton
import triton.language as tl

from optdsl.runtime.triton.codecs import BLOCKS, decode_block, encode_block, pack, unpack
from optdsl.runtime.triton.math import element_pointer, rounded

WAYS = {
    f"{way}_{half}": way
    for way in ("stochastic", "master", "kahan", "split")
    for half in ("bf16", "fp16")
    if (way, half) != ("split", "fp16")
}
"""How parameters of 16 bits keep what rounding loses, by codec."""


@triton.constexpr_function
def block_size(kept):
    """Elements that share a scale; 0 where none do."""
    if kept in BLOCKS:  # Triton takes no function of a dict
        return BLOCKS[kept]
    return 0


@triton.constexpr_function
def per_byte(kept):
    """Elements that share a byte."""
    return 2 if kept in ("int4", "uint4") else 1


@triton.constexpr_function
def way_of(kept):
    """How a parameter of 16 bits keeps what rounding loses; "" for all else."""
    if kept in WAYS:
        return WAYS[kept]
    return ""


@triton.constexpr_function
def element_of(kept):
    """The type of an element, or of a byte of codes."""
    if kept in WAYS:
        return tl.bfloat16 if kept.endswith("bf16") else tl.float16
    return tl.uint8 if kept in BLOCKS else kept


@triton.constexpr_function
def beside_of(kept):
    """The type of what lies beside the elements of a parameter of 16 bits."""
    own = tl.bfloat16 if kept.endswith("bf16") else tl.float16
    return {"master": tl.float32, "kahan": own, "split": tl.int16}[WAYS[kept]]


@triton.jit
def kept(table, column, beside, first, KEPT: tl.constexpr, ALIGNED: tl.constexpr, rows=0):
    """The place of a buffer. Two columns of `table` have the addresses of its elements and of what
    lies beside them; for random roundings, their key."""
    pointer = element_pointer(table + column, element_of(KEPT), ALIGNED)
    if block_size(KEPT) != 0:
        pointer += first // per_byte(KEPT)
        if ALIGNED:  # as blocks do; a division does not tell
            pointer = _on_16_bytes(pointer)
        scales = element_pointer(table + beside, tl.float32, False)
        place = pointer, scales + first // block_size(KEPT), first, rows
    elif way_of(KEPT) == "stochastic":
        place = pointer + first, tl.load(table + beside).to(tl.uint32), first, rows
    elif way_of(KEPT) != "":
        others = element_pointer(table + beside, beside_of(KEPT), ALIGNED)
        place = pointer + first, others + first, first, rows
    else:
        place = pointer + first, pointer, first, rows
    return place


@triton.jit
def load(place, start, end, LANES: tl.constexpr, KEPT: tl.constexpr):
    """The values of lanes; of a dtype, in that."""
    if block_size(KEPT) != 0:
        values = _load_codes(place, start, end, LANES, KEPT)
    else:
        i, mask = _lanes(place, start, end, LANES)
        values = tl.load(place[0] + i, mask, other=0.0)
        if way_of(KEPT) == "master":
            values = _of_master(values, tl.load(place[1] + i, mask, other=0.0))
        elif way_of(KEPT) == "kahan":
            lost = tl.load(place[1] + i, mask, other=0.0)
            values = values.to(tl.float32) + lost.to(tl.float32)
        elif way_of(KEPT) == "split":
            values = _joined(values, tl.load(place[1] + i, mask, other=0))
    return values


@triton.jit
def save(place, start, end, values, KEPT: tl.constexpr):
    """Keeps the values of lanes."""
    if block_size(KEPT) != 0:
        _save_codes(place, start, end, values, KEPT)
    else:
        i, mask = _lanes(place, start, end, values.shape[len(values.shape) - 1])
        kind: tl.constexpr = element_of(KEPT)
        if way_of(KEPT) == "stochastic":
            tl.store(place[0] + i, _up(values, random_bits(place[2] + i, place[1]), kind), mask)
        elif way_of(KEPT) == "split":
            upper, lower = _halves(values)
            tl.store(place[0] + i, upper, mask)
            tl.store(place[1] + i, lower, mask)
        else:
            own = rounded(values, kind)
            tl.store(place[0] + i, own, mask)
            if way_of(KEPT) == "master":
                tl.store(place[1] + i, values, mask)
            elif way_of(KEPT) == "kahan":
                lost = values - own.to(tl.float32)
                lost = tl.where(tl.abs(lost) < float("inf"), lost, 0.0)
                tl.store(place[1] + i, rounded(lost, kind), mask)


@triton.jit
def _on_16_bytes(pointer):
    if len(pointer.shape) == 2:
        pointer = tl.multiple_of(pointer, [16, 16])
    else:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _lanes(place, start, end, COUNT: tl.constexpr):
    """COUNT numbers from `start` on, and which of them are before `end` in the rows of `place`."""
    lanes = start + tl.arange(0, COUNT)
    if len(place[0].shape) == 2:
        lanes = lanes[None, :]
        mask = place[3] & (lanes < end)
    else:
        mask = lanes < end
    return lanes, mask


# ---------------------------------------------------------------- codes


@triton.jit
def _load_codes(place, start, end, LANES: tl.constexpr, KEPT: tl.constexpr):
    block: tl.constexpr = block_size(KEPT)
    byte, of_bytes, number, of_blocks = _coded_lanes(place, start, end, LANES, KEPT)
    codes = tl.load(place[0] + byte, of_bytes, other=0)
    scales = tl.load(place[1] + number, of_blocks, other=0.0)
    if per_byte(KEPT) == 2:
        codes = unpack(codes)
    blocks: tl.constexpr = codes.numel // block
    values = decode_block(tl.reshape(codes, (blocks, block)), tl.reshape(scales, (blocks,)), KEPT)
    return tl.reshape(values, codes.shape)


@triton.jit
def _save_codes(place, start, end, values, KEPT: tl.constexpr):
    block: tl.constexpr = block_size(KEPT)
    share: tl.constexpr = per_byte(KEPT)
    lanes: tl.constexpr = values.shape[len(values.shape) - 1]
    blocks: tl.constexpr = values.numel // block
    inside = _lanes(place, start, end, lanes)[1]
    values = tl.where(inside, values, 0.0)
    codes, scales = encode_block(tl.reshape(values, (blocks, block)), KEPT)
    if share == 2:  # of an odd last byte the second half is 0
        codes = pack(tl.where(tl.reshape(inside, (blocks, block)), codes, 0))
    if len(values.shape) == 2:
        codes = tl.reshape(codes, (values.shape[0], lanes // share))
        scales = tl.reshape(scales, (values.shape[0], lanes // block))
    else:
        codes = tl.reshape(codes, (lanes // share,))
    byte, of_bytes, number, of_blocks = _coded_lanes(place, start, end, lanes, KEPT)
    tl.store(place[0] + byte, codes, of_bytes)
    tl.store(place[1] + number, scales, of_blocks)


@triton.jit
def _coded_lanes(place, start, end, LANES: tl.constexpr, KEPT: tl.constexpr):
    """The bytes of codes and the scales of lanes, each with those that there are. Written so that
    the compiler sees by what the number of bytes can be divided."""
    block: tl.constexpr = block_size(KEPT)
    share: tl.constexpr = per_byte(KEPT)
    bytes_end = end // share + end % share
    byte, of_bytes = _lanes(place, start // share, bytes_end, LANES // share)
    blocks_end = (end + block - 1) // block
    number, of_blocks = _lanes(place, start // block, blocks_end, LANES // block)
    return byte, of_bytes, number, of_blocks


# ---------------------------------------------------------------- 16 bits


@triton.jit
def random_bits(index, key):
    """16 random bits for each element of a tensor: rounding.random_bits."""
    x = ((index >> 1).to(tl.uint32) + key) * 0x9E3779B9
    x = (x ^ ((x << 6) | (x >> 26)) ^ ((x << 17) | (x >> 15))) * 0x85EBCA6B
    x = x ^ (x >> 15)
    return tl.where((index & 1) == 0, x & 0xFFFF, x >> 16)


@triton.jit
def _bits(values):
    return values.to(tl.float32).to(tl.uint32, bitcast=True)


@triton.jit
def _up(values, random, kind: tl.constexpr):
    """Rounded up with the probability that makes the mean exact: rounding.Stochastic."""
    bits = _bits(values)
    if kind == tl.bfloat16:
        bits = tl.where(values == values, bits + random, bits | 0x400000)
        result = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        normal = ((bits + (random >> 3)) & 0xFFFFE000).to(tl.float32, bitcast=True)
        steps = tl.abs(values) * 16777216.0
        below = tl.floor(steps)
        more = random.to(tl.float32) < (steps - below) * 65536.0
        small = (below + more.to(tl.float32)) * (1 / 16777216)
        small = tl.where((bits >> 31) != 0, -small, small)
        chosen = tl.where(tl.abs(values) < 0.00006103515625, small, normal)
        result = rounded(tl.where(values == values, chosen, values), tl.float16)
    return result


@triton.jit
def _of_master(own, master):
    """The master; where the parameter is not that, rounded, it was changed by hand, and counts."""
    same = rounded(master, own.dtype).to(tl.int16, bitcast=True) == own.to(tl.int16, bitcast=True)
    return tl.where(same, master, own.to(tl.float32))


@triton.jit
def _joined(upper, lower):
    """The float32 of a bfloat16 and the lower 16 bits, which have a sign."""
    high = upper.to(tl.uint16, bitcast=True).to(tl.int32) << 16
    return (high + lower.to(tl.int32)).to(tl.float32, bitcast=True)


@triton.jit
def _halves(values):
    """A bfloat16, to nearest, ties away from zero, and the lower 16 bits: rounding.Split."""
    bits = _bits(values)
    ordinary = values == values
    upper = tl.where(ordinary, (bits + 0x8000) >> 16, (bits >> 16) | 0x40)
    lower = tl.where(ordinary, bits & 0xFFFF, 0).to(tl.uint16).to(tl.int16, bitcast=True)
    return upper.to(tl.uint16).to(tl.bfloat16, bitcast=True), lower
