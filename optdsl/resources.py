"""Where the files that are not Python lie: `grammar/`, `templates/`, and the user's cache.

Input: a folder's name. Output: its path. A wheel carries the folders inside the package; in a
checkout (and an editable install of one) they stand beside it.
Does not do: read them.
"""

from __future__ import annotations

import os
from pathlib import Path

from optdsl.diagnostics import InternalError

PACKAGE = Path(__file__).resolve().parent


def directory(name: str) -> Path:
    """The folder `name` ("grammar" or "templates") of this installation.

    A folder beside the package counts only next to this project's `pyproject.toml`: beside an
    installed package lie other packages, and a `templates` there would be somebody else's.
    Raises InternalError if there is none, that is, if the installation is broken.
    """
    inside, beside = PACKAGE / name, PACKAGE.parent / name
    if inside.is_dir():
        return inside
    if beside.is_dir() and (PACKAGE.parent / "pyproject.toml").is_file():
        return beside
    raise InternalError("resources", f"the folder `{name}` is missing from {PACKAGE}")


def cache_directory() -> Path | None:
    """A folder that only this user can write, for files that are loaded back unchecked.

    `$OPTDSL_CACHE`, else `$XDG_CACHE_HOME/optdsl`, else `~/.cache/optdsl`; made if need be. None
    if it cannot be made, or if another user could have put something there.
    """
    base = os.environ.get("OPTDSL_CACHE") or os.environ.get("XDG_CACHE_HOME")
    try:
        path = Path(base) if base else Path.home() / ".cache"
        if not os.environ.get("OPTDSL_CACHE"):
            path /= "optdsl"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except (OSError, RuntimeError):  # read-only, or no home at all
        return None
    private = status.st_uid == os.getuid() and not status.st_mode & 0o022
    return path if private and os.access(path, os.W_OK) else None
