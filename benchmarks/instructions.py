"""What storage costs a GPU in arithmetic: `python -m benchmarks.instructions` (no GPU needed).

Instructions of AdamW's step on sm_90, an element, by how its states are kept and how bfloat16
parameters are rounded: the difference between the machine code of a block and of one twice as
large, so that what a program does once is left out; slow paths of divisions and roots, which few
elements take, are in it. Beside it, as many as an H200 starts while its memory moves the element's
bytes: 132 multiprocessors of 1.755 GHz start four for 32 elements a cycle, a copy moves 4.3 TB/s.

Writes benchmarks/results/instructions.json, or the file that --out names.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import triton

from optdsl.files import replace_file
from tests.triton.compiling import DTYPES, Job, compile_all
from tests.triton.judging import coded_jobs, jobs_of

RESULTS = Path(__file__).parent / "results" / "instructions.json"
RULE, KERNEL, TARGET = "adamw/AdamW", "adamw_v1_0", "sm_90"
PER_BYTE = 132 * 1.755e9 * 4 * 32 / 4.3e12
STATES = {"": 4.0, "int8": 1 + 4 / 256, "int4": 0.5 + 4 / 128, "fp8": 1 + 4 / 256}
"""Bytes of a state's element."""
WAYS = {"": 0, "stochastic_bf16": 0, "master_bf16": 4, "kahan_bf16": 2, "split_bf16": 2}
"""Bytes beside a parameter's."""


def job(dtype: str, states: str, way: str) -> Job:
    """The usual step's kernel."""
    coded = coded_jobs(RULE, TARGET, dtype, states, way)
    found = coded or jobs_of(RULE, TARGET, dtype, aligned=True)
    return replace(next(each for each in found if each.kernel == KERNEL), counts=True)


def measure() -> dict[str, dict[str, float]]:
    settings = [("fp32", each, "") for each in STATES] + [("bf16", "", each) for each in WAYS]
    jobs = [job(*each) for each in settings]
    blocks = compile_all(jobs)
    twice = compile_all([replace(each, tile=(2 * each.tile[0],)) for each in jobs])
    found = {}
    for (dtype, states, way), one, two in zip(settings, blocks, twice, strict=True):
        own = DTYPES[dtype][1]
        moved = 2 * (own + WAYS[way]) + own + 4 * STATES[states]
        lanes = one.job.tile[0] / (32 * one.warps)
        name = f"{dtype} {way.partition('_')[0]}".strip()
        found[f"{name}, {states or 'fp32'} states"] = {
            "bytes": round(moved, 1),
            "instructions": round((two.instructions - one.instructions) / lanes, 1),
            "while it is moved": round(moved * PER_BYTE, 1),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    result = {"triton": triton.__version__, "target": TARGET, "figures": measure()}
    replace_file(out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
