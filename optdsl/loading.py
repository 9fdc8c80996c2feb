"""`load`: from a rule file to optimizer classes, compiled once a machine.

Input: a path or a text. Output: a module with a class for each optimizer of the file.

The cache holds content under the hash of it: `<key>.json` says for a text (its name, what it may
import, the compiler) which modules it became and which imports it read; a module is a pair of
files named by their own hash (see `generated`). A file is written under another name and renamed,
so that it is whole or not there; what is damaged is made anew. Two processes that want the same
text at once take turns.

Relies on: compiler, generated. Does not do: compile C or Triton (the first step does).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from filelock import FileLock

from optdsl import generated
from optdsl.codegen.module import class_name
from optdsl.compiler import CompiledFile, compile_source
from optdsl.frontend.scope import Scope, read_source, standard_library
from optdsl.generated import intact, module_files, module_name, modules_folder
from optdsl.ir.text import rule_text
from optdsl.resources import PACKAGE, directory
from optdsl.runtime.program import TABLE_VERSION
from optdsl.source import Source
from optdsl.syntax import ast
from optdsl.version import VERSION

LOCK_SECONDS = 300  # a file of rules compiles in seconds; a lock that is held longer was left


def load(path: str | os.PathLike[str]) -> ModuleType:
    """The rules of a file, as a module with a class for each; compiled at most once.

        rules = optdsl.load("my_rule.opt")
        optimizer = rules.MyRule(model.parameters(), lr=1e-3)

    Raises CompileError where the file is wrong, OSError where it cannot be read, ValueError where
    it is not UTF-8.
    """
    file = Path(path)
    return load_source(read_source(file), file.absolute().parent)


def compile_text(text: str, name: str = "<text>") -> ModuleType:
    """As `load`, from a text; `name` stands in messages. A text cannot import files.

    Raises CompileError where the text is wrong.
    """
    return load_source(Source(name, text), None)


def load_source(source: Source, folder: Path | None) -> ModuleType:
    """The same for a source whose imports are relative to `folder` (None: it has none)."""
    where = modules_folder()
    key = _key(source, folder)
    entry = _read_entry(where / f"{key}.json", where)
    if entry is None:
        with FileLock(where / f"{key}.lock", timeout=LOCK_SECONDS):
            entry = _read_entry(where / f"{key}.json", where)
            if entry is None:
                entry = _build(source, folder, where, key)
    name = Path(source.name).stem.strip("<>")
    module = ModuleType(name or "text", entry["doc"])
    module.__file__ = source.name
    for rule, found in entry["rules"].items():
        inner = importlib.import_module(f"{generated.__name__}.{found}")
        for name in {rule, class_name(rule)}:  # `rules.lambda` cannot be written, lambda_ can
            setattr(module, name, getattr(inner, class_name(rule)))
    for wrapper in entry["wrappers"]:
        setattr(module, wrapper, Unwrapped(wrapper))
    module.__all__ = [*entry["rules"], *entry["wrappers"]]  # type: ignore[attr-defined]
    return module


class Unwrapped:
    """A wrapper of a file: no optimizer until it is given a rule, in a rule file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **named: Any) -> NoReturn:
        raise TypeError(
            f"{self.name} wraps a rule: write `optimizer NAME = {self.name}(AdamW)` in a rule file "
            "and use NAME"
        )

    def __repr__(self) -> str:
        return f"<wrapper {self.name}>"


# ---------------------------------------------------------------- the cache


def _key(source: Source, folder: Path | None) -> str:
    """What the result depends on but for the imported texts, which are in the entry."""
    parts = [source.name.rsplit("/", 1)[-1], str(folder), source.text, _compiler()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@cache
def _compiler() -> str:
    """This compiler: its version, and size and time of each of its files, so that an edit in a
    checkout counts."""
    roots = [PACKAGE, directory("grammar"), directory("templates")]
    files = sorted({each for root in roots for each in root.rglob("*") if _is_source(each)})
    facts = [(str(each), (each.stat().st_size, each.stat().st_mtime_ns)) for each in files]
    return f"{VERSION} {TABLE_VERSION} {hashlib.sha256(repr(facts).encode()).hexdigest()}"


def _is_source(path: Path) -> bool:
    return path.suffix in (".py", ".opt", ".lark", ".j2", ".c")


def _read_entry(path: Path, where: Path) -> dict[str, Any] | None:
    """An entry that is whole, whose modules are, and whose imports are as they were."""
    try:
        entry: dict[str, Any] = json.loads(path.read_text("utf-8"))
        imports, rules = entry["imports"].items(), entry["rules"].values()
        whole = isinstance(entry["doc"], str | None) and isinstance(entry["wrappers"], list)
        same = all(_hash_of(Path(file)) == digest for file, digest in imports)
        return entry if whole and same and all(intact(each, where) for each in rules) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _build(source: Source, folder: Path | None, where: Path, key: str) -> dict[str, Any]:
    """Compile the text and write what came of it; the entry last, when all it names is there."""
    compiled = compile_source(source, folder)
    entry = _entry(compiled, where)
    _write(where / f"{key}.json", json.dumps(entry, indent=1))
    return entry


def _entry(compiled: CompiledFile, where: Path) -> dict[str, Any]:
    rules = {}
    for each in compiled.rules:
        typed = rule_text(each.rule)
        rules[each.name] = name = module_name(each.text, typed)
        if not intact(name, where):
            python, rule = module_files(name, where)
            _write(rule, typed)
            _write(python, each.text)
    items = compiled.scope.own.values()
    imported = {Path(each).absolute() for each in _imported(compiled.scope)}
    return {
        "doc": compiled.scope.module.doc,
        "imports": {str(path): _hash_of(path) for path in sorted(imported)},
        "rules": rules,
        "wrappers": [each.name for each in items if isinstance(each, ast.Wrapper)],
    }


def _imported(scope: Scope) -> Iterator[str]:
    """The files that a file imports, directly and not."""
    for each in scope.imports:
        if each is not standard_library():
            yield each.module.span.source.name
            yield from _imported(each)


def _write(path: Path, text: str) -> None:
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
