"""Fills the tables of README.md and docs/performance.md from the figures in benchmarks/results:

    python -m benchmarks.page [PAGE...]

What stands between `<!-- NAME -->` and `<!-- end -->` is made anew; a NAME is one of `PARTS`. All
else on a page is written by hand. A test holds the pages to the figures.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import aot
from optdsl.bench import records as files
from optdsl.bench.contests import OURS
from optdsl.bench.records import LIMIT, Records
from optdsl.bench.report import markdown
from optdsl.files import replace_file

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
PART = re.compile(r"<!-- (?P<name>\w+) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


# ---------------------------------------------------------------- races


@dataclass(frozen=True)
class Aim:
    """How many times faster than `peer` a step of `contest` is to be, on one thread and on all."""

    contest: str
    peer: str
    case: str
    one: float
    all: float


AIMS = (
    *(Aim("AdamW", LIMIT, case, 0.97, 0.97) for case in ("one of 64M", "GPT-2 small")),
    Aim("AdamW", "torch fused", "one of 64M", 1.05, 1.05),
    Aim("AdamW", "torch fused", "GPT-2 small", 1.05, 1.2),
    Aim("AdamW", "torch fused", "1000 of 10k", 2.2, 2.5),
    Aim("AdamW", "torch fused", "200 of 64, new gradients", 12, 12),
    Aim("AdamW", "torch fused", "200 of 64", 25, 25),
    Aim("AdamW", "torch fused", "1000 of 64, DTensors", 30, 30),
    Aim("clip + AdamW", "torch clip + fused", "one of 64M", 1.35, 1.35),
    Aim("clip + AdamW", "torch clip + fused", "GPT-2 small", 2, 2),
    Aim("clip + AdamW", "torch clip + fused", "1000 of 10k", 5, 5),
    Aim("Lion", "pytorch_optimizer", "GPT-2 small", 7, 7),
    Aim("LAMB", "pytorch_optimizer", "GPT-2 small", 6, 6),
    Aim("Adan", "pytorch_optimizer", "GPT-2 small", 6, 6),
    Aim("AdamW rounding at random, bfloat16", "torch fused, float32", "GPT-2 small", 1.6, 1.6),
    Aim(
        "AdamW rounding at random with half states, bfloat16",
        "torch fused, float32",
        "GPT-2 small",
        1.6,
        1.6,
    ),
    Aim("AdamW with int8 states", "torch fused", "GPT-2 small", 0.7, 0.7),
    Aim("AdamW with int8 states", "torchao.optim", "GPT-2 small", 10, 10),
)


FIRST = (
    ("AdamW", "GPT-2 small", "torch fused"),
    ("AdamW", "GPT-2 small", "torch foreach"),
    ("clip + AdamW", "GPT-2 small", "torch clip + fused"),
    ("Lion", "GPT-2 small", "pytorch_optimizer"),
    ("Adan", "GPT-2 small", "pytorch_optimizer"),
    ("AdamW", "200 of 64, new gradients", "torch fused"),
    ("AdamW with int8 states", "GPT-2 small", "torch fused"),
)
"""The races that the README shows, lost ones with them: contest, case, peer."""


def aims(folder: Path) -> str:
    """What we aim at, and how far we are."""
    found = _races(folder)
    return table(("rule", "case", "beside", "1 thread", "2 threads"), map(_aim_row(found), AIMS))


def first(folder: Path) -> str:
    """What the README shows: how many times faster a step is."""
    found = _races(folder)
    head = ("a step of", "on", "beside", "1 thread", "2 threads")
    return table(head, (_first_row(found, *each) for each in FIRST))


def _first_row(found: Records, contest: str, case: str, peer: str) -> Sequence[str]:
    ratios = (_ratio(found, contest, case, threads, peer) for threads in (1, 2))
    return contest, case, peer, *("not run" if x is None else f"{x:.3g}x" for x in ratios)


def _ratio(found: Records, contest: str, case: str, threads: int, peer: str) -> float | None:
    """How many times longer than ours a step of `peer` takes; None where it was not run."""
    race = found.of((contest, case, threads))
    if OURS not in race or peer not in race or not race[peer].rounds:
        return None
    return race[peer].median / race[OURS].median


def _aim_row(found: Records) -> Callable[[Aim], Sequence[str]]:
    def row(aim: Aim) -> Sequence[str]:
        cells = []
        for threads, wanted in ((1, aim.one), (2, aim.all)):
            ratio = _ratio(found, aim.contest, aim.case, threads, aim.peer)
            if ratio is None:
                cells.append(f"not run; {wanted:g}")
            else:
                verdict = "" if ratio >= wanted else ", short"
                cells.append(f"{ratio:.3g} of {wanted:g}{verdict}")
        return aim.contest, aim.case, aim.peer, *cells

    return row


def races(folder: Path) -> str:
    return markdown(_races(folder))


def _races(folder: Path) -> Records:
    found = files.read(folder / "cpu.json")
    assert found is not None, "no races were run"
    return found


# ---------------------------------------------------------------- storage

CODED, TORCHAO = "float32, int8 states", "torchao AdamW8bit"


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def storage(folder: Path) -> str:
    found = _json(folder / "storage.json")
    one, two = found["1 threads"], found["2 threads"]
    head = ("parameters, states", "bytes", "1 thread: ns", "speed", "2 threads: ns", "speed")
    rows = (
        (name, f"{each['bytes']:.0f}", *_cost(each), *_cost(two[name]))
        for name, each in one.items()
    )
    return table(head, rows)


def _cost(entry: dict[str, Any]) -> tuple[str, str]:
    return f"{entry['ns'][0]:.2f}", f"{entry['speed']:.2f}"


def torchao(folder: Path) -> str:
    found = _json(folder / "torchao.json")
    rows = (
        (f"{name}, {way}" if "torchao" in name else name, *_peer(each, found[way]))
        for way, names in (("compiled", [*found["compiled"]]), ("not compiled", [TORCHAO]))
        for name, each in ((name, found[way][name]) for name in names)
    )
    return table(("8 of 1M", "ns", "times int8 of ours", "first step"), rows)


def _peer(entry: dict[str, Any], beside: dict[str, Any]) -> tuple[str, ...]:
    """By medians, of the same process."""
    ratio = entry["ns"][1] / beside[CODED]["ns"][1]
    return f"{entry['ns'][1]:.2f}", f"{ratio:.3g}", f"{entry['first']:.1f} s"


def codecs(folder: Path) -> str:
    figures = _json(folder / "codecs.json")["figures"]
    names = [each.removeprefix("save_") for each in figures if each.startswith("save_")]
    both = [each for each in names if f"load_{each}" in figures]
    rows = ((e, f"{figures[f'save_{e}']:.2f}", f"{figures[f'load_{e}']:.2f}") for e in both)
    return table(("codec", "to memory", "from it"), rows)


# ---------------------------------------------------------------- kernels


def kernels(folder: Path) -> str:
    """The sweep's columns, those that are not there, too."""
    found = aot.read(folder / "aot.json")
    head = ("target", "values", "rules", "kernels", "registers: AdamW", "median", "most")
    rows = (_kernel_row(column, found.get(column, {})) for column in aot.COLUMNS)
    return table((*head, "with a stack", "below 128 bits", "faults"), rows)


def _kernel_row(column: str, rules: dict[str, aot.Entry]) -> Sequence[str]:
    target, _, values = column.partition(" ")
    values = values.replace(" int8", ", states int8")
    if not rules:
        return target, values, "none yet", *7 * ("",)
    kernels = {name: each for entry in rules.values() for name, each in entry.kernels.items()}
    registers = [each[0] for each in kernels.values()]
    adamw = sorted(each[0] for name, each in kernels.items() if name.startswith("adamw_v"))
    stacks = [local for _, _, local, _ in kernels.values() if local]
    return (
        *(target, values, str(len(rules)), str(len(kernels))),
        *(", ".join(map(str, adamw)), f"{statistics.median(registers):.0f}", str(max(registers))),
        f"{len(stacks)}: at most {max(stacks)} B" if stacks else "none",
        str(sum(0 < bits < 128 for _, _, _, bits in kernels.values()) or "none"),
        str(sum(len(each.faults) for each in rules.values()) or "none"),
    )


def instructions(folder: Path) -> str:
    figures = _json(folder / "instructions.json")["figures"]
    head = ("parameters, states", "bytes", "instructions", "started while the bytes are moved")
    rows = ((name, *(f"{each:.0f}" for each in found.values())) for name, found in figures.items())
    return table(head, rows)


# ---------------------------------------------------------------- training


def training(folder: Path) -> str:
    """Losses of ours and of references: their means over seeds, how far these are apart, and the
    reference's own standard deviation, within which they should be."""
    found = _json(folder / "training.json")
    head = ("rule", "reference", "ours", "its own", "apart", "seeds apart", "within")
    return table(head, (_trained_row(found, *each) for each in found["references"].items()))


def _trained_row(found: dict[str, Any], rule: str, reference: str) -> Sequence[str]:
    ours, theirs = (
        [
            run["held_out"]
            for key, run in found["runs"].items()
            if key.startswith(f"{rule}, {side},")
        ]
        for side in ("ours", "reference")
    )
    apart = abs(statistics.fmean(ours) - statistics.fmean(theirs))
    spread = statistics.stdev(theirs)
    figures = (statistics.fmean(ours), statistics.fmean(theirs), apart, spread)
    return rule, reference, *(f"{x:.4f}" for x in figures), "yes" if apart <= spread else "NO"


# ---------------------------------------------------------------- the page


PARTS = {
    each.__name__: each
    for each in (first, aims, races, storage, torchao, codecs, training, kernels, instructions)
}


def fill(text: str, folder: Path = RESULTS) -> str:
    """`text` with its parts made anew. Raises KeyError for one that is not known."""

    def made(part: re.Match[str]) -> str:
        return f"<!-- {part['name']} -->\n{PARTS[part['name']](folder)}<!-- end -->"

    return PART.sub(made, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", metavar="PAGE", nargs="*", type=Path, default=PAGES)
    for page in parser.parse_args().pages:
        replace_file(page, fill(page.read_text("utf-8")))


if __name__ == "__main__":
    main()
