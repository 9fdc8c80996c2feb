"""Names of rules and functions: the file, its imports, the standard library, the shipped rules.

Input: a rule file. Output: a `Scope` that finds an item by name. Relies on: the parser.
Does not do: names inside bodies (elaborate), anything with the items found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from optdsl.diagnostics import CompileError, Sink
from optdsl.source import Source
from optdsl.syntax import ast
from optdsl.syntax.parser import parse

IMPORT_DEPTH = 32
"""Imports nest at most this deep; a longer chain is a cycle."""


@dataclass
class Scope:
    """The items that a file sees. `module` is the file itself, `imports` its imports in order."""

    module: ast.Module
    imports: tuple[Scope, ...] = ()
    own: dict[str, ast.Item] = field(default_factory=dict)

    def find(self, name: str) -> tuple[ast.Item, Scope] | None:
        """The item of that name and the scope that its own names are looked up in."""
        found = self._find_here(name)
        if found is not None:
            return found
        std = standard_library()
        if name in std.own:
            return std.own[name], std
        return shipped(name)

    def _find_here(self, name: str) -> tuple[ast.Item, Scope] | None:
        if name in self.own:
            return self.own[name], self
        for each in self.imports:
            found = each._find_here(name)
            if found is not None:
                return found
        return None

    def names(self) -> Iterator[str]:
        """All names in reach, for `did you mean`."""
        yield from self.own
        for each in self.imports:
            yield from each.names()
        yield from standard_library().own
        yield from shipped_names()

    def functions(self) -> Iterator[str]:
        """The names of functions in reach: shipped files keep theirs to themselves."""
        for name in self.names():
            found = self._find_here(name) or standard_library()._find_here(name)
            if found is not None and isinstance(found[0], ast.Def | ast.Transform):
                yield name


def read_source(path: Path) -> Source:
    """The text of a rule file. Raises OSError; ValueError, in one line, where it is not UTF-8."""
    data = path.read_bytes()
    try:
        return Source(str(path), data.decode("utf-8").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start})") from None


def make_scope(source: Source, sink: Sink, directory: Path | None = None, depth: int = 0) -> Scope:
    """Parse `source` and what it imports; imports are relative to `directory`."""
    module = parse(source, sink)
    imports = []
    for each in module.imports:
        found = _import(each, sink, directory, depth)
        if found is not None:
            imports.append(found)
    own: dict[str, ast.Item] = {}
    for item in module.items:
        if item.name in own:
            sink.error(
                "E210",
                f"`{item.name}` is defined twice",
                item.name_span,
                "again here",
                help=f"the first is at {own[item.name].name_span}; rename one of them",
            )
        else:
            own[item.name] = item
    return Scope(module, tuple(imports), own)


def _import(each: ast.Import, sink: Sink, directory: Path | None, depth: int) -> Scope | None:
    if directory is None:
        sink.error("E211", "a text without a file cannot import", each.path_span)
        return None
    if depth >= IMPORT_DEPTH:
        sink.error("E211", "imports form a cycle", each.path_span)
        return None
    path = directory / each.path
    try:
        source = read_source(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        sink.error("E211", f"cannot import `{each.path}`: {reason}", each.path_span)
        return None
    return make_scope(source, sink, path.parent, depth + 1)


@cache
def standard_library() -> Scope:
    return _shipped_file(resources.files("optdsl") / "std" / "std.opt", "std.opt")


def zoo_folder() -> Path:
    return Path(str(resources.files("optdsl") / "zoo"))


@cache
def shipped_index() -> dict[str, Path]:
    """Which shipped file defines which rule; file names say nothing of the rules inside.

    Read off the lines that begin in the first column: to parse all files takes 60 ms, at every
    use of a name that neither the file nor the standard library defines.
    """
    index: dict[str, Path] = {}
    for path in sorted(zoo_folder().glob("*.opt")):
        rules = re.findall(r"^(?:optimizer|wrapper) +(\w+) *[(=]", path.read_text("utf-8"), re.M)
        index.update((name, path) for name in rules if name not in index)
    return index


@cache
def shipped_file(path: Path) -> Scope:
    return _shipped_file(path, path.name)


def shipped_names() -> Iterator[str]:
    yield from shipped_index()


def shipped(name: str) -> tuple[ast.Item, Scope] | None:
    path = shipped_index().get(name)
    if path is None:
        return None
    scope = shipped_file(path)
    return scope.own[name], scope


def _shipped_file(path: object, name: str) -> Scope:
    sink = Sink()
    text = path.read_text("utf-8")  # type: ignore[attr-defined]
    scope = make_scope(Source(name, text), sink, Path(str(path)).parent)
    if sink.has_errors:
        raise CompileError(sink.diagnostics)
    return scope
