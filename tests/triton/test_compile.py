"""Every kernel compiles ahead of time for every target, with 128-bit accesses, without spills."""

from __future__ import annotations

import pytest

from tests.triton.addressing import narrow
from tests.triton.compiling import DTYPES, TARGETS, compile_all
from tests.triton.judging import coded_jobs, faults, jobs_of, prologue_jobs, runtime_jobs
from tests.triton.sources import HAND, RULES, SHOWN, ZOO


def _label(part: object) -> str:
    if isinstance(part, tuple):
        return f"{part[0]}_to_{part[-1]}"
    return {True: "aligned", False: "unaligned"}.get(part, str(part))  # type: ignore[call-overload]


Part = tuple[str, str, bool, tuple[str, ...]]
"""Target, dtype, whether tensors are aligned, sources of kernels."""
SOME = ("adamw", "adamw_bf16_states", "adafactor", "lamb", "shared")
FEW = ("adamw", "adafactor")
# Together what one process compiles: it takes four seconds to begin.
FAST: dict[str, list[Part]] = {
    "sm_90": [("sm_90", "fp32", True, part) for part in (HAND, SHOWN)],
    "other_targets": [
        ("gfx942", "fp32", True, SOME),
        *((target, "fp32", True, FEW) for target in ("sm_80", "sm_100")),
        ("gfx942", "bf16", True, FEW),
    ],
    "other_accesses": [
        ("sm_90", "bf16", True, FEW),
        *(("sm_90", dtype, True, ("adamw",)) for dtype in ("fp16", "fp64")),
        ("sm_90", "fp32", False, FEW),
    ],
}
SLOW: list[Part] = [
    *(
        (target, dtype, aligned, sources)
        for sources in (HAND, ZOO)
        for target in TARGETS
        for dtype in DTYPES
        for aligned in (True, False)
    ),
    *((target, "fp32", True, RULES) for target in TARGETS),
]
CASES = [
    *(pytest.param(parts, id=name) for name, parts in FAST.items()),
    *(
        pytest.param([part], marks=pytest.mark.slow, id="-".join(map(_label, part)))
        for part in SLOW
    ),
]


@pytest.mark.parametrize("parts", CASES)
def test_compiles(parts: list[Part]) -> None:
    jobs = []
    for target, dtype, aligned, sources in parts:
        jobs += [job for source in sources for job in jobs_of(source, target, dtype, aligned)]
        jobs += runtime_jobs(target)
        if dtype == "fp32" and aligned:
            jobs += [job for source in sources for job in prologue_jobs(source, target)]
    findings = compile_all(list(dict.fromkeys(jobs)))
    wrong = [text for finding in findings for text in faults(finding)]
    assert not wrong, "\n".join(wrong)


Kept = tuple[str, str, str, str, tuple[str, ...]]
"""Target, dtype, codec of the states, codec of p, sources of kernels."""
KEPT: list[Kept] = [
    ("sm_90", "fp32", "int8", "", (*FEW, "lamb")),
    ("gfx942", "fp32", "int8", "", ("adamw",)),
    ("sm_90", "bf16", "", "stochastic_bf16", FEW),
]
SLOWLY_KEPT: list[Kept] = [
    *(
        (target, "fp32", codec, "", ZOO)
        for target in ("sm_90", "gfx942")
        for codec in ("int8", "uint4", "fp8")
    ),
    *(
        (target, half, "", f"{way}_{half}", (*FEW, "lamb"))
        for target in TARGETS
        for way in ("stochastic", "master", "kahan", "split")
        for half in ("bf16", "fp16")
        if (way, half) != ("split", "fp16")
    ),
]


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(KEPT, id="some"),
        *(
            pytest.param([part], marks=pytest.mark.slow, id="-".join(map(_label, part)))
            for part in SLOWLY_KEPT
        ),
    ],
)
def test_compiles_with_storage(parts: list[Kept]) -> None:
    """Decoding and encoding take no stack, and leave what has no codes its 128 bits; codes are not
    read byte by byte but in a tail."""
    coded = {}
    for target, dtype, states, p, sources in parts:
        made = [job for each in sources for job in coded_jobs(each, target, dtype, states, p)]
        assert made
        coded |= {job: len(job.kept) if states else 0 for job in made}
    wrong = []
    for finding in compile_all(list(coded)):
        wrong += faults(finding)
        if max(finding.loads.get(8, 0), finding.stores.get(8, 0)) > coded[finding.job]:
            wrong.append(f"{finding}: bytes")
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
