"""What a run found, to read: a table, Markdown, a chart.

Input: records. Output: rich tables, text, a PNG. Relies on: rich and matplotlib, which are extras.
Does not do: measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from optdsl.bench.records import LIMIT, Records

OURS = "optdsl"
HEADINGS = (
    "rule",
    "case",
    "threads",
    "contender",
    "ms",
    "GB/s",
    "of the limit",
    "ours is",
    "first",
)


def rows(records: Records) -> Iterator[tuple[str, ...]]:
    """A row for each contender: milliseconds, GB/s of the bytes that ours counts, the share of the
    limit's speed that is reached, how many times faster ours is, seconds to the first step."""
    for race in records.races():
        found = records.of(race)
        ours, limit = found.get(OURS), found.get(LIMIT)
        for name, each in found.items():
            yield (
                *(each.contest, each.case, str(each.threads), name),
                _number(each.median),
                _number(each.moved / each.median / 1e6),
                f"{limit.median / each.median:.2f}" if limit and name != LIMIT else "",
                f"{each.median / ours.median:.2f}x" if ours and name not in (OURS, LIMIT) else "",
                f"{each.first:.2f} s" if each.first else "",
            )


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def markdown(records: Records) -> str:
    """The table as Markdown, under what it was measured on."""
    machine = ", ".join(f"{key} {value}" for key, value in records.machine.items())
    lines = [f"Measured on: {machine}.", "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
    return "\n".join([*lines, *map(_line, rows(records))]) + "\n"


def _line(cells: object) -> str:
    assert isinstance(cells, (tuple, list))
    return "| " + " | ".join(cells) + " |"


def tables(records: Records) -> Iterator[object]:
    """The same for a terminal, a table for each race."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    for (rule, case, threads), group in groupby(rows(records), lambda row: row[:3]):
        title = f"{rule}, {case}, {threads} thread{'' if threads == '1' else 's'}"
        made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, title_style="bold")
        for position, heading in enumerate(HEADINGS[3:]):
            made.add_column(heading, justify="right" if position else "left", min_width=8)
        for row in group:
            made.add_row(*row[3:])
        yield made


def chart(records: Records, path: Path) -> None:
    """How many times faster ours is than each peer: a panel for each case, a bar for each peer and
    number of threads."""
    from matplotlib.figure import Figure

    ratios: dict[str, list[tuple[str, float]]] = {}
    for race in records.races():
        found = records.of(race)
        ours = found.get(OURS)
        for name, each in found.items():
            if ours and name not in (OURS, LIMIT):
                label = f"{each.contest}: {name}, {each.threads}T"
                ratios.setdefault(each.case, []).append((label, each.median / ours.median))
    if not ratios:
        return
    lines, count = -(-len(ratios) // 2), max(map(len, ratios.values()))
    figure = Figure(figsize=(13, lines * (0.9 + 0.22 * count)), layout="constrained")
    panels = figure.subplots(lines, 2, squeeze=False).flatten()
    for axes in panels[len(ratios) :]:
        axes.set_axis_off()
    for axes, (case, bars) in zip(panels, ratios.items(), strict=False):
        names, values = zip(*reversed(bars), strict=True)
        painted = axes.barh(range(len(values)), values, color="tab:blue", height=0.7)
        axes.bar_label(painted, [f"{each:.3g}x" for each in values], padding=2, fontsize=7)
        axes.set_yticks(range(len(values)), names, fontsize=7)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlim(min(0.5, *values) / 1.3, max(values) * 2)
        axes.set_title(case, fontsize=10)
        axes.set_xlabel("time of a step, in times ours (log scale)", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
