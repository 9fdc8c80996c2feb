"""Paths and losses drawn: sheets of a rule, and one of all rules.

Input: paths, curves. Output: PNG files. Relies on: matplotlib, an extra. Does not do: take steps.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import torch

from optdsl.gallery.paths import FUNCTIONS, Function, Path
from optdsl.gallery.training import Curve

INK, WAY, GOAL = "0.6", "tab:red", "tab:blue"
HIGH, LOW = "#ffffff", "#9db8d2"
"""The colours of a map, from its heights to its valleys."""
COLOURS = 128
DPI = 100
LEVELS = 11
"""One more than there are shades, each on as large a part of the map."""
GRID = 121
"""Points a side of the map under a path."""


def sheet(name: str, paths: Mapping[str, Path], file: File) -> None:
    """One rule on every function."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.1), layout="constrained")
    for axes, function in zip(figure.subplots(1, len(FUNCTIONS)), FUNCTIONS, strict=True):
        path = paths[function.name]
        _draw(axes, function, path)
        rate = "" if path.rate is None else f", lr = {path.rate:.3g}"
        axes.set_title(f"{function.name}{rate}", fontsize=9)
        axes.set_xlabel(f"after {len(path.points) - 1} steps: {path.value:.2g}", fontsize=8)
    figure.suptitle(name, fontsize=11)
    _save(figure, file)


def overview(paths: Mapping[str, Path], file: File, columns: int = 10) -> None:
    """All rules on Rosenbrock's function."""
    from matplotlib.figure import Figure

    rows = -(-len(paths) // columns)
    figure = Figure(figsize=(1.9 * columns, 1.85 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(paths) :]:
        axes.set_axis_off()
    for axes, (name, path) in zip(panels, paths.items(), strict=False):
        _draw(axes, FUNCTIONS[0], path)
        axes.set_title(f"{name}: {path.value:.1g}", fontsize=8)
    _save(figure, file)


def curves(name: str, found: Mapping[str, Curve], usual: Mapping[str, Curve], file: File) -> None:
    """One rule's losses on every task, above those of a `usual` one."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(9.6, 2.6), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (task, curve) in zip(panels, found.items(), strict=True):
        for each, color, label in ((usual[task], INK, "AdamW"), (curve, WAY, name)):
            axes.plot(_smooth(each.losses), color=color, linewidth=1.2, label=label)
        rate = "" if curve.rate is None else f", lr = {curve.rate:.3g}"
        axes.set_title(f"{task}{rate}: {curve.last:.3g} (AdamW {usual[task].last:.3g})", fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training loss", fontsize=8)
    panels[0].legend(fontsize=8, frameon=False)
    _save(figure, file)


def _smooth(losses: list[float], weight: float = 0.15) -> list[float]:
    """An average that forgets, corrected for its start."""
    average, total, found = 0.0, 0.0, []
    for loss in losses:
        average += weight * (loss - average)
        total += weight * (1 - total)
        found.append(average / total)
    return found


def _draw(axes: Any, function: Function, path: Path) -> None:
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap

    x0, x1, y0, y1 = function.box
    xs, ys = torch.linspace(x0, x1, GRID), torch.linspace(y0, y1, GRID)
    values = function.value(xs[None, :], ys[:, None])
    levels = values.quantile(torch.linspace(0, 1, LEVELS)).tolist()
    ground = LinearSegmentedColormap.from_list("ground", [LOW, HIGH])
    axes.contourf(xs, ys, values, levels, cmap=ground, norm=BoundaryNorm(levels, ground.N))
    across, up = zip(*path.points, strict=True)
    axes.plot(across, up, color=WAY, linewidth=1.1)
    axes.plot(*path.points[0], "o", color=WAY, markerfacecolor="white", markersize=4)
    axes.plot(*path.points[-1], "o", color=WAY, markersize=4)
    axes.plot(*function.best, "*", color=GOAL, markersize=8)
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    axes.set_xticks([])
    axes.set_yticks([])


def _save(figure: Any, file: File) -> None:
    # Imported here like matplotlib, which brings it.
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Lines on white need no more colours, and a third of the bytes.
    Image.open(drawn).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(
        file, optimize=True
    )
