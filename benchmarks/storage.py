"""What storage costs a step: `python -m benchmarks.storage` (C compiler needed; some minutes).

Steps of AdamW on GPT-2 small's 148 tensors (124M parameters; every dimension of at least 768 is
divided by --divide, for a quarter of that with 2), on one thread and on two: float32 beside
half-precision parameters that round at random or keep what rounding loses, and beside states in
codes. torch's fused AdamW in float32 is the measure. Those of one dtype share parameters and
gradients. All take turns, one step each, and a round's times are compared with each other: what
else the machine does then falls on all of them alike.

For each, `ns` is the least and the median time a parameter, `speed` the median over rounds of
torch's time by its own, `bytes` what a step moves a parameter. On one thread it is the processor's
time, which leaves out what other processes take, but for what they take of the memory; on two it is
the clock's. Writes benchmarks/results/storage.json, or the file that --out names.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl.zoo
from optdsl.files import replace_file
from optdsl.models import shapes_of

RESULTS = Path(__file__).parent / "results" / "storage.json"
MEASURE = "torch fused float32"
HALF: dict[str, dict[str, Any]] = {
    "bf16, nearest": {},
    "bf16, stochastic": {"rounding": "stochastic"},
    "bf16, master": {"master": "float32"},
    "bf16, kahan": {"compensation": "kahan"},
    "bf16, split": {"compensation": "split"},
    "bf16, nearest, bf16 states": {"storage": "bf16"},
    "bf16, stochastic, bf16 states": {"rounding": "stochastic", "storage": "bf16"},
    "bf16, stochastic, int8 states": {"rounding": "stochastic", "storage": "int8"},
}
CODES = ("bf16", "fp8", "int8", "int4")


@functools.cache
def parameters(dtype: torch.dtype, divide: int) -> list[Parameter]:
    """GPT-2 small's, or smaller ones, with gradients."""
    generator, made = torch.Generator().manual_seed(0), []
    for shape in shapes_of("gpt2").values():
        sizes = [size // divide if size >= 768 else size for size in shape]
        p = Parameter((torch.randn(sizes, generator=generator) * 0.02).to(dtype))
        p.grad = (torch.randn(sizes, generator=generator) * 0.01).to(dtype)
        made.append(p)
    return made


def optimizers(divide: int) -> Iterator[tuple[str, Any]]:
    full = torch.float32, divide
    yield MEASURE, torch.optim.AdamW(parameters(*full), fused=True)
    yield "float32", optdsl.zoo.AdamW(parameters(*full), backend="cpu")
    for name, options in HALF.items():
        params = parameters(torch.bfloat16, divide)
        yield name, optdsl.zoo.AdamW(params, backend="cpu", **options)
    for storage in CODES:
        made = optdsl.zoo.AdamW(parameters(*full), backend="cpu", storage=storage)
        yield f"float32, {storage} states", made


def measure(
    made: dict[str, Any], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each optimizer's steps, by round; each round begins with another one."""
    times: dict[str, list[float]] = {name: [] for name in made}
    names = list(made)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            made[name].step()
            times[name].append(clock() - start)
    return {name: each[1:] for name, each in times.items()}  # the first makes states and plans


def moved(optimizer: torch.optim.Optimizer) -> float:
    """Bytes a step: p and its states are read and written, the gradient is read."""
    total = 0
    for p in optimizer.param_groups[0]["params"]:
        states = [each for each in optimizer.state[p].values() if isinstance(each, Tensor)]
        total += 2 * sum(each.nbytes for each in (p, *states)) + p.grad.nbytes
    return float(total)


def summary(
    made: dict[str, Any], times: dict[str, list[float]], count: int
) -> dict[str, dict[str, Any]]:
    """Figures of each optimizer, for `count` parameters."""
    found = {}
    for name, mine in times.items():
        ratios = [theirs / own for theirs, own in zip(times[MEASURE], mine, strict=True)]
        nanoseconds = [1e9 * each / count for each in (min(mine), statistics.median(mine))]
        found[name] = {
            "ns": [round(each, 3) for each in nanoseconds],
            "speed": round(statistics.median(ratios), 2),
            "bytes": round(moved(made[name]) / count, 1),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--divide", type=int, default=1, help="sizes of at least 768 (default: 1)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    made = dict(optimizers(options.divide))
    count = sum(p.numel() for p in made[MEASURE].param_groups[0]["params"])
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.storage --divide {options.divide}"
        f" --rounds {options.rounds}",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "parameters": count,
    }
    for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
        torch.set_num_threads(threads)
        times = measure(made, options.rounds, clock)
        result[f"{threads} threads"] = found = summary(made, times, count)
        print(f"{count:,} parameters, {threads} threads: ns a parameter, least and median; speed")
        for name, each in found.items():
            print(f"  {name:30} {each['ns'][0]:7.2f} {each['ns'][1]:7.2f} {each['speed']:6.2f}")
    replace_file(options.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
