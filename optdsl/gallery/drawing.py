"""All pictures of the gallery: each rule's paths and losses at the best learning rate of a sweep.

Input: shipped rules. Output: PNG files. Relies on: paths, training, pictures, zoo. Does not do:
pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optdsl.zoo
from optdsl.gallery.pages import KINDS, Shipped
from optdsl.gallery.paths import FUNCTIONS, best_path
from optdsl.gallery.pictures import curves, overview, sheet
from optdsl.gallery.training import best_curve, tasks


def draw(rules: Sequence[Shipped], folder: Path) -> None:
    """Draws paths/NAME.png and losses/NAME.png where a rule can be drawn and the file is not there,
    and paths/overview.png, with a progress bar. Raises ImportError without the extra `demo`."""
    from rich.progress import track

    usual = {task.name: best_curve(optdsl.zoo.AdamW, task) for task in tasks()}
    first = {}
    for each in track([each for each in rules if each.drawn], description="drawing"):
        rule = getattr(optdsl.zoo, each.name)
        paths, losses = (folder / kind / f"{each.name}.png" for kind in KINDS)
        found = {FUNCTIONS[0].name: best_path(rule, FUNCTIONS[0])}
        first[each.name] = found[FUNCTIONS[0].name]
        if not paths.exists():
            found |= {function.name: best_path(rule, function) for function in FUNCTIONS[1:]}
            sheet(each.name, found, paths)
        if not losses.exists():
            trained = {task.name: best_curve(rule, task) for task in tasks()}
            curves(each.name, trained, usual, losses)
    overview(first, folder / "paths" / "overview.png")
