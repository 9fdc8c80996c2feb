"""All pictures of the gallery: each rule's paths at the best learning rate of a sweep.

Input: shipped rules. Output: PNG files. Relies on: paths, pictures, zoo. Does not do: pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optdsl.zoo
from optdsl.gallery.pages import Shipped
from optdsl.gallery.paths import FUNCTIONS, best_path
from optdsl.gallery.pictures import overview, sheet


def draw(rules: Sequence[Shipped], folder: Path) -> None:
    """Draws NAME.png for each rule that a target runs, and overview.png, with a progress bar.
    Raises ImportError without rich or matplotlib."""
    from rich.progress import track

    first = {}
    runs = [each for each in rules if each.report is not None]
    for each in track(runs, description="drawing"):
        rule = getattr(optdsl.zoo, each.name)
        found = {function.name: best_path(rule, function) for function in FUNCTIONS}
        sheet(each.name, found, folder / f"{each.name}.png")
        first[each.name] = found[FUNCTIONS[0].name]
    overview(first, folder / "overview.png")
