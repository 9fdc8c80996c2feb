"""All pictures of the gallery: each rule's paths and losses at the best learning rate of a sweep.

Input: shipped rules; a wrapper is drawn around the first of INNER that it fits. Output: PNG files.
Relies on: paths, training, pictures, zoo. Does not do: pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import optdsl.zoo
from optdsl.diagnostics import CompileError
from optdsl.gallery.inputs import question
from optdsl.gallery.pages import KINDS, Shipped
from optdsl.gallery.paths import FUNCTIONS, best_path
from optdsl.gallery.pictures import curves, overview, sheet
from optdsl.gallery.training import Curve, Task, best_curve, tasks_for

INNER = ("SGD", "AdamW")


def draw(rules: Sequence[Shipped], folder: Path) -> None:
    """Draws paths/NAME.png and losses/NAME.png where a rule can be drawn and the file is not there,
    and paths/overview.png, with a progress bar. Raises ImportError without the extra `demo`."""
    from rich.progress import track

    first = {}
    for each in track(rules, description="drawing"):
        title, rule = drawable(each)
        if rule is None:
            continue
        paths, losses = (folder / kind / f"{each.name}.png" for kind in KINDS)
        found = {FUNCTIONS[0].name: best_path(rule, FUNCTIONS[0])}
        first[each.name] = found[FUNCTIONS[0].name]
        if not paths.exists():
            found |= {function.name: best_path(rule, function) for function in FUNCTIONS[1:]}
            sheet(title, found, paths)
        if not losses.exists():
            fitting = tasks_for(rule)
            trained = {task.name: best_curve(rule, task) for task in fitting}
            curves(title, trained, {task.name: usual(task) for task in fitting}, losses)
    overview(first, folder / "paths" / "overview.png")


@cache
def usual(task: Task) -> Curve:
    """What stands beside every rule."""
    return best_curve(optdsl.zoo.AdamW, task)


def drawable(each: Shipped) -> tuple[str, Any]:
    """What is drawn of a rule, and its class; None where it asks for what pictures do not have."""
    title, rule = each.name, None
    if each.kind != "wrapper":
        rule = getattr(optdsl.zoo, each.name)
    for inner in INNER if rule is None else ():
        title = f"{each.name}({inner})"
        with suppress(CompileError):
            rule = optdsl.compile_text(f"optimizer Drawn = {title}\n").Drawn
            break
    return title, rule if rule is not None and all(map(question, rule.program.inputs)) else None
