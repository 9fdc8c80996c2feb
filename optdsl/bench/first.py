"""From nothing to the first step: a process of its own, without any cache.

Input: a contest, a case, a contender. Output: the seconds from after `import torch` to the end of
the first step: importing what the contender needs, reading the rule, compiling, building; making
parameters is not in them. Relies on: contests, cases. Does not do: anything twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict

import torch

from optdsl.bench.cases import Case
from optdsl.bench.contests import CONTESTS, OURS

TIMEOUT = 300
START = """\
import time, torch
begin = time.perf_counter()
import optdsl.compiler, optdsl.loading
own = time.perf_counter() - begin
from optdsl.bench.first import main
main(own)
"""
"""What ours imports is its alone, what the bench does is nobody's."""


def first_step(contest: str, case: Case, contender: str, device: str = "cpu") -> float:
    """Seconds; infinite where they are more than TIMEOUT, NaN where the contender fails."""
    given = {"contest": contest, "case": asdict(case), "contender": contender, "device": device}
    with tempfile.TemporaryDirectory() as folder:
        empty = ("OPTDSL_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        environment = {**os.environ, **{name: f"{folder}/{name.lower()}" for name in empty}}
        try:
            done = subprocess.run(
                [sys.executable, "-c", START],
                input=json.dumps(given),
                capture_output=True,
                text=True,
                env=environment,
                timeout=TIMEOUT,
            )
            return float(done.stdout.split()[-1])
        except subprocess.TimeoutExpired:
            return float("inf")
        except (ValueError, IndexError):
            return float("nan")


def main(own: float) -> None:
    """Reads what to do from the input, prints the seconds; `own` are those of our imports."""
    given = json.load(sys.stdin)
    shapes = tuple(map(tuple, given["case"].pop("shapes")))
    contest = CONTESTS[given["contest"]]
    everyone = {each.name: each for each in contest.contenders(patient=True)}
    chosen = everyone[given["contender"]]
    dtype = chosen.dtype or contest.dtype or torch.float32
    params = Case(**given["case"], shapes=shapes).parameters(dtype, given["device"])
    begin = time.perf_counter()
    _, step = chosen.prepare(params)
    step()
    if given["device"] != "cpu":
        torch.cuda.synchronize()
    print(time.perf_counter() - begin + (own if given["contender"] == OURS else 0.0))
