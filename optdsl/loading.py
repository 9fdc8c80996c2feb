"""`load`: from a rule file to optimizer classes, compiled once a machine.

Input: a path or a text. Output: a module with a class for each optimizer of the file. What a text
became is found again by its name, what it may import, and the compiler.

Relies on: compiler, cache, generated. Does not do: compile C or Triton (the first step does).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from optdsl import generated
from optdsl.cache import Entry, hash_of, keep
from optdsl.cache import entry as cached
from optdsl.codegen.module import class_name
from optdsl.compiler import CompiledFile, compile_source
from optdsl.frontend.scope import Scope, read_source, standard_library
from optdsl.ir.text import rule_text
from optdsl.source import Source
from optdsl.syntax import ast


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
    name = source.name.rsplit("/", 1)[-1]
    entry = cached(
        [name, str(folder), source.text],
        lambda where: _entry(compile_source(source, folder), where),
    )
    name = Path(source.name).stem.strip("<>")
    module = ModuleType(name or "text", entry["doc"])
    module.__file__ = source.name
    for rule, found in entry["modules"].items():
        inner = importlib.import_module(f"{generated.__name__}.{found}")
        for name in {rule, class_name(rule)}:  # `rules.lambda` cannot be written, lambda_ can
            setattr(module, name, getattr(inner, class_name(rule)))
    for wrapper in entry["wrappers"]:
        setattr(module, wrapper, Unwrapped(wrapper))
    module.__all__ = [*entry["modules"], *entry["wrappers"]]  # type: ignore[attr-defined]
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


def _entry(compiled: CompiledFile, where: Path) -> Entry:
    modules = {
        each.name: keep(each.text, rule_text(each.rule, sources=True), where)
        for each in compiled.rules
    }
    items = compiled.scope.own.values()
    imported = {Path(each).absolute() for each in _imported(compiled.scope)}
    return {
        "doc": compiled.scope.module.doc,
        "imports": {str(path): hash_of(path) for path in sorted(imported)},
        "modules": modules,
        "wrappers": [each.name for each in items if isinstance(each, ast.Wrapper)],
    }


def _imported(scope: Scope) -> Iterator[str]:
    """The files that a file imports, directly and not."""
    for each in scope.imports:
        if each is not standard_library():
            yield each.module.span.source.name
            yield from _imported(each)
