"""Ours with int8 states beside torchao's 8-bit AdamW: `python -m benchmarks.torchao` (minutes).

Eight matrices of 1024 x 1024 in float32, which all share, on one thread. All take turns, one step
each; of each the first step's seconds, and the least and the median of the processor's time of a
step, in ns a parameter. Two processes: one compiles torchao's step, as it does by itself; the other
does not (TORCHDYNAMO_DISABLE=1). On GPT-2 small's list torchao compiles for each shape. Writes
benchmarks/results/torchao.json, or the file that --out names.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

import optdsl.zoo
from optdsl.files import replace_file

RESULTS = Path(__file__).parent / "results" / "torchao.json"
COUNT, SIDE = 8, 1024
WAYS = {"compiled": {}, "not compiled": {"TORCHDYNAMO_DISABLE": "1"}}
"""How torchao's step runs, and the environment that says so."""


def measure(rounds: int) -> dict[str, dict[str, Any]]:
    """Figures of each optimizer, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    params = [Parameter(torch.randn(SIDE, SIDE) * 0.02) for _ in range(COUNT)]
    for p in params:
        p.grad = torch.randn(SIDE, SIDE) * 0.01
    made = {
        "torch fused float32": torch.optim.AdamW(params, fused=True),
        "float32, int8 states": optdsl.zoo.AdamW(params, backend="cpu", storage="int8"),
        "torchao AdamW8bit": importlib.import_module("torchao.optim").AdamW8bit(params),
    }
    first, times = {}, {name: [0.0] * rounds for name in made}
    for name, optimizer in made.items():
        start = time.perf_counter()
        optimizer.step()
        first[name] = round(time.perf_counter() - start, 2)
    for number in range(rounds):
        for name, optimizer in made.items():
            start = time.process_time()
            optimizer.step()
            times[name][number] = (time.process_time() - start) * 1e9 / (COUNT * SIDE**2)
    return {
        name: {"ns": [round(min(each), 3), round(statistics.median(each), 3)], "first": first[name]}
        for name, each in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help="in this process, to the output")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.rounds)))
        return
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.torchao --rounds {options.rounds}",
        "processor": platform.processor() or platform.machine(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "torchao": importlib.import_module("torchao").__version__,
        "parameters": COUNT * SIDE**2,
    }
    command = [sys.executable, "-m", "benchmarks.torchao", "--here", f"--rounds={options.rounds}"]
    for way, environment in WAYS.items():
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        result[way] = found = json.loads(done.stdout.splitlines()[-1])
        print(f"torchao {way}: ns a parameter, least and median; seconds of the first step")
        for name, each in found.items():
            print(f"  {name:24} {each['ns'][0]:8.2f} {each['ns'][1]:8.2f} {each['first']:8.2f}")
    replace_file(options.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
