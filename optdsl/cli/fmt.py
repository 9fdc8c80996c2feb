"""`optdsl fmt`: the canonical layout of rule files.

Input: paths, or `-` for stdin. Output: the files rewritten, or with --check a list of those that
would be. Relies on: syntax.layout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from optdsl.cli.terminal import Fault, color_wanted, read_file, write_file
from optdsl.diagnostics import CompileError, render_text
from optdsl.source import Source
from optdsl.syntax.layout import format_module

EXAMPLES = """\
Meaning and comments stay as they are. A file with syntax errors is left alone.

examples:
  optdsl fmt rules/*.opt
  optdsl fmt --check rules/*.opt      status 1 where a file would be changed
  optdsl fmt - < my_rule.opt          from stdin to stdout
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a rule file; - is stdin")
    parser.add_argument("--check", action="store_true", help="change nothing, only report")


def run(options: argparse.Namespace) -> int:
    status = 0
    for typed in options.files:
        source = _stdin() if typed == "-" else read_file(typed)
        try:
            text = format_module(source)
        except CompileError as error:
            print(render_text(error.diagnostics, color_wanted(sys.stderr)), file=sys.stderr)
            status = 1
            continue
        if options.check:
            if text != source.text:
                print(f"{source.name}: would be changed")
                status = 1
        elif typed == "-":
            print(text, end="")
        elif Path(typed).read_bytes() != text.encode():
            write_file(Path(typed), text)
            print(f"{source.name}: changed")
    return status


def _stdin() -> Source:
    try:
        return Source("<stdin>", sys.stdin.buffer.read().decode("utf-8").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        raise Fault(f"stdin: not UTF-8 (byte {error.start})") from None
