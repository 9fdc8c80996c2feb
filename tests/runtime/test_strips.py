"""Kernels in strips: the bits are those of whole tasks, and nothing is called in them."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import optdsl.zoo
from optdsl.runtime.cpu.strips import SUFFIX, in_strips, strips_source
from optdsl.runtime.native import FLAGS, find_compiler, load_kernels
from optdsl.runtime.program import Variant
from optdsl.runtime.storage.rounding import of_half
from optdsl.runtime.storage.stored import BF16, Codec
from tests.runtime.test_rounding import KEY, empty

FLOAT32 = "-Dp_stored=real", "-Dp_widen=", "-Dp_narrow="
CODECS = [of_half(way, BF16) for way in ("stochastic", "master", "kahan", "split")]
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


@pytest.mark.parametrize("codec", CODECS, ids=lambda each: each.name)
def test_a_strip_calls_nothing(codec: Codec, tmp_path: Path) -> None:
    """A kernel that was called for each strip was slower than for 256 elements at a time."""
    source, made = tmp_path / "kernels.c", tmp_path / "kernels.s"
    source.write_text(text(codec))
    compiler = find_compiler()
    assert compiler is not None
    flags = [each for each in FLAGS if each != "-shared"]
    command = [*compiler.command, *flags, "-DPARAM_bfloat16", *FLOAT32, "-S", "-o", made, source]
    subprocess.run(command, check=True)
    (kernel,) = variant().kernels
    name = kernel.name + SUFFIX
    (body,) = re.findall(rf"^_?{name}:\n(.*?)\.size\s+{name}", made.read_text(), re.M | re.S)
    assert "sqrt" in body
    assert not re.search(rf"\b(load|save)_{codec.name}|\b{kernel.name}\b", body)


def test_sums_and_rows_see_whole_tasks() -> None:
    codec = CODECS[0]
    for rule in (optdsl.zoo.LAMB, optdsl.zoo.Adafactor):
        for each in rule.program.variants:
            for kernel in each.kernels:
                held = in_strips(kernel, {"p": codec})
                whole = kernel.layout == "rows" or kernel.reductions
                assert bool(held) == (not whole and "p" in (*kernel.reads, *kernel.writes))
