"""Kernels in strips, in either order: the bits are those of whole tasks, and nothing is called."""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import optdsl.zoo
from optdsl.runtime.cpu.strips import (
    PAIRED_FLAGS,
    STRIP,
    SUFFIX,
    halves_source,
    in_pairs,
    in_strips,
    pairs_source,
    strips_source,
)
from optdsl.runtime.native import FLAGS, find_compiler, load, load_kernels, runtime_text
from optdsl.runtime.program import Variant
from optdsl.runtime.storage.rounding import of_half
from optdsl.runtime.storage.stored import BF16, Codec
from tests.runtime.test_rounding import KEY, empty, numbers, same_bits, trained

FLOAT32 = "-Dp_stored=real", "-Dp_widen=", "-Dp_narrow="
CODECS = [of_half(way, BF16) for way in ("stochastic", "master", "kahan", "split")]
PAIRED = [BF16, of_half("stochastic", BF16)]
WORDS = {"stored": "bf16", "widen": "widen_bf16", "narrow": "narrow_bf16"}
STATES = [f"-D{name}_{word}={each}" for name in "mv" for word, each in WORDS.items()]
PORTABLE = [["-mno-avx512bf16"]] if platform.machine() in ("x86_64", "AMD64") else []
"""Flags under which the processor's own rounding is left alone."""
SCALARS = np.array([1, 1e-5, 1e-2, 0.1, 1.1, 1e-3, 1e-8])
PROGRAM = optdsl.zoo.AdamW.program


def variant() -> Variant:
    """Without amsgrad."""
    return next(each for each in PROGRAM.variants if "largest" not in each.buffers)


def text(codec: Codec) -> str:
    return PROGRAM.c_source + strips_source(variant(), {"p": codec})


@pytest.mark.parametrize("codec", CODECS, ids=lambda each: each.name)
@pytest.mark.parametrize("count", [1, 31, 63, 64, 65, 128, 1000])
def test_strips_are_as_the_whole_in_every_bit(codec: Codec, count: int) -> None:
    library = load_kernels(text(codec), "bfloat16", *FLOAT32)
    (kernel,) = variant().kernels
    first, generator = 64, torch.Generator().manual_seed(0)
    start = torch.randn(first + count, generator=generator)
    found = []
    for strips in (True, False):
        parts = empty(codec, first + count)
        codec.save(start, parts, KEY)
        g = start.bfloat16() * 0.5
        m, v, values = start * 0.1, start.square(), start.clone()
        beside = parts[1].data_ptr() if len(parts) > 1 else KEY
        kept = [each.data_ptr() for each in (parts[0], g, m, v)]
        task = np.array([0, first, first + count, 0])
        place = [ctypes.c_void_p(each) for each in (values.data_ptr() + 4 * first, kept[0], beside)]
        part = [*place, ctypes.c_longlong(first), ctypes.c_longlong(count)]
        if not strips:
            getattr(library, f"load_{codec.name}")(*part)
        pointers = np.array([kept[0] if strips else values.data_ptr(), *kept[1:], beside])
        tables = [task, pointers, np.zeros(8, np.int64), SCALARS, np.zeros(1), np.zeros(1)]
        name = kernel.name + (SUFFIX if strips else "")
        getattr(library, name)(*(ctypes.c_void_p(each.ctypes.data) for each in tables))
        if not strips:
            getattr(library, f"save_{codec.name}")(*part)
        found.append([*parts, m, v])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[0][0], start.bfloat16())


def kept(codec: Codec) -> dict[str, str]:
    return {"p": codec.name} | dict.fromkeys("gmv", "bf16")


@pytest.mark.parametrize("flags", [[], *PORTABLE], ids=lambda each: "".join(each) or "native")
@pytest.mark.parametrize("codec", PAIRED, ids=lambda each: each.name)
def test_pairs_are_as_the_whole_in_every_bit(codec: Codec, flags: list[str]) -> None:
    whole = load_kernels(PROGRAM.c_source + halves_source([]), "bfloat16", *FLOAT32, *STATES)
    source = PROGRAM.c_source + pairs_source(variant(), kept(codec))
    pairs = load_kernels(source, "float32", *PAIRED_FLAGS, *flags)
    (kernel,) = variant().kernels
    generator = torch.Generator().manual_seed(0)
    for count in (1, 63, 64, 65, 1000):
        first = STRIP
        p, m = (torch.randn(first + count, generator=generator).bfloat16() for _ in range(2))
        g, v = p * 0.5, m.square()
        for at, special in enumerate((0.0, float("nan"), float("inf"), 1e-40, -3e38)):
            p[first + 3 * at :: 7 * STRIP] = special
            g[first + 3 * at + 1 :: 5 * STRIP] = special
        values, found = p.float(), []
        for library, name in ((whole, kernel.name), (pairs, kernel.name + SUFFIX)):
            buffers = [each.clone() for each in (values if library is whole else p, g, m, v)]
            pointers = np.array([*(each.data_ptr() for each in buffers), KEY, 0, 0])
            task = np.array([0, first, first + count, 0])
            tables = [task, pointers, np.zeros(8, np.int64), SCALARS, np.zeros(1), np.zeros(1)]
            getattr(library, name)(*(ctypes.c_void_p(each.ctypes.data) for each in tables))
            found.append(buffers)
        rounded = empty(codec, first + count)
        codec.save(found[0][0], rounded, KEY)
        found[0][0] = rounded[0]
        assert not torch.equal(found[1][0], p)
        for ours, theirs in zip(*found, strict=True):
            assert same_bits(ours, theirs)


@pytest.mark.parametrize("flags", [[], *PORTABLE], ids=lambda each: "".join(each) or "native")
@pytest.mark.parametrize("codec", PAIRED, ids=lambda each: each.name)
def test_pairs_round_every_kind_of_number_as_torch_does(codec: Codec, flags: list[str]) -> None:
    parts = ("storage/numbers.c", "storage/pairs.c")
    library = load(runtime_text(parts[0]) + halves_source([]) + runtime_text(parts[1]), *flags)
    order = torch.arange(STRIP).view(-1, 16, 2).transpose(1, 2).reshape(-1)
    values = numbers()
    # Strips in which all numbers are of a kind, too: they are rounded by other instructions.
    values = torch.cat([values, values.sort().values])[: len(values) // STRIP * 2 * STRIP]
    ours, theirs = (empty(codec, len(values))[0] for _ in range(2))
    codec.save(values, [ours], KEY)
    for lo in range(0, len(values), STRIP):
        x, back = values[lo : lo + STRIP][order].contiguous(), torch.zeros(STRIP)
        kept = ctypes.c_void_p(theirs.data_ptr()), ctypes.c_void_p(KEY)
        part = ctypes.c_longlong(lo), ctypes.c_longlong(STRIP)
        getattr(library, f"save_pairs_{codec.name}")(ctypes.c_void_p(x.data_ptr()), *kept, *part)
        library.load_pairs_bf16(ctypes.c_void_p(back.data_ptr()), *kept, *part)
        assert same_bits(back, theirs[lo : lo + STRIP].float()[order])
    assert same_bits(ours, theirs)


@pytest.mark.parametrize("way", ["nearest", "stochastic"])
def test_pairs_step_as_the_interpreter_does(way: str) -> None:
    ours, _ = trained(5, way, storage="bf16")
    theirs, _ = trained(5, way, backend="reference", storage="bf16")
    for p, q in zip(ours, theirs, strict=True):
        assert (p != q).double().mean().nan_to_num() < 0.002


@pytest.mark.parametrize("codec", [*CODECS, "pairs"], ids=lambda each: getattr(each, "name", each))
def test_a_strip_calls_nothing(codec: Codec | str, tmp_path: Path) -> None:
    """A kernel that was called for each strip was slower than for 256 elements at a time."""
    source, made = tmp_path / "kernels.c", tmp_path / "kernels.s"
    flags = [each for each in FLAGS if each != "-shared"]
    if isinstance(codec, str):
        source.write_text(PROGRAM.c_source + pairs_source(variant(), kept(PAIRED[1])))
        flags += ["-DPARAM_float32", *PAIRED_FLAGS]
    else:
        source.write_text(text(codec))
        flags += ["-DPARAM_bfloat16", *FLOAT32]
    compiler = find_compiler()
    assert compiler is not None
    subprocess.run([*compiler.command, *flags, "-S", "-o", made, source], check=True)
    (kernel,) = variant().kernels
    name = kernel.name + SUFFIX
    (body,) = re.findall(rf"^_?{name}:\n(.*?)\.size\s+{name}", made.read_text(), re.M | re.S)
    assert "sqrt" in body
    assert not re.search(rf"\bcall\b|\b(load|save)_\w+|\b{kernel.name}\b", body)


def test_sums_and_rows_see_whole_tasks() -> None:
    codec = CODECS[0]
    for rule in (optdsl.zoo.LAMB, optdsl.zoo.Adafactor):
        for each in rule.program.variants:
            for kernel in each.kernels:
                held = in_strips(kernel, {"p": codec})
                whole = kernel.layout == "rows" or kernel.reductions
                assert bool(held) == (not whole and "p" in (*kernel.reads, *kernel.writes))


def test_pairs_are_of_what_is_all_of_16_bits() -> None:
    (kernel,) = variant().kernels
    states = kept(BF16)
    assert in_pairs(kernel, states) == {name: states[name] for name in ("p", "m", "g", "v")}
    for other in ({"v": "float32"}, {"p": "kahan_bf16"}, {"p": "fp16"}, {"m": "int8"}):
        assert not in_pairs(kernel, states | other)
    for rule in (optdsl.zoo.LAMB, optdsl.zoo.Adafactor, optdsl.zoo.SGLD):
        for each in rule.program.variants:
            for one in each.kernels:
                alike = dict.fromkeys(each.buffers, "bf16")
                alone = one.layout == "flat" and one.domain == "full"
                assert bool(in_pairs(one, alike)) == (
                    alone and not one.reductions and not one.draws
                )
