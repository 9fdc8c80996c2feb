"""All pictures of the gallery: each rule's paths and losses at the best learning rate of a sweep.

Input: shipped rules. Output: PNG files. Relies on: paths, training, pictures, zoo. Does not do:
pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optdsl.zoo
from optdsl.gallery.pages import Shipped, has_pictures
from optdsl.gallery.paths import FUNCTIONS, best_path
from optdsl.gallery.pictures import curves, overview, sheet
from optdsl.gallery.training import best_curve, tasks


def draw(rules: Sequence[Shipped], folder: Path) -> None:
    """Draws paths/NAME.png and losses/NAME.png for each rule that can be drawn and has none yet,
    and paths/overview.png, with a progress bar. Raises ImportError without the extra `demo`."""
    from rich.progress import track

    usual = {task.name: best_curve(optdsl.zoo.AdamW, task) for task in tasks()}
    first = {}
    for each in track([each for each in rules if each.drawn], description="drawing"):
        rule = getattr(optdsl.zoo, each.name)
        first[each.name] = best_path(rule, FUNCTIONS[0])
        if has_pictures(folder, each.name):
            continue
        found = {function.name: best_path(rule, function) for function in FUNCTIONS}
        sheet(each.name, found, folder / "paths" / f"{each.name}.png")
        trained = {task.name: best_curve(rule, task) for task in tasks()}
        curves(each.name, trained, usual, folder / "losses" / f"{each.name}.png")
    overview(first, folder / "paths" / "overview.png")
