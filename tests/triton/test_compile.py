"""Every kernel compiles ahead of time for every target, with 128-bit accesses, without spills."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from optdsl.ir.nodes import reachable
from optdsl.runtime.triton import block_of
from optdsl.schedule.plan import Domain, KernelPass, Variant
from optdsl.types import Storage
from tests.triton.compiling import DTYPES, TARGETS, Finding, Job, compile_all, warps
from tests.triton.running import described
from tests.triton.sources import HAND, RULES, ZOO, kernels_of

TILES = ((1, 1024), (4, 256), (32, 32))
"""ROWS and BLOCK: wide rows, common ones, and with column sums."""

REGISTERS, REGISTERS_UNALIGNED = 96, 144
"""With 128 threads a block, 96 leave room for 5 blocks an SM, enough for the loads in flight. An
unaligned access keeps an address an element."""

SOME = ("adamw", "adamw_bf16_states", "adafactor", "lamb", "shared")
FAST = [
    *(("sm_90", "fp32", True, part) for part in (HAND, ZOO)),
    *((target, "fp32", True, SOME) for target in ("sm_80", "sm_100", "gfx942")),
    *(("sm_90", dtype, True, ("adamw", "adafactor")) for dtype in ("bf16", "fp16", "fp64")),
    ("gfx942", "bf16", True, ("adamw", "adafactor")),
    ("sm_90", "fp32", False, ("adamw", "lamb", "adafactor")),
]
SLOW = [
    (target, dtype, aligned, sources)
    for sources in (HAND, ZOO, RULES)
    for target in TARGETS
    for dtype in DTYPES
    for aligned in (True, False)
]
CASES = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def _label(part: object) -> str:
    if isinstance(part, tuple):
        return f"{part[0]}_to_{part[-1]}"
    return {True: "aligned", False: "unaligned"}.get(part, str(part))  # type: ignore[call-overload]


def jobs_of(source: str, target: str, dtype: str, aligned: bool) -> list[Job]:
    wider = TARGETS[target][2] // 32
    made = []
    for _, kernel in kernels_of(source):
        tiles: tuple[tuple[int, ...], ...] = ((block_of(described(kernel)) * wider,),)
        if kernel.layout == "rows":
            columns = any(each.domain is Domain.COL for each in kernel.reductions)
            tiles = TILES if source in HAND else TILES[1 + columns : 2 + columns]
        made += [Job(source, kernel.name, target, dtype, aligned, tile) for tile in tiles]
    return made


@pytest.mark.parametrize(("target", "dtype", "aligned", "sources"), CASES, ids=_label)
def test_compiles(target: str, dtype: str, aligned: bool, sources: tuple[str, ...]) -> None:
    jobs = [job for source in sources for job in jobs_of(source, target, dtype, aligned)]
    wrong = [text for finding in compile_all(jobs) for text in faults(finding)]
    assert not wrong, "\n".join(wrong)


def faults(finding: Finding) -> Iterator[str]:
    """What is wrong with a compiled kernel."""
    job = finding.job
    if finding.local:
        yield f"{job}: {finding.local} bytes of spills"
    limit = REGISTERS if job.aligned else REGISTERS_UNALIGNED
    if not 0 < finding.registers <= limit:
        yield f"{job}: {finding.registers} registers"
    if finding.approximate or finding.fused:
        yield f"{job}: loose arithmetic {finding.approximate}"
    if job.aligned:
        variant, kernel = next(
            (variant, each) for variant, each in kernels_of(job.source) if each.name == job.kernel
        )
        loads, stores = expected(variant, kernel, job)
        if wide(finding.loads) < loads or wide(finding.stores) < stores:
            found = f"loads {finding.loads}, stores {finding.stores}"
            yield f"{job}: {found} instead of {loads} and {stores} of 128 bits"


def wide(accesses: dict[int, int]) -> float:
    """Accesses in units of 128 bits, of those that have as many at least."""
    return sum(count * bits / 128 for bits, count in accesses.items() if bits >= 128)


def storage_bytes(storage: Storage, dtype: str) -> int:
    own = DTYPES[dtype][1]
    fixed = {Storage.PARAM: own, Storage.COMPUTE: max(4, own), Storage.FLOAT32: 4}
    return fixed.get(storage, 2)


def expected(variant: Variant, kernel: KernelPass, job: Job) -> tuple[int, int]:
    """The 128-bit accesses that a lane makes of full buffers: all of them, in every phase. A lane
    that has fewer bytes of a buffer than 16 cannot."""
    threads = warps(job.dtype) * TARGETS[job.target][2]
    elements = job.tile[-1] * (job.tile[0] if len(job.tile) == 2 else 1)
    buffers = {each.name: each for each in variant.buffers if each.domain is Domain.FULL}
    units = {
        name: storage_bytes(buffer.storage, job.dtype) * elements // threads // 16
        for name, buffer in buffers.items()
    }
    loads = stores = 0
    if kernel.domain is not Domain.FULL:
        return 0, 0
    for phase in kernel.phases:
        sinks = (*phase.rows, *phase.partials, *phase.stores)
        values = reachable(each.value for each in sinks)
        loads += sum(
            units[each.attr("buffer")]
            for each in values
            if each.op == "load" and each.attr("buffer") in units
        )
        stores += sum(units[each.buffer] for each in phase.stores if each.buffer in units)
    return loads, stores
