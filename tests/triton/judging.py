"""What is compiled of a plan, and what is asked of a compiled kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optdsl.codegen.host import Host
from optdsl.codegen.prologue import Prologues
from optdsl.ir.nodes import reachable
from optdsl.runtime.triton.codecs import BLOCKS
from optdsl.runtime.triton.launch import CODED_ROWS, NARROW, WIDE, block_of, operands
from optdsl.schedule.plan import Domain
from optdsl.types import Storage
from tests.triton.compiling import DTYPES, KEYS, PLACE, RUNTIME, TARGETS, WRITTEN, Finding, Job
from tests.triton.running import described
from tests.triton.sources import HAND, RULES, kernels_of, plan_of

TILES = ((1, 1024), (4, 256), (32, 32))
"""ROWS and BLOCK: wide rows, common ones, and with column sums."""

REGISTERS, REGISTERS_MORE = 96, 144
"""With 128 threads a block, 96 leave room for 5 blocks an SM, enough for the loads in flight. An
unaligned access keeps an address an element, a float64 takes two registers, and the rules that are
not shipped go to extremes (AdamP: seven sums in one pass)."""
REGISTERS_ROOM, REGISTERS_DRAWN = 128, 168
"""Where a lane has more elements than usual, and on gfx942, a unit of which has twice as many as an
SM. A power in float64 of 16 elements a lane takes 120; six draws of 8 elements take more, whose
memory waits for them, not they for it."""
FEW = 48
"""What a kernel of four operands over aligned float32 takes at most: 5 blocks of 256 threads."""


def jobs_of(source: str, target: str, dtype: str, aligned: bool) -> list[Job]:
    wider = TARGETS[target][2] // 32
    made = []
    for _, kernel in kernels_of(source):
        tiles: tuple[tuple[int, ...], ...] = ((block_of(described(kernel)) * wider,),)
        if kernel.layout == "rows":
            columns = any(each.domain is Domain.COL for each in kernel.reductions)
            tiles = TILES if source in HAND else TILES[1 + columns : 2 + columns]
        made += [
            Job(source, kernel.name, target, dtype, aligned, tile, operands(described(kernel)))
            for tile in tiles
        ]
    return made


def coded_jobs(source: str, target: str, dtype: str, states: str, p: str = "") -> list[Job]:
    """Those of the kernels that read or write states of p's size, all of which have the codec
    `states`, and p the codec `p`, where these are given; in rows as high and wide as with codes."""
    made = []
    variants = {kernel.name: variant for variant, kernel in kernels_of(source)}
    for job in jobs_of(source, target, dtype, aligned=True):
        variant, kernel = next(each for each in kernels_of(source) if each[1].name == job.kernel)
        touched = {*described(kernel).reads, *described(kernel).writes}
        kept = {}
        for buffer in variants[job.kernel].buffers:
            codec = p if buffer.name == "p" else states if buffer.role == "state" else ""
            if buffer.name in variant.stored and buffer.name in touched and codec:
                kept[buffer.name] = codec
        tile = job.tile
        if len(tile) == 2 and states in BLOCKS:
            columns = any(each.domain is Domain.COL for each in kernel.reductions)
            tile = (CODED_ROWS, 256) if columns else (4, 256)
        if kept:
            made.append(replace(job, tile=tile, kept=tuple(kept.items())))
    return list(dict.fromkeys(made))


def prologue_jobs(source: str, target: str) -> list[Job]:
    """Those of the kernels that work out scalar rows."""
    plan = plan_of(source)
    host = Host(plan)
    host.texts()
    return [Job(source, name, target, "fp64", False, (1,)) for name in Prologues(plan, host).calls]


def runtime_jobs(target: str) -> list[Job]:
    """Those of kernels that no plan has."""
    tiles = [(each["COUNT"], each["WIDTH"]) for each in (NARROW, WIDE)]
    jobs = [Job(RUNTIME, "finish", target, "fp64", False, tile) for tile in tiles]
    others = (PLACE, "store"), (KEYS, "draw")
    return jobs + [Job(source, name, target, "fp64", False, (1,)) for source, name in others]


FRAME = 32
"""Bytes of stack that a kernel may use if it is no shipped rule's for aligned float32, or has codes
among more than four operands (Adan's four states: 24): 8 to 24 were seen, where the compiler keeps
a value across its slow path of a division."""


def faults(finding: Finding) -> Iterator[str]:
    """What is wrong with a compiled kernel."""
    job = finding.job
    shipped = job.source not in RULES
    coded = any(codec in BLOCKS for _, codec in job.kept)
    many = coded and job.operands > 4
    exact = job.dtype == "fp32" and job.aligned and shipped and not many
    if finding.local > (0 if exact else FRAME):
        yield f"{job}: {finding.local} bytes of stack"
    usual = shipped and job.aligned and job.dtype != "fp64"
    amd = job.target.startswith("gfx")
    room = REGISTERS_ROOM if amd or job.operands > 8 else REGISTERS
    room = REGISTERS_DRAWN if job.operands > 16 else room
    limit = room if usual and not many else REGISTERS_MORE
    if not coded and job.operands <= 4 and finding.warps == 8 and usual and not amd:
        limit = FEW
    if not 0 < finding.registers <= limit:
        yield f"{job}: {finding.registers} registers"
    if finding.approximate or finding.fused:
        yield f"{job}: loose arithmetic {finding.approximate}"
    for line in finding.narrow:
        yield f"{job}: 32 bits of an address in {line}"
    if job.aligned and job.source not in WRITTEN and 0 < narrowest(finding) < 128:
        loads, stores = expected(finding)
        found = f"loads {finding.loads}, stores {finding.stores}"
        yield f"{job}: {found} instead of {loads} and {stores} of 128 bits"


def narrowest(finding: Finding) -> int:
    """Bits of the narrowest access to a whole block of full-size buffers: 128 where a lane makes
    as many of those as there must be. 0 where it makes none."""
    loads, stores = expected(finding)
    if wide(finding.loads) >= loads and wide(finding.stores) >= stores:
        return 128 if loads or stores else 0
    return min(*finding.loads, *finding.stores)


def wide(accesses: dict[int, int]) -> float:
    """Accesses in units of 128 bits, of those that have as many at least."""
    return sum(count * bits / 128 for bits, count in accesses.items() if bits >= 128)


def storage_bytes(storage: Storage, dtype: str) -> int:
    own = DTYPES[dtype][1]
    fixed = {Storage.PARAM: own, Storage.COMPUTE: max(4, own), Storage.FLOAT32: 4}
    return fixed.get(storage, 2)


BESIDE = {"master": 4, "kahan": 2, "split": 2}
"""Bytes beside an element of a parameter of 16 bits."""


def expected(finding: Finding) -> tuple[int, int]:
    """The 128-bit accesses that a lane makes of full buffers: all of them, in every phase. A lane
    that has fewer bytes of a buffer than 16 cannot."""
    job = finding.job
    variant, kernel = next(each for each in kernels_of(job.source) if each[1].name == job.kernel)
    threads = finding.warps * TARGETS[job.target][2]
    elements = job.tile[-1] * (job.tile[0] if len(job.tile) == 2 else 1)
    buffers = {each.name: each for each in variant.buffers if each.domain is Domain.FULL}
    units = {}
    for name, buffer in buffers.items():
        codec = dict(job.kept).get(name, "")
        sizes = [storage_bytes(buffer.storage, job.dtype), BESIDE.get(codec.split("_")[0], 0)]
        if codec not in BLOCKS:  # a lane's codes have 32 bits
            units[name] = sum(size * elements // threads // 16 for size in sizes)
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
