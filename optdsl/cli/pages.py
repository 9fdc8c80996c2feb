"""`optdsl zoo pages`: the gallery as Markdown and pictures.

Input: a folder. Output: zoo.md, zoo/NAME.md, and on demand zoo/paths/NAME.png, zoo/losses/NAME.png.
Relies on: gallery. Does not do: anything of what it writes.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from optdsl.cli.terminal import Fault, write_file
from optdsl.gallery.pages import has_pictures, pages, read_checks, shipped_rules


def write(options: argparse.Namespace) -> None:
    """Writes all pages; of pictures only those that are asked for. Raises Fault."""
    folder = Path(options.output or "docs")
    rules = shipped_rules()
    if options.pictures:
        try:  # here: pages alone need no torch
            drawing = importlib.import_module("optdsl.gallery.drawing")
            drawing.draw(rules, folder / "zoo")
        except ImportError as error:
            if (error.name or "optdsl").startswith("optdsl"):
                raise
            raise Fault(f"pictures need {error.name}: pip install 'optdsl[demo]'") from None
    drawn = [each.name for each in rules if has_pictures(folder / "zoo", each.name)]
    (folder / "zoo").mkdir(parents=True, exist_ok=True)
    count = 0
    for name, text in pages(rules, drawn, read_checks(folder / "zoo")):
        write_file(folder / name, text)
        count += 1
    print(f"{folder / 'zoo.md'} and {count - 1} pages: written")
