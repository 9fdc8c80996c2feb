"""What all commands share of the outside: faults of the call, files, colours.

Input: paths as they were typed. Output: sources; files that are whole or not there.
Does not do: any command.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TextIO

from optdsl.diagnostics import did_you_mean
from optdsl.files import replace_file
from optdsl.source import Source


class Fault(Exception):
    """The call or the environment is wrong; one line says how. Exit status 2."""


def color_wanted(stream: TextIO) -> bool:
    """Colours are for terminals, unless `NO_COLOR` is set (no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def read_file(typed: str) -> Source:
    """The rule file at a path. Raises Fault where it cannot be read, or is not UTF-8."""
    path = Path(typed)
    try:
        return Source(typed, path.read_bytes().decode("utf-8").replace("\r\n", "\n"))
    except FileNotFoundError:
        raise Fault(f"{typed}: no such file{_near(path)}") from None
    except OSError as error:
        raise Fault(f"{typed}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise Fault(f"{typed}: not UTF-8 (byte {error.start})") from None
    except ValueError as error:  # a NUL in the path
        raise Fault(f"{typed!r}: {error}") from None


def _near(path: Path) -> str:
    with contextlib.suppress(OSError):
        meant = did_you_mean(path.name, (each.name for each in path.parent.glob("*.opt")))
        return f"; did you mean {path.parent / meant}?" if meant else ""
    return ""


def write_file(path: Path, text: str) -> None:
    """As `replace_file`, but for a file that is read-only. Raises Fault where `path` cannot be
    written."""
    try:
        if path.is_file() and not os.access(path, os.W_OK):
            raise PermissionError(0, "it is read-only")
        replace_file(path, text)
    except OSError as error:
        raise Fault(f"{path}: cannot be written: {error.strerror or error}") from None
