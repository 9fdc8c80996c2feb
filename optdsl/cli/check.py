"""`optdsl check`: the errors and warnings of rule files.

Input: paths. Output: diagnostics on stdout. Relies on: frontend.check.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from optdsl.cli.terminal import color_wanted, read_file
from optdsl.diagnostics import Diagnostic, render_json, render_text
from optdsl.frontend.check import check

EXAMPLES = """\
All errors of all files come in one run; a warning alone is no failure.

examples:
  optdsl check rules/*.opt
  optdsl check my_rule.opt --format json     for editors: lines and columns from 1
  optdsl explain E301                        what a code means
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a rule file")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to print (default: text)"
    )


def run(options: argparse.Namespace) -> int:
    sources = [(read_file(typed), Path(typed).parent) for typed in options.files]
    found = [each for source, folder in sources for each in check(source, folder)]
    errors = sum(each.severity == "error" for each in found)
    if options.format == "json":
        print(render_json(found))
    else:
        if found:
            print(render_text(found, color_wanted(sys.stdout)), end="\n\n")
        print(_summary(found, errors, len(sources)))
    return 1 if errors else 0


def _summary(found: list[Diagnostic], errors: int, files: int) -> str:
    counts = [_count(errors, "error"), _count(len(found) - errors, "warning")]
    what = ", ".join(each for each in counts if not each.startswith("0")) or "no errors"
    return f"{_count(files, 'file')} checked: {what}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
