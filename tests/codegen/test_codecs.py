"""Codecs in C: bit for bit those of runtime/storage/codecs.py, in loops of any vectors."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import codecs as benchmark
from optdsl.codegen.codecs import C_NAMES, runtime_source
from optdsl.resources import PACKAGE
from optdsl.runtime.cpu.launch import ABLE, codec_source
from optdsl.runtime.native import FLAGS, find_compiler, load, runtime_text
from optdsl.runtime.storage.codecs import CODECS, FP8, Codec, tables

VECTORS = {"native": (), "8 lanes": ("-mno-avx512f",), "loops": ("-mno-avx512f", "-mno-avx2")}
every = pytest.mark.parametrize("form", CODECS, ids=C_NAMES.get)
ways = pytest.mark.parametrize("vectors", VECTORS)


@cache
def library(vectors: str) -> ctypes.CDLL:
    if VECTORS[vectors] and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("one way on this processor")
    return load(codec_source(), *VECTORS[vectors])


def call(
    vectors: str, name: str, values: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor
) -> None:
    pointers = [ctypes.c_void_p(each.data_ptr()) for each in (values, codes, scales)]
    n = ctypes.c_longlong(values.numel())
    getattr(library(vectors), name)(*pointers, ctypes.c_longlong(0), n)


def encoded(
    form: Codec, values: torch.Tensor, vectors: str = "native"
) -> tuple[torch.Tensor, torch.Tensor]:
    n = values.numel()
    codes = torch.empty(form.code_bytes(n), dtype=torch.uint8)
    scales = torch.empty(form.blocks(n))
    call(vectors, f"save_{C_NAMES[form]}", values, codes, scales)
    return codes, scales


def decoded(
    form: Codec, codes: torch.Tensor, scales: torch.Tensor, n: int, vectors: str = "native"
) -> torch.Tensor:
    values = torch.empty(n)
    call(vectors, f"load_{C_NAMES[form]}", values, codes, scales)
    return values


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return np.array_equal(a.numpy().view(np.uint8), b.numpy().view(np.uint8))


def with_one(form: Codec, numbers: np.ndarray) -> torch.Tensor:
    """`numbers` in blocks that end in 1 (fp8: 448), so that the scale is 1 and the ratios these."""
    inside = form.block - 1
    padded = np.pad(numbers.astype(np.float32), (0, -len(numbers) % inside))
    blocks = np.full((len(padded) // inside, form.block), 448 if form is FP8 else 1, np.float32)
    blocks[:, :-1] = padded.reshape(-1, inside)
    return torch.from_numpy(blocks).view(-1)


def telling_numbers(form: Codec, count: int = 20_000) -> np.ndarray:
    """Every boundary, entry and power of ten with its neighbours, and `count` random numbers."""
    if form is FP8:
        entries = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
        points = np.concatenate([entries, (entries[1:] + entries[:-1]) / 2])
    else:
        points = np.concatenate([*tables(form), 10.0 ** -np.arange(9)]).astype(np.float32)
    inf = np.float32(np.inf)
    near = [points, np.nextafter(points, inf), np.nextafter(points, -inf)]
    near += [np.nextafter(near[1], inf), np.nextafter(near[2], -inf)]
    generator = np.random.default_rng(0)
    random = 10 ** generator.uniform(-9, 0, count // 2)
    numbers = np.concatenate(
        [*near, random, generator.uniform(-1, 1, count // 2), [0.0, -0.0, 1e-44]]
    )
    numbers = np.concatenate([numbers, -numbers]).astype(np.float32)
    return numbers[np.abs(numbers) <= (448 if form is FP8 else 1)]


@every
@ways
def test_every_code_decodes_to_its_entry(form: Codec, vectors: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    n = 256 * form.per_byte
    for scale in (1.0, 0.37, 3e-30, 2e38):
        scales = torch.full((form.blocks(n),), scale)
        expected = form.decode(codes, scales, n)
        found = decoded(form, codes, scales, n, vectors)
        assert same_bits(found[~expected.isnan()], expected[~expected.isnan()])
        assert torch.equal(found.isnan(), expected.isnan())


@every
@ways
def test_every_number_has_the_code_of_the_reference(form: Codec, vectors: str) -> None:
    values = with_one(form, telling_numbers(form))
    expected, found = form.encode(values), encoded(form, values, vectors)
    assert found[1].eq(1).all()
    assert same_bits(found[1], expected.scales)
    assert torch.equal(found[0], expected.codes)


@every
@ways
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 127, 129, 255, 256, 257, 1000])
def test_any_size_and_scale(form: Codec, vectors: str, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    values = torch.randn(n, generator=generator)
    for factor in (1e-30, 1e-13, 1e-3, 1.0, 1e30, 1e38):
        expected, found = form.encode(values * factor), encoded(form, values * factor, vectors)
        assert same_bits(found[1], expected.scales)
        assert torch.equal(found[0], expected.codes)
        back = decoded(form, *found, n, vectors)
        assert same_bits(back, form.decode(*expected, n))


@pytest.mark.parametrize("step", [101, pytest.param(1, marks=pytest.mark.slow)])
def test_quotients_are_rounded_as_a_division_rounds_them(step: int) -> None:
    text = Path(__file__).with_name("quotients.c").read_text()
    count = load(runtime_text("storage/numbers.c") + runtime_text("storage/lanes.c") + text)
    tried, wrong = ctypes.c_longlong(), ctypes.c_longlong()
    count.count_wrong(ctypes.c_longlong(step), ctypes.byref(tried), ctypes.byref(wrong))
    assert tried.value > 90_000_000 // step
    assert wrong.value == 0


@every
@ways
def test_a_scale_whose_inverse_would_be_subnormal(form: Codec, vectors: str) -> None:
    values = with_one(form, telling_numbers(form, 1000))
    for factor in (2.0**118, 2.0**125, 2.0**126, 2.0**127):
        huge = (values * factor).clamp(-3.4e38, 3.4e38)
        expected, found = form.encode(huge), encoded(form, huge, vectors)
        assert same_bits(found[1], expected.scales)
        assert torch.equal(found[0], expected.codes)


@every
def test_blocks_of_zeros_and_of_what_is_not_finite(form: Codec) -> None:
    values = torch.zeros(5, form.block)
    values[1, 3], values[2, 0], values[3, -1], values[4, 1] = 1, torch.nan, torch.inf, -torch.inf
    expected, found = form.encode(values), encoded(form, values)
    assert torch.equal(found[0], expected.codes)
    assert torch.equal(found[1].isnan(), torch.tensor([False, False, True, True, True]))
    assert same_bits(found[1][:2], expected.scales[:2])
    assert decoded(form, *found, values.numel())[2 * form.block :].isnan().all()


def test_the_maps_are_worked_out_in_vectors(tmp_path: Path) -> None:
    """gcc leaves neither a search nor a look-up per element: loops of lanes alone."""
    compiler = find_compiler()
    if compiler is None or "gcc" not in Path(compiler.command[0]).resolve().name:
        pytest.skip("reads gcc's assembly")
    path = tmp_path / "codecs.c"
    path.write_text(codec_source())
    flags = [flag for flag in FLAGS if not flag.startswith(("-march", "-shared"))]
    done = subprocess.run(
        [*compiler.command, *flags, "-march=haswell", "-S", "-o", "-", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("this compiler makes no AVX2")
    assert done.stdout.count("vpermps") > 20
    slow = ("gather", "call\tfmaf", "fmaf@PLT")
    assert not [each for each in slow if each in done.stdout]


def test_the_runtime_carries_these_functions(request: pytest.FixtureRequest) -> None:
    file = PACKAGE / "runtime" / "storage" / "codecs.c"
    if request.config.getoption("--update-golden"):
        file.write_text(runtime_source(), encoding="utf-8")
    assert file.read_text("utf-8") == runtime_source()


def test_the_benchmark_measures_every_codec() -> None:
    found = benchmark.measure(trials=1)
    assert all(figure > 0 for figure in found.values())
    assert {f"{way}_{name}" for name in ABLE.whole for way in ("load", "save")} < set(found)
