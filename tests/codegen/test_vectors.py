"""Loops over elements become vector code: read from the assembly, for 256-bit registers."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest

from optdsl.codegen.cpu import c_source
from optdsl.runtime import native
from tests.plans import PLANS
from tests.rules import shipped_plans

compiler = native.find_compiler()
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or compiler is None or "clang" in compiler.version,
    reason="the instructions named here are those that gcc gives for x86-64",
)


def assembly(source: str, dtype: str, function: str, folder: Path) -> str:
    """The lines of `function` for a processor with AVX2 and FMA, whatever this one is."""
    assert compiler is not None
    path = folder / "kernels.c"
    path.write_text(source)
    flags = [each for each in native.FLAGS if each not in ("-shared", "-march=native")]
    command = [*compiler.command, *flags, "-march=haswell", f"-DPARAM_{dtype}", "-S", "-o", "-"]
    text = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout
    return text.partition(f"\n{function}:\n")[2].partition(".cfi_endproc")[0]


def wide(text: str) -> set[str]:
    """The operations on whole 256-bit registers, fused multiply-adds by one name."""
    found = re.findall(r"^\s(v\w+)\s.*%ymm", text, re.MULTILINE)
    return {re.sub(r"\d{3}", "", name) for name in found}


@pytest.mark.parametrize(("dtype", "suffix"), [("float32", "ps"), ("float64", "pd")])
def test_adamw(dtype: str, suffix: str, tmp_path: Path) -> None:
    source = c_source(shipped_plans()["AdamW"]())
    text = assembly(source, dtype, "adamw_v1_0", tmp_path)
    names = {f"{each}{suffix}" for each in ("vfmadd", "vsqrt", "vdiv", "vmul", "vsub")}
    assert names <= wide(text)
    assert "call" not in text  # sqrt and fma are instructions, not functions


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_numbers_are_widened_and_rounded_in_vectors(dtype: str, tmp_path: Path) -> None:
    source = c_source(shipped_plans()["AdamW"]())
    text = assembly(source, dtype, "adamw_v1_0", tmp_path)
    assert {"vfmaddps", "vsqrtps", "vdivps", "vpslld", "vpsrld", "vpaddd"} <= wide(text)
    assert "call" not in text


def test_entries_that_may_be_one(tmp_path: Path) -> None:
    """Without `restrict`, since m[cluster] is m[0] or m[1]: an element is read, then written."""
    source = c_source(shipped_plans()["Discover"]())
    text = assembly(source, "float32", "discover_0", tmp_path)
    assert {"vfmaddps", "vmulps", "vsubps", "vmovups"} <= wide(text)
    assert "real *m_cluster_at = " in source and "restrict m_" not in source


def test_sums(tmp_path: Path) -> None:
    text = assembly(c_source(PLANS["clipped_adamw"]()), "float32", "clippedadamw_0", tmp_path)
    assert {"vmulps", "vaddps"} <= wide(text)


def test_sums_per_column_are_added_in_double(tmp_path: Path) -> None:
    text = assembly(c_source(PLANS["adafactor"]()), "float32", "adafactor_0", tmp_path)
    assert {"vmulps", "vaddps", "vcvtps2pd", "vaddpd"} <= wide(text)


def test_maxima_that_keep_nan(tmp_path: Path) -> None:
    text = assembly(c_source(PLANS["shared"]()), "float32", "shared_0_0", tmp_path)
    assert {"vcmpps", "vblendvps"} <= {re.sub("(neq|lt|unord|nle)", "", e) for e in wide(text)}
