"""Every kernel compiles ahead of time for every target, with 128-bit accesses, without spills."""

from __future__ import annotations

import pytest

from tests.triton.addressing import narrow
from tests.triton.compiling import DTYPES, TARGETS, compile_all
from tests.triton.judging import coded_jobs, faults, jobs_of, prologue_jobs, runtime_jobs
from tests.triton.sources import HAND, RULES, SHOWN, ZOO

SOME = ("adamw", "adamw_bf16_states", "adafactor", "lamb", "shared")
FAST = [
    *(("sm_90", "fp32", True, part) for part in (HAND, SHOWN)),
    *((target, "fp32", True, SOME) for target in ("sm_80", "sm_100", "gfx942")),
    *(("sm_90", dtype, True, ("adamw", "adafactor")) for dtype in ("bf16", "fp16", "fp64")),
    ("gfx942", "bf16", True, ("adamw", "adafactor")),
    ("sm_90", "fp32", False, ("adamw", "lamb", "adafactor")),
]
SLOW = [
    *(
        (target, dtype, aligned, sources)
        for sources in (HAND, ZOO)
        for target in TARGETS
        for dtype in DTYPES
        for aligned in (True, False)
    ),
    *((target, "fp32", True, RULES) for target in TARGETS),
]
CASES = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def _label(part: object) -> str:
    if isinstance(part, tuple):
        return f"{part[0]}_to_{part[-1]}"
    return {True: "aligned", False: "unaligned"}.get(part, str(part))  # type: ignore[call-overload]


@pytest.mark.parametrize(("target", "dtype", "aligned", "sources"), CASES, ids=_label)
def test_compiles(target: str, dtype: str, aligned: bool, sources: tuple[str, ...]) -> None:
    jobs = [job for source in sources for job in jobs_of(source, target, dtype, aligned)]
    jobs += runtime_jobs(target)
    if dtype == "fp32" and aligned:
        jobs += [job for source in sources for job in prologue_jobs(source, target)]
    wrong = [text for finding in compile_all(jobs) for text in faults(finding)]
    assert not wrong, "\n".join(wrong)


FEW = ("adamw", "lamb", "adafactor")
KEPT = [
    ("sm_90", "fp32", "int8", "", FEW),
    ("gfx942", "fp32", "int8", "", ("adamw",)),
    ("sm_90", "bf16", "", "stochastic_bf16", ("adamw", "adafactor")),
    *(
        pytest.param(target, "fp32", codec, "", ZOO, marks=pytest.mark.slow)
        for target in ("sm_90", "gfx942")
        for codec in ("int8", "uint4", "fp8")
    ),
    *(
        pytest.param(target, half, "", f"{way}_{half}", FEW, marks=pytest.mark.slow)
        for target in TARGETS
        for way in ("stochastic", "master", "kahan", "split")
        for half in ("bf16", "fp16")
        if (way, half) != ("split", "fp16")
    ),
]


@pytest.mark.parametrize(("target", "dtype", "states", "p", "sources"), KEPT, ids=_label)
def test_compiles_with_storage(
    target: str, dtype: str, states: str, p: str, sources: tuple[str, ...]
) -> None:
    """Decoding and encoding take no stack, and leave what has no codes its 128 bits; codes are not
    read byte by byte but in a tail."""
    jobs = [job for each in sources for job in coded_jobs(each, target, dtype, states, p)]
    assert jobs
    wrong = []
    for finding in compile_all(jobs):
        coded = len(finding.job.kept) if states else 0
        bytewise = max(finding.loads.get(8, 0), finding.stores.get(8, 0))
        wrong += [*faults(finding), *([f"{finding}: bytes"] if bytewise > coded else [])]
    assert not wrong, "\n".join(wrong)


GOOD = """
    %lo = tt.load %at : !tt.ptr<i64>
    %n_1 = arith.trunci %n : i64 to i32
    %cst = arith.constant 16 : i32
    %end = arith.muli %n_1, %cst : i32
    %lo_1 = arith.trunci %lo : i64 to i32
    %end_1 = arith.extsi %lo_1 : i32 to i64
    %base = tt.int_to_ptr %number : i64 -> !tt.ptr<f32>
    %start = tt.addptr %base, %lo : !tt.ptr<f32>, i64
    %square = arith.muli %n_1, %n_1 : i32
    %wide = tt.splat %square : i32 -> tensor<1024xi32>
    %i = tt.make_range {end = 1024 : i32, start = 0 : i32} : tensor<1024xi32>
    %0 = tt.splat %start : !tt.ptr<f32> -> tensor<1024x!tt.ptr<f32>>
    %1 = tt.addptr %0, %i : tensor<1024x!tt.ptr<f32>>, tensor<1024xi32>
    %x = tt.load %1, %mask : tensor<1024x!tt.ptr<f32>> loc(#loc7)
    %second = arith.constant 1 : i32
    %shared = tt.addptr %results, %second : !tt.ptr<f64>, i32
    %2 = tt.splat %shared : !tt.ptr<f64> -> tensor<1024x!tt.ptr<f64>>
    %3 = tt.addptr %2, %i : tensor<1024x!tt.ptr<f64>>, tensor<1024xi32>
    %norm = tt.load %3, %mask : tensor<1024x!tt.ptr<f64>> loc(#loc8)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("%lo : !tt.ptr<f32>, i64", "%end : !tt.ptr<f32>, i32"),
        ("%lo : !tt.ptr<f32>, i64", "%end_1 : !tt.ptr<f32>, i64"),
        ("tt.addptr %0, %i", "tt.addptr %0, %wide"),
        ("%0 = tt.splat %start", "%0 = tt.splat %base"),
        ("%results, %second : !tt.ptr<f64>, i32", "%results, %end : !tt.ptr<f64>, i32"),
    ],
)
def test_narrow_addresses_are_told(old: str, new: str) -> None:
    assert narrow(GOOD) == []
    assert len(narrow(GOOD.replace(old, new))) == 1
