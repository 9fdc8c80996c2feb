"""`optdsl bench`: compiled rules beside what one would take instead.

Input: which races. Output: a table; a JSON file that grows with every race, a chart beside it.
Relies on: bench. Does not do: measure.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace
from math import inf, isnan
from pathlib import Path

import torch

from optdsl.bench import records as files
from optdsl.bench.cases import CASES
from optdsl.bench.contests import CONTESTS
from optdsl.bench.first import TIMEOUT, first_step
from optdsl.bench.records import Records
from optdsl.bench.report import chart, markdown, tables
from optdsl.bench.run import Race, races
from optdsl.cli.terminal import Fault

EXAMPLES = f"""\
Contenders take turns on shared buffers; `of limit` is the share of the speed of
a loop that reads and writes as much, in the same run. A race that is in the file already is not
run again.

rules: {", ".join(CONTESTS)}
cases: {"; ".join(f"{each.key} {each.title}" for each in CASES.values())}

examples:
  optdsl bench --rule AdamW --case a,b
  optdsl bench --case c,d --threads 1 --seconds 3 --out quick.json
  optdsl bench --out quick.json --markdown       what the file holds, measuring nothing
"""

USUAL = ["a", "b", "c", "d", "d-new", "e"]
"""The others are for GPUs: seconds a step on a processor."""
FIRST = ("b", "d")
"""Cases whose first steps are timed: large tensors and small, 148 and 200 of them."""


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rule", type=_some(CONTESTS), default=list(CONTESTS), metavar="R,..")
    add(
        "--case",
        type=_some(CASES),
        default=USUAL,
        metavar="C,..",
        help=f"default: {','.join(USUAL)}",
    )
    add("--threads", type=_counts, metavar="N,..", help="default: 1, and all cores")
    add("--seconds", type=float, default=8.0, metavar="S", help="of each race (default: 8)")
    add(
        "--scale", type=float, default=1.0, metavar="F", help="share of the large tensors' elements"
    )
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--patient", action="store_true", help="contenders, too, that compile for minutes")
    add("--no-first", action="store_true", help="do not time first steps, each in a new process")
    add("--again", action="store_true", help="measure anew what the file has")
    add("--out", type=Path, default=Path("benchmarks/results/cpu.json"), metavar="FILE")
    add("--markdown", action="store_true", help="print the file's table as Markdown, and end")


def _some(known: Collection[str]):  # type: ignore[no-untyped-def]
    def names(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return text.split(",")

    return names


def _counts(text: str) -> list[int]:
    if not all(each.isdigit() and int(each) for each in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of threads")
    return [int(each) for each in text.split(",")]


def run(options: argparse.Namespace) -> int:
    try:
        records = files.read(options.out)
    except ValueError as error:
        raise Fault(str(error)) from None
    if options.markdown:
        if records is None:
            raise Fault(f"{options.out}: no such file")
        print(markdown(records), end="")
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        raise Fault("there is no GPU here")
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        raise Fault("optdsl bench shows its tables by rich: pip install 'optdsl[demo]'") from None
    records = records or Records(files.this_machine(options.device))
    threads = options.threads or sorted({1, torch.get_num_threads()})
    wanted = list(
        races(
            *(options.rule, options.case, threads, options.seconds),
            *(options.scale, options.device, options.patient),
        )
    )
    todo = [each for each in wanted if options.again or not records.has(each.key)]
    seconds: Seconds = {}
    if not options.again:
        known = [each for each in records.records if each.first and each.rounds]
        seconds = {(each.contest, each.case, each.contender): each.first for each in known}
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("racing", total=len(todo))
        for race in todo:
            progress.update(task, description=" ".join(map(str, race.key)))
            records.put(race.key, _measured(race, None if options.no_first else seconds))
            files.write(options.out, records)
            progress.advance(task)
    shown = {each.key for each in wanted}
    kept = [each for each in records.records if each.race in shown]
    for each in tables(Records(records.machine, kept)):
        console.print(each)
    picture = options.out.with_suffix(".png")
    chart(records, picture)
    console.print(f"{options.out}, {picture}")
    return 0


Seconds = dict[tuple[str, str, str], float]
"""Of first steps, by contest, case and contender: they do not depend on the number of threads."""


def _measured(race: Race, seconds: Seconds | None) -> list[files.Record]:
    """Runs `race`, with `seconds` without those who fail, or have taken no step after minutes."""
    times = {} if seconds is None else _first_steps(race, seconds)
    out = {name: 0.0 if isnan(each) else TIMEOUT for name, each in times.items() if not each < inf}
    found = replace(race, without=frozenset(out)).run()
    late = [
        files.Record(*race.key, name, 0.0, 0.0, 0, race.moved(), each) for name, each in out.items()
    ]
    return [replace(each, first=round(times.get(each.contender, 0), 3)) for each in found] + late


def _first_steps(race: Race, seconds: Seconds) -> dict[str, float]:
    """By contender; of usual ones where they are of interest. `seconds` grows."""
    of_interest = any(race.case.title.startswith(CASES[key].title) for key in FIRST)
    contest, case, _ = race.key
    found = {}
    for each in race.contenders():
        key = contest, case, each.name
        if key not in seconds and (each.patient or of_interest):
            seconds[key] = first_step(race.contest.name, race.case, each.name, race.device)
        if key in seconds:
            found[each.name] = seconds[key]
    return found
