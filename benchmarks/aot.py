"""The kernels of every shipped rule, compiled ahead of time: `python -m benchmarks.aot`.

No GPU is needed, but an hour or two: some 470 kernels for each of sm_80, sm_90, sm_100 and gfx942,
in float32 and in bfloat16, and those with states for two of them with int8 codes, too. What the
tests ask of some kernels (tests/triton/judging.py) is asked of all.

Writes benchmarks/results/aot.json, or the file that --out names, after every few rules, and goes on
where it was stopped: what is there is compiled again where the text of its kernels has changed (not
so where what they call has, or how they are compiled), or with --again. For each kernel it has

    registers a thread, warps, bytes of stack (spills are among them), bits of the narrowest access

of those to whole blocks of full-size buffers (0: it has none). `faults` are what the tests would
say. --column takes some columns, as `sm_90 fp32` or `gfx942 fp32 int8`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from rich.progress import track

from optdsl.codegen.prologue import triton_source
from optdsl.files import replace_file
from tests.triton.compiling import Finding, Job, compile_all
from tests.triton.judging import coded_jobs, faults, jobs_of, narrowest
from tests.triton.sources import ZOO, plan_of

RESULTS = Path(__file__).parent / "results" / "aot.json"
COLUMNS = (
    *("sm_90 fp32", "gfx942 fp32", "sm_80 fp32", "sm_100 fp32"),
    *("sm_90 bf16", "gfx942 bf16", "sm_80 bf16", "sm_100 bf16"),
    *("sm_90 fp32 int8", "gfx942 fp32 int8"),
)
"""Target, dtype, codec of the states, in the order of what matters."""
AT_ONCE = 12
"""Rules whose kernels one process compiles: it takes some seconds to begin."""


@dataclass
class Entry:
    """A rule in one column; `text` is the hash of what was compiled."""

    text: str
    kernels: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


Table = dict[str, dict[str, Entry]]
"""By column and rule."""


def read(path: Path) -> Table:
    if not path.exists():
        return {}
    columns: dict[str, Any] = json.loads(path.read_text("utf-8"))["columns"]
    return {
        column: {rule: Entry(**entry) for rule, entry in rules.items()}
        for column, rules in columns.items()
    }


def write(path: Path, table: Table) -> None:
    """A line a rule, in the order of the columns and the rules."""
    columns = []
    for column in COLUMNS:
        rules = table.get(column, {})
        lines = [f'  "{each}": {json.dumps(vars(rules[each]))}' for each in ZOO if each in rules]
        if lines:
            columns.append(f' "{column}": {{\n' + ",\n".join(lines) + "\n }")
    body = ",\n".join(columns)
    replace_file(path, f'{{"triton": "{triton.__version__}", "columns": {{\n{body}\n}}}}\n')


def text_of(source: str) -> str:
    return hashlib.sha256(triton_source(plan_of(source)).encode()).hexdigest()[:12]


def jobs(source: str, column: str) -> list[Job]:
    target, dtype, *states = column.split()
    if states:
        return coded_jobs(source, target, dtype, states[0])
    return jobs_of(source, target, dtype, aligned=True)


def compile_rules(sources: Sequence[str], column: str) -> Iterator[tuple[str, Entry]]:
    """Entries of rules, compiled in one process. A rule without such a kernel has an empty one."""
    found: dict[str, list[Finding]] = {each: [] for each in sources}
    for finding in compile_all([job for each in sources for job in jobs(each, column)]):
        found[finding.job.source].append(finding)
    for source, findings in found.items():
        entry = Entry(text_of(source))
        for one in findings:
            figures = [one.registers, one.warps, one.local, narrowest(one)]
            entry.kernels[one.job.kernel] = figures
            entry.faults += faults(one)
        yield source, entry


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--column", action="append", choices=COLUMNS, help="some columns only")
    parser.add_argument("--again", action="store_true", help="compile what is there, too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    table = read(options.out)
    texts = {each: text_of(each) for each in ZOO}
    for column in options.column or COLUMNS:
        done = table.setdefault(column, {})
        todo = [
            each
            for each in ZOO
            if options.again or each not in done or done[each].text != texts[each]
        ]
        for first in track(range(0, len(todo), AT_ONCE), column):
            done.update(compile_rules(todo[first : first + AT_ONCE], column))
            write(options.out, table)
        for entry in done.values():
            print("\n".join(entry.faults), end="\n" if entry.faults else "")


if __name__ == "__main__":
    main()
