"""Codecs: the published maps and codes, the nearest code for every number, what nobody may lose."""

from __future__ import annotations

import json
from bisect import bisect_right
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optdsl.runtime.storage.codecs import (
    CODECS,
    FP8,
    INT4,
    INT8,
    LEAST_SCALE,
    UINT4,
    UINT8,
    Codec,
    codec,
    exact_map,
    tables,
)

DATA = Path(__file__).parents[1] / "data/storage/codecs.json"
ORACLE: dict[str, Any] = json.loads(DATA.read_text())
WITH_MAPS = [each for each in CODECS if each.decades is not None]
SIZES = [0, 1, 2, 127, 128, 129, 255, 256, 257, 1000]


def label(form: Codec) -> str:
    return form.name if form.signed else f"unsigned {form.name}"


every = pytest.mark.parametrize("form", CODECS, ids=label)
mapped = pytest.mark.parametrize("form", WITH_MAPS, ids=label)


def sample(length: int = 512) -> torch.Tensor:
    """The values that the published codes are of."""
    i = np.arange(length)
    return torch.tensor((np.sin(0.7 * i) * np.exp(-i / 90)).astype(np.float32))


def sample4() -> torch.Tensor:
    x = sample(256)
    x[5], x[6], x[7], x[9] = 0, 0, 1e-5, 4e-6
    return x


# ---------------------------------------------------------------- published values


@pytest.mark.parametrize(
    ("form", "group", "key"),
    [
        (INT8, "dynamic8", "signed_map"),
        (UINT8, "dynamic8", "unsigned_map"),
        (INT4, "dynamic4", "signed_map"),
        (UINT4, "dynamic4", "unsigned_map"),
    ],
)
def test_maps_are_the_published_ones(form: Codec, group: str, key: str) -> None:
    published = np.array(ORACLE[group][key])
    assert np.array_equal(tables(form)[0], published.astype(np.float32))
    exact = np.array([float(each) for each in exact_map(form)])
    assert np.abs(exact - published).max() <= 1e-15


def built_by_linspace(signed: bool) -> list[float]:
    """The map as bitsandbytes and torchao build it, in float32."""
    entries: list[float] = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1)
        bins = (10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
        entries += bins + ([-each for each in bins] if signed else [])
    return sorted(entries)


@pytest.mark.parametrize("form", [INT8, UINT8], ids=label)
def test_maps_are_within_two_ulps_of_those_built_in_float32(form: Codec) -> None:
    theirs = np.array(built_by_linspace(form.signed), np.float32)
    ours = tables(form)[0]
    assert np.abs(ours.view(np.int32) - theirs.view(np.int32)).max() <= 2


@pytest.mark.parametrize(
    ("form", "values", "group", "codes", "scales"),
    [
        (INT8, sample(), "dynamic8", "signed_codes", "signed_absmax"),
        (UINT8, sample() ** 2, "dynamic8", "unsigned_codes", "unsigned_absmax"),
        (INT4, sample4(), "dynamic4", "packed_signed", "absmax"),
        (UINT4, sample4() ** 2, "dynamic4", "packed_unsigned", "absmax_u"),
    ],
)
def test_codes_are_the_published_ones(
    form: Codec, values: torch.Tensor, group: str, codes: str, scales: str
) -> None:
    encoded = form.encode(values)
    assert encoded.codes.tolist() == ORACLE[group][codes]
    assert encoded.scales.tolist() == pytest.approx(ORACLE[group][scales], rel=2e-7)


def test_fp8_is_the_published_one() -> None:
    encoded = FP8.encode(sample4())
    assert encoded.scales.tolist() == pytest.approx([ORACLE["fp8"]["scale"]], rel=2e-7)
    assert FP8.decode(encoded.codes, torch.ones(1), 8).tolist() == ORACLE["fp8"]["first8"]


def test_three_steps_of_adam_are_the_published_ones() -> None:
    n, oracle = 4096, ORACLE["adam8"]
    i = torch.arange(n, dtype=torch.float64)
    w = torch.cos(0.3 * i).float()
    m, v = INT8.encode(torch.zeros(n)), UINT8.encode(torch.zeros(n))
    for k in range(3):
        g = (0.1 * torch.sin((0.11 + 0.07 * k) * i)).float()
        first = INT8.decode(*m, n).lerp(g, 1 - 0.9)
        second = UINT8.decode(*v, n).lerp(g * g, 1 - 0.999)
        m, v = INT8.encode(first), UINT8.encode(second)
        unbiased = first / (1 - 0.9 ** (k + 1))
        w -= 1e-3 * unbiased / ((second / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8)
    assert w[:8].tolist() == pytest.approx(oracle["w_first8"], abs=2e-6)
    assert w.double().sum().item() == pytest.approx(oracle["w_sum"], abs=1e-4)
    assert m.scales.tolist() == pytest.approx(oracle["m_absmax"], rel=2e-5)
    assert v.scales.tolist() == pytest.approx(oracle["v_absmax"], rel=2e-5)
    assert m.codes[:16].tolist() == oracle["m_codes_first16"]
    assert v.codes[:16].tolist() == oracle["v_codes_first16"]


# ---------------------------------------------------------------- the nearest code


def around(points: np.ndarray) -> np.ndarray:
    """Each of `points` with the float32 below it and the one above."""
    inf = np.float32(np.inf)
    return np.concatenate([points, np.nextafter(points, -inf), np.nextafter(points, inf)])


@mapped
def test_the_code_is_the_nearest_and_of_two_the_upper(form: Codec) -> None:
    """Against fractions, at every middle and beside it, at every entry, and at random numbers."""
    entries, middles = tables(form)
    generator = np.random.default_rng(0)
    magnitudes = 10 ** generator.uniform(-8, 0, 100) * generator.choice([-1, 1], 100)
    numbers = np.concatenate([around(middles), around(entries), magnitudes.astype(np.float32)])
    lowest = -1.0 if form.signed else 0.0
    numbers = numbers[(numbers <= 1) & (numbers >= lowest)]
    exact = exact_map(form)
    halves = [(a + b) / 2 for a, b in pairwise(exact)]
    # One number a block, with a 1 beside it, so that the scale is 1.
    blocks = np.ones((len(numbers), form.block), np.float32)
    blocks[:, 0] = numbers
    encoded = form.encode(torch.from_numpy(blocks))
    assert encoded.scales.eq(1).all()
    first = encoded.codes.view(len(numbers), -1)[:, 0]
    found = (first >> 4 if form.per_byte == 2 else first).tolist()
    for number, code in zip(numbers.tolist(), found, strict=True):
        assert code == bisect_right(halves, Fraction(number)), number


@pytest.mark.parametrize("form", [INT8, UINT8, UINT4], ids=label)  # int4 has no exact tie
def test_ties_exist_and_go_up(form: Codec) -> None:
    exact = exact_map(form)
    halves = [(a + b) / 2 for a, b in pairwise(exact)]
    ties = [half for half in halves if Fraction(float(np.float32(float(half)))) == half]
    assert len(ties) >= 3
    for tie in ties:
        values = torch.tensor([float(tie), 1.0])
        decoded = form.decode(*form.encode(values), 2)[0].item()
        assert decoded > float(tie)


@every
def test_what_was_decoded_keeps_its_codes(form: Codec) -> None:
    codes = torch.arange(256, dtype=torch.uint8).roll(1)  # 255, the entry 1, in the first block
    if form is FP8:
        codes = codes[(codes & 127) < 127]  # without its two NaNs
        codes[0] = 126
    n = len(codes) * form.per_byte
    values = form.decode(codes, torch.ones(form.blocks(n)), n)
    if form.per_byte == 2:
        values.view(-1, form.block)[:, 0] = 1
    again = form.decode(*form.encode(values), n)
    assert torch.equal(again, values)


# ---------------------------------------------------------------- sizes and strange numbers


@every
@pytest.mark.parametrize("n", SIZES)
def test_any_size(form: Codec, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    values = torch.randn(n, generator=generator)
    values = values if form.signed else values.square()
    codes, scales = form.encode(values)
    assert codes.dtype is torch.uint8 and scales.dtype is torch.float32
    assert codes.shape == (form.code_bytes(n),) and scales.shape == (form.blocks(n),)
    decoded = form.decode(codes, scales, n)
    assert decoded.shape == (n,) and decoded.dtype is torch.float32
    # Half of the widest gap between two entries: 9/128 of a decade, 0.225/2, 1/32, one of 16 to 32.
    half = {INT8: 0.0088, UINT8: 0.0044, INT4: 0.14, UINT4: 0.0625, FP8: 0.036}[form]
    each = scales.repeat_interleave(form.block)[:n] * (448 if form is FP8 else 1)
    assert ((decoded - values).abs() <= half * each).all()


@every
def test_a_short_block_is_as_a_whole_one_with_zeros(form: Codec) -> None:
    values = torch.linspace(0.1, 3, form.block + 7)
    whole = torch.cat([values, torch.zeros(form.block - 7)])
    short, full = form.encode(values), form.encode(whole)
    assert torch.equal(short.scales, full.scales)
    count = form.code_bytes(len(values)) - len(values) % form.per_byte
    assert torch.equal(short.codes[:count], full.codes[:count])


@every
def test_zeros_stay_zeros(form: Codec) -> None:
    codes, scales = form.encode(torch.zeros(300))
    assert scales.eq(LEAST_SCALE / (448 if form is FP8 else 1)).all()
    decoded = form.decode(codes, scales, 300)
    assert (decoded == 0).all() or form is UINT4  # whose lowest entry is 1 / 16
    assert (decoded.abs() < 1e-13).all()


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_block_with_a_nan_or_an_infinity_decodes_to_nan(form: Codec, bad: float) -> None:
    values = torch.ones(3 * form.block)
    values[form.block + 5] = bad
    codes, scales = form.encode(values)
    decoded = form.decode(codes, scales, len(values)).view(3, -1)
    assert decoded[1].isnan().all()
    assert decoded[[0, 2]].eq(1).all()
    assert not codes.view(3, -1)[1].any()


@every
def test_large_and_small_numbers(form: Codec) -> None:
    largest, small = torch.finfo(torch.float32).max, 3e-42  # the second is subnormal
    values = torch.tensor([largest, 1.0, small])
    decoded = form.decode(*form.encode(values), 3)
    assert decoded[0] == pytest.approx(largest) or decoded[0].isinf()
    assert (form.decode(*form.encode(values[2:]), 1).abs() < 1e-13).all()


@every
def test_other_dtypes_and_shapes_are_taken(form: Codec) -> None:
    values = torch.linspace(0.2, 1, 260).view(26, 10).T
    expected = form.encode(values.contiguous().view(-1))
    for other in (values, values.double()):
        found = form.encode(other)
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.scales, expected.scales)


@pytest.mark.parametrize("form", [INT4, UINT4], ids=label)
def test_two_codes_in_a_byte(form: Codec) -> None:
    codes, _ = form.encode(torch.tensor([1.0, 0.5, 1.0]))
    upper, lower = int(codes[0]) >> 4, int(codes[0]) & 15
    assert upper == 15 and lower not in (0, 15)
    assert int(codes[1]) == 0xF0


def test_a_codec_by_its_name() -> None:
    assert codec("int8", signed=True) is INT8
    assert codec("int8", signed=False) is UINT8
    assert codec("int4", signed=False) is UINT4
    assert codec("fp8", signed=False) is FP8
    with pytest.raises(KeyError):
        codec("bf16", signed=True)
