"""What was compiled, kept on disk under the hash of what it was made of.

An entry, `<key>.json`, says which modules something became, and which files it read on the way. A
module is a pair of files that are named by their own hash: Python, and the typed rule it was made
of. A file is written under another name and renamed, so that it is whole or not there; what is
damaged is made anew. Two processes that want the same entry at once take turns.

Relies on: resources, version. Does not do: compile (loading, generated), import (generated).
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from optdsl.files import replace_file
from optdsl.resources import PACKAGE, cache_directory, directory
from optdsl.runtime.program import TABLE_VERSION
from optdsl.version import VERSION

LOCK_SECONDS = 300  # a file of rules compiles in seconds; a lock that is held longer was left

Entry = dict[str, Any]
"""`modules`: the modules by the names of rules; `imports`: files that were read, with the hashes of
what they held; and what else the maker of it wants."""


@cache
def modules_folder() -> Path:
    """Where modules are kept: in the user's cache, else in a folder for this process alone."""
    found = cache_directory()
    if found is not None:
        folder = found / "rules"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
    own = Path(tempfile.mkdtemp(prefix="optdsl-"))  # mode 0700
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def module_name(text: str, rule_text: str) -> str:
    """The name of a module: the hash of its text and of its rule's."""
    digest = hashlib.sha256(f"{len(text)}\n{text}{rule_text}".encode()).hexdigest()
    return f"m{digest[:32]}"


def module_files(name: str, folder: Path) -> tuple[Path, Path]:
    """Where a module and its typed rule lie in the cache."""
    return folder / f"{name}.py", folder / f"{name}.ir"


def intact(name: str, folder: Path) -> bool:
    """Whether both files of a module are there and are what its name says."""
    try:
        text, rule_text = (path.read_bytes() for path in module_files(name, folder))
        return module_name(text.decode(), rule_text.decode()) == name
    except (OSError, UnicodeDecodeError):
        return False


def entry(parts: Sequence[str], make: Callable[[Path], Entry]) -> Entry:
    """The entry of what was made of `parts`, by this compiler; `make(folder)` makes it where there
    is none, or it, its modules or what it imports are not as they were."""
    where = modules_folder()
    key = hashlib.sha256(json.dumps([*parts, compiler()]).encode()).hexdigest()[:32]
    path = where / f"{key}.json"
    found = _read(path, where)
    if found is None:
        with FileLock(where / f"{key}.lock", timeout=LOCK_SECONDS):
            found = _read(path, where)
            if found is None:
                found = make(where)
                replace_file(path, json.dumps(found, indent=1))
    return found


def keep(text: str, rule_text: str, where: Path) -> str:
    """Writes a module of `text`, made of the rule of `rule_text`; returns its name."""
    name = module_name(text, rule_text)
    if not intact(name, where):
        python, rule = module_files(name, where)
        replace_file(rule, rule_text)
        replace_file(python, text)
    return name


@cache
def compiler() -> str:
    """This compiler: its version, and size and time of each of its files, so that an edit in a
    checkout counts."""
    roots = [PACKAGE, directory("grammar"), directory("templates")]
    files = sorted({each for root in roots for each in root.rglob("*") if _is_source(each)})
    facts = [(str(each), (each.stat().st_size, each.stat().st_mtime_ns)) for each in files]
    return f"{VERSION} {TABLE_VERSION} {hashlib.sha256(repr(facts).encode()).hexdigest()}"


def _is_source(path: Path) -> bool:
    return path.suffix in (".py", ".opt", ".lark", ".j2", ".c")


def _read(path: Path, where: Path) -> Entry | None:
    """An entry that is whole, whose modules are, and whose imports are as they were."""
    try:
        found: Entry = json.loads(path.read_text("utf-8"))
        imports, modules = found["imports"].items(), found["modules"].values()
        same = all(hash_of(Path(file)) == digest for file, digest in imports)
        return found if same and all(intact(each, where) for each in modules) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
