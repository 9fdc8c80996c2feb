"""From nothing to the first step: a process of its own, without any cache.

    python -m optdsl.bench.first CONTEST CASE CONTENDER

prints the seconds from after `import torch` to the end of the first step: reading the rule,
compiling, building. Relies on: contests, cases. Does not do: anything twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import torch

from optdsl.bench.cases import CASES
from optdsl.bench.contests import CONTESTS

TIMEOUT = 600


def first_step(contest: str, case: str, contender: str) -> float:
    """Seconds; NaN where the contender fails or takes ten minutes."""
    command = [sys.executable, "-m", "optdsl.bench.first", contest, case, contender]
    with tempfile.TemporaryDirectory() as folder:
        empty = ("OPTDSL_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        environment = {**os.environ, **{name: f"{folder}/{name.lower()}" for name in empty}}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=TIMEOUT
            )
            return float(done.stdout.split()[-1])
        except (subprocess.TimeoutExpired, ValueError, IndexError):
            return float("nan")


def main(contest: str, case: str, contender: str) -> None:
    everyone = {each.name: each for each in CONTESTS[contest].contenders(patient=True)}
    chosen = everyone[contender]
    dtype = chosen.dtype or CONTESTS[contest].dtype or torch.float32
    params = CASES[case].parameters(dtype, "cpu")
    begin = time.perf_counter()
    _, step = chosen.prepare(params)
    step()
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main(*sys.argv[1:4])
