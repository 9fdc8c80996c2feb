"""Compiled optimizers on a GPU: the values of shipped rules, then races against torch's.

    python -m benchmarks.gpu [--dry] [--all] [--out benchmarks/results]

1. Rules take three steps on the device and in the interpreter of rules: one or two of each kind, or
   all of them.
2. Steps are raced as `optdsl bench` does it, timed by events, in float32 and in bfloat16, against
   the time of a copy of as many bytes.
The results go to gpu-DEVICE.json and .png. `--dry` needs no GPU and measures nothing: it compiles
every kernel for four targets, runs the rules in Triton's interpreter, and takes the steps of every
contestant on small tensors.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn import Parameter

import optdsl.zoo
from optdsl.bench import records as files
from optdsl.bench.cases import CASES, Case
from optdsl.bench.contests import CONTESTS, GPU_CONTESTS, OURS, Contest
from optdsl.bench.first import first_step
from optdsl.bench.records import Record, Records
from optdsl.bench.report import chart, tables
from optdsl.bench.run import Race
from tests.triton.compiling import TARGETS, compile_all
from tests.triton.judging import coded_jobs, faults, jobs_of, runtime_jobs
from tests.triton.sources import SHOWN, ZOO

Shapes = list[tuple[int, ...]]
SMALL = Case("small", "small", ((40, 30),))
CODED = Case("small", "small", ((65, 64),))
"""Large enough for codes."""
CHECKED: Shapes = [(9, 7), (128, 96), (300, 257), (70,), (), (3, 4, 5), (6, 3000)]
DRY_CHECKED: Shapes = [(9, 7), (8, 16), (70,), (3, 4, 5)]
DTYPES = (torch.float32, torch.bfloat16)
SECONDS = 1.5
"""Of each race: some ninety of them are to end within five minutes."""


@dataclass(frozen=True)
class Checked:
    """`error`: the largest of any tensor, relative to its largest element."""

    rule: str
    dtype: str
    error: float
    bound: float


def title(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------- values


BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 0.02}
LOOSE = {torch.float32: 6e-3, torch.bfloat16: 0.1}
"""For SWAN and Muon, whose matrix iterations amplify roundings."""


def check_rule(name: str, shapes: Shapes, dtype: torch.dtype, device: str) -> Checked:
    """Three steps on `device` against the interpreter of rules."""
    worst = 0.0
    sides = []
    for backend, place in (("triton", device), ("reference", "cpu")):
        generator = torch.Generator().manual_seed(0)
        params = [
            Parameter(torch.randn(shape, generator=generator).to(place, dtype)) for shape in shapes
        ]
        optimizer = getattr(optdsl.zoo, name)(params, backend=backend)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).to(p)
            optimizer.step()
        sides.append([p.detach().cpu().double() for p in params])
    for ours, theirs in zip(*sides, strict=True):
        size = theirs.abs().max().clamp_min(1e-2)
        error = ((ours - theirs).abs().max() / size).item()
        worst = error if math.isnan(error) else max(worst, error)
    bound = (LOOSE if name in ("SWAN", "Muon") else BOUNDS)[dtype]
    return Checked(name, title(dtype), worst, bound)


def check_rules(sources: Sequence[str], dry: bool) -> Iterator[Checked]:
    shapes, device = (DRY_CHECKED, "cpu") if dry else (CHECKED, "cuda")
    for source in track(sources, "checking values"):
        for dtype in DTYPES:
            yield check_rule(source.split("/")[1], shapes, dtype, device)


STORED = (("fp32", "int8", ""), ("bf16", "", "stochastic_bf16"))
"""Dtypes with codecs of states, and of p, that are compiled for AdamW, too."""


def compile_kernels(sources: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Compiles the kernels of rules for all targets; for each a line, and what is wrong."""
    for target in TARGETS:
        jobs = [job for source in sources for job in jobs_of(source, target, "fp32", True)]
        for dtype, states, p in STORED:
            jobs += coded_jobs("adamw/AdamW", target, dtype, states, p)
        found = compile_all(jobs + runtime_jobs(target))
        most = max(finding.registers for finding in found)
        wrong = [text for finding in found for text in faults(finding)]
        yield f"{target}: {len(found)} kernels, at most {most} registers", wrong


# ---------------------------------------------------------------- the whole


def all_races(dry: bool) -> list[Race]:
    """Every contest on its cases, in both dtypes."""
    if dry:
        return [
            Race(
                contest,
                CODED if name in GPU_CONTESTS else SMALL,
                1,
                0.0,
                dtype=dtype,
                backend="triton",
            )
            for name, contest in CONTESTS.items()
            for dtype in dtypes_of(contest)
        ]
    return [
        Race(
            contest, case.matrices() if contest.matrices else case, 1, SECONDS, "cuda", dtype=dtype
        )
        for contest in CONTESTS.values()
        for key, case in CASES.items()
        if key in contest.cases and not case.sharded
        for dtype in dtypes_of(contest)
    ]


def dtypes_of(contest: Contest) -> tuple[torch.dtype, ...]:
    """Those of the parameters: both, but where a contest is about one."""
    return DTYPES if contest.dtype is None else (contest.dtype,)


def show(console: Console, title: str, rows: list[Any]) -> None:
    table = Table(*asdict(rows[0]), title=title)
    for row in rows:
        cells = asdict(row).values()
        table.add_row(*(f"{each:.3g}" if isinstance(each, float) else str(each) for each in cells))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="no GPU, no times")
    parser.add_argument("--all", action="store_true", help="values of all shipped rules")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.dry and os.environ.get("TRITON_INTERPRET") != "1":
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which has happened
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:]])
    if not options.dry and not torch.cuda.is_available():
        parser.exit(1, "there is no GPU here; `--dry` does all but the times\n")
    console = Console()
    sources = ZOO if options.all else SHOWN
    wrong: list[str] = []
    if options.dry:
        for line, faulty in compile_kernels(sources):
            console.print("\n  ".join([line, *faulty]))
            wrong += faulty
    checks = list(check_rules(sources, options.dry))
    show(console, "three steps against the interpreter of rules", checks)
    found = Records(files.this_machine("cpu" if options.dry else "cuda"))
    for race in track(all_races(options.dry), "racing"):
        found.records += race.run()
        if not options.dry:
            write(options.out, found, checks)
    found.records = list(with_first_steps(found.records, options.dry))
    if not options.dry:
        write(options.out, found, checks)
    for table in tables(found):
        console.print(table)
    wrong += [f"{each.rule}: values differ" for each in checks if not each.error < each.bound]
    if wrong:
        parser.exit(1, "\n".join([*wrong, ""]))


def with_first_steps(records: Sequence[Record], dry: bool) -> Iterator[Record]:
    """With the seconds to the first step of AdamW, for ours and torch's fused one."""
    case, device = (SMALL, "cpu") if dry else (CASES["b"], "cuda")
    names = OURS, "torch fused"
    seconds = {each: first_step("AdamW", case, each, device) for each in names}
    for each in records:
        timed = (each.contest, each.case) == ("AdamW", case.title) and each.contender in names
        yield replace(each, first=round(seconds[each.contender], 3)) if timed else each


def write(folder: Path, found: Records, checks: list[Checked]) -> None:
    """The file of this device, whole after every race, and its chart."""
    name = re.sub(r"\W+", "-", found.machine["device"].lower()).strip("-")
    found.machine["checks"] = [asdict(each) for each in checks]
    files.write(folder / f"gpu-{name}.json", found)
    chart(found, folder / f"gpu-{name}.png")


if __name__ == "__main__":
    main()
