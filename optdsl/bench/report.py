"""What a run found, to read: a table, Markdown, a chart.

Input: records. Output: rich tables, text, a PNG. Relies on: rich and matplotlib, which are extras.
Does not do: measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from optdsl.bench.contests import OURS
from optdsl.bench.records import LIMIT, Records

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
            if not each.rounds:
                reason = f"over {each.first:.0f} s" if each.first else "fails"
                yield *race[:2], str(race[2]), name, *4 * ("",), reason
                continue
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
    """How many times faster ours is than each peer: a panel for each case, a pair of bars for each
    peer, one for the least number of threads and one for the most. What is faster than ours goes to
    the left of 1."""
    from matplotlib.figure import Figure

    panels = _ratios(records)
    if not panels:
        return
    columns = 2
    lines = [list(panels.items())[k : k + columns] for k in range(0, len(panels), columns)]
    heights = [1 + max(len(bars) for _, bars in line) for line in lines]
    figure = Figure(figsize=(13, sum(0.34 * each + 0.5 for each in heights)), layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flatten()[len(panels) :]:
        axes.set_axis_off()
    for axes, (case, bars) in zip(grid.flatten(), panels.items(), strict=False):
        for position, each in enumerate(reversed(bars.values())):
            for k, (threads, ratio) in enumerate(sorted(each.items(), reverse=True)):
                place = position + 0.4 * (k - (len(each) - 1) / 2)
                color = "tab:blue" if threads == min(each) else "lightsteelblue"
                painted = axes.barh(place, ratio - 1, left=1, color=color, height=0.38)
                axes.bar_label(painted, [f"{ratio:.3g}x"], padding=2, fontsize=7)
        axes.set_yticks(range(len(bars)), list(reversed(bars)), fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlim(*span(bars))
        axes.set_title(case, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    counts = sorted({each.threads for each in records.records})
    shown = " and ".join(f"{count} thread{'s' * (count > 1)}" for count in counts)
    figure.supxlabel(f"time of a step, in times ours (log scale); dark and light: {shown}", size=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def span(bars: Mapping[str, Mapping[int, float]]) -> tuple[float, float]:
    """The ends of a panel's axis, with room for each bar and the number behind it."""
    found = [ratio for each in bars.values() for ratio in each.values()]
    return min(0.4, min(found) / 4), max(1.0, *found) * 2


def _ratios(records: Records) -> dict[str, dict[str, dict[int, float]]]:
    """Times ours, by case, peer and number of threads."""
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for race in records.races():
        found = records.of(race)
        ours = found.get(OURS)
        for name, each in found.items():
            if ours and each.rounds and name not in (OURS, LIMIT):
                contest = each.contest if each.contest not in name else ""
                label = f"{contest}: {name}".removeprefix(": ")
                bars = panels.setdefault(each.case, {}).setdefault(label, {})
                bars[each.threads] = each.median / ours.median
    return panels
