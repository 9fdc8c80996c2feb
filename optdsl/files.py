"""Files that are written as a whole or not at all.

Input: a path and a text. Output: the file. Relies on: renaming within a folder.
Does not do: say to a user what went wrong (cli/terminal.py). The runtime, which may stand alone,
has its own for libraries (runtime/native.py).
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Writes `text` to a temporary file beside `path`, and renames it.

    A link stays a link, a file keeps its mode. Raises OSError where it cannot be written, with what
    was there left as it was.
    """
    target = path.resolve() if path.is_symlink() else path
    mode = _mode_of(target)
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _mode_of(target: Path) -> int:
    """The mode of the file that is replaced, else that of a new file."""
    try:
        status = target.stat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(0, "not a regular file")
    return stat.S_IMODE(status.st_mode)
