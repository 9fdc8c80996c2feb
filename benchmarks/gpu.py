"""Compiled optimizers on a GPU: the values of every shipped rule, then steps against torch's.

    python -m benchmarks.gpu [--dry] [--out benchmarks/results]

1. Every shipped rule takes three steps on the device and in the interpreter of rules.
2. Steps are timed with CUDA events, contestants in turn, on four sets of parameters.
The results go to gpu-DEVICE.json. `--dry` needs no GPU and times nothing: it compiles every kernel
for four targets, runs the rules in Triton's interpreter, and takes one step of every contestant on
small tensors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import Parameter

import optdsl.zoo
from optdsl.explain import explain_plan
from tests.triton.compiling import TARGETS, compile_all
from tests.triton.judging import faults, jobs_of, runtime_jobs
from tests.triton.sources import ZOO, plan_of

Shapes = list[tuple[int, ...]]
GPT2: Shapes = [
    *[(50_257, 768), (1024, 768)],
    *(12 * [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]),
    *(12 * [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]),
    *[(768,), (768,)],
]
CASES: dict[str, Shapes] = {
    "one of 64M": [(8192, 8192)],
    "GPT-2 small": GPT2,
    "1000 of 10k": 1000 * [(100, 100)],
    "200 of 64": 200 * [(8, 8)],
}
DRY_CASES: dict[str, Shapes] = {"small": [(40, 30), (33,)]}
CHECKED: Shapes = [(9, 7), (128, 96), (300, 257), (70,), (), (3, 4, 5), (6, 3000)]
DRY_CHECKED: Shapes = [(9, 7), (8, 16), (70,), (3, 4, 5)]
DTYPES = (torch.float32, torch.bfloat16)

Make = Callable[[list[Parameter]], Any]


@dataclass(frozen=True)
class Contest:
    """A shipped rule (`file/rule`) with hyperparameters, and what torch has for it."""

    source: str
    options: dict[str, Any]
    peers: dict[str, Make]

    @property
    def name(self) -> str:
        return self.source.split("/")[1]

    def contestants(self) -> dict[str, Make]:
        rule = getattr(optdsl.zoo, self.name)
        return {
            "optdsl": lambda params: rule(params, backend="triton", **self.options),
            **self.peers,
        }

    def bytes(self, dtype: torch.dtype) -> float:
        """What the passes of a steady step read and write, a parameter."""
        plan = plan_of(self.source)
        hypers = tuple(
            replace(each, default=self.options.get(each.name, each.default))
            for each in plan.rule.hypers
        )
        steady = explain_plan(replace(plan, rule=replace(plan.rule, hypers=hypers))).steady
        moved = [each for part in steady.passes for each in (*part.reads, *part.writes)]
        return sum(each.bytes * (short(dtype) if each.name in "pg" else 1) for each in moved)


def title(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def short(dtype: torch.dtype) -> float:
    return dtype.itemsize / 4


CONTESTS = [
    Contest(
        "adamw/AdamW",
        {},
        {
            "torch fused": lambda params: torch.optim.AdamW(params, fused=True),
            "torch foreach": lambda params: torch.optim.AdamW(params, foreach=True),
        },
    ),
    Contest(
        "sgd/SGD",
        {"momentum": 0.9},
        {
            "torch fused": lambda params: torch.optim.SGD(params, momentum=0.9, fused=True),
            "torch foreach": lambda params: torch.optim.SGD(params, momentum=0.9, foreach=True),
        },
    ),
    Contest(
        "adafactor/Adafactor",
        {},
        {"torch foreach": lambda params: torch.optim.Adafactor(params, foreach=True)},
    ),
    Contest("lamb/LAMB", {}, {}),
    Contest("clipped_lion/ClippedLion", {}, {}),
]


@dataclass(frozen=True)
class Checked:
    """`error`: the largest of any tensor, relative to its largest element."""

    rule: str
    dtype: str
    error: float
    bound: float


@dataclass(frozen=True)
class Timed:
    """Milliseconds a step: of the device (median, least) and of the host before it returns. `rate`
    is GB/s of what the plan moves, 0 for others."""

    rule: str
    case: str
    dtype: str
    contestant: str
    median: float
    least: float
    host: float
    rate: float


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


def check_rules(dry: bool) -> Iterator[Checked]:
    shapes, device = (DRY_CHECKED, "cpu") if dry else (CHECKED, "cuda")
    for source in ZOO:
        for dtype in DTYPES:
            yield check_rule(source.split("/")[1], shapes, dtype, device)


def compile_kernels() -> Iterator[str]:
    """Compiles the kernels of all shipped rules for all targets; yields a line a target."""
    for target in TARGETS:
        jobs = [job for source in ZOO for job in jobs_of(source, target, "fp32", True)]
        found = compile_all(jobs + runtime_jobs(target))
        wrong = [text for finding in found for text in faults(finding)]
        most = max(found, key=lambda finding: finding.registers)
        yield f"{target}: {len(found)} kernels, at most {most.registers} registers" + "".join(
            f"\n  {text}" for text in wrong
        )


# ---------------------------------------------------------------- times


def time_case(
    contest: Contest, case: str, shapes: Shapes, dtype: torch.dtype, steps: int
) -> list[Timed]:
    """All contestants in turn, in five rounds of `steps` each after one to warm up."""
    place = "cpu" if steps == 1 else "cuda"
    optimizers = {}
    for name, make in contest.contestants().items():
        params = [Parameter(torch.randn(shape, dtype=dtype, device=place)) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        optimizers[name] = make(params)
    devices: dict[str, list[float]] = {name: [] for name in optimizers}
    hosts: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(1 if steps == 1 else 6):
        for name, optimizer in optimizers.items():
            device, host = time_steps(optimizer.step, steps)
            if turn or steps == 1:
                devices[name] += device
                hosts[name] += host
    moved = contest.bytes(dtype) * sum(math.prod(shape) for shape in shapes)
    return [
        Timed(
            *(contest.name, case, title(dtype), name),
            *(statistics.median(device), min(device), statistics.median(hosts[name])),
            moved / statistics.median(device) / 1e6 if name == "optdsl" else 0.0,
        )
        for name, device in devices.items()
    ]


def time_steps(step: Callable[[], Any], count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of `count` steps: on the device and on the host."""
    if count == 1:  # a dry run
        start = time.perf_counter()
        step()
        taken = (time.perf_counter() - start) * 1e3
        return [taken], [taken]
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    host = []
    torch.cuda.synchronize()
    for before, after in events:
        before.record()
        start = time.perf_counter()
        step()
        host.append((time.perf_counter() - start) * 1e3)
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in events], host


def copy_rate() -> float:
    """GB/s of a copy of 1 GiB, read and written."""
    source = torch.empty(2**28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    found, _ = time_steps(lambda: target.copy_(source), 20)
    return 2 * source.nbytes / min(found) / 1e6


# ---------------------------------------------------------------- the whole


def show(console: Console, title: str, rows: list[Any]) -> None:
    table = Table(*asdict(rows[0]), title=title)
    for row in rows:
        cells = asdict(row).values()
        table.add_row(*(f"{each:.3g}" if isinstance(each, float) else str(each) for each in cells))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="no GPU, no times")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.dry and os.environ.get("TRITON_INTERPRET") != "1":
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which has happened
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:]])
    if not options.dry and not torch.cuda.is_available():
        parser.exit(1, "there is no GPU here; `--dry` does all but the times\n")
    console = Console()
    if options.dry:
        for line in compile_kernels():
            console.print(line)
    checks = list(check_rules(options.dry))
    show(console, "three steps against the interpreter of rules", checks)
    times: list[Timed] = []
    for contest in CONTESTS:
        for case, shapes in (DRY_CASES if options.dry else CASES).items():
            for dtype in DTYPES:
                times += time_case(contest, case, shapes, dtype, 1 if options.dry else 20)
    show(console, "a step, ms", times)
    wrong = [each for each in checks if not each.error < each.bound]
    if not options.dry:
        write(options.out, checks, times)
    if wrong:
        parser.exit(1, f"values differ: {', '.join(each.rule for each in wrong)}\n")


def write(folder: Path, checks: list[Checked], times: list[Timed]) -> None:
    device = torch.cuda.get_device_name()
    results = {
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "copy_gb_per_second": copy_rate(),
        "checks": [asdict(each) for each in checks],
        "times": [asdict(each) for each in times],
    }
    name = re.sub(r"\W+", "-", device.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"gpu-{name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
