"""The package that generated modules live in: `optdsl.generated.m<hash>`.

Input: the name of a module, which is the hash of its files in the cache. Output: the module, with
what needs its rule at hand: the interpreter, and plans for a storage that somebody chose when an
optimizer was made. Its name says all, so that a pickled optimizer finds its class in another
process, as long as the cache (see `resources.cache_directory`) keeps it.

Relies on: cache, ir.reading, interpreter, schedule, codegen. Does not do: rule files (loading).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch

from optdsl import interpreter
from optdsl.cache import entry, intact, keep, module_files, modules_folder
from optdsl.codegen.module import python_module
from optdsl.ir.nodes import Rule
from optdsl.ir.reading import read_rule
from optdsl.ir.text import rule_text
from optdsl.runtime.optimizer import Optimizer
from optdsl.runtime.program import Program
from optdsl.runtime.reference import Interpreter
from optdsl.schedule.make import make_plan
from optdsl.types import Storage
from optdsl.version import VERSION

__path__: list[str] = []  # modules are found by name, below, not in a folder

PREFIX = f"{__name__}."


class Reference:
    """The interpreter of one rule, which is read when the first step needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rule: Rule | None = None

    def __call__(
        self,
        members: Sequence[Any],
        dtype: torch.dtype,
        closure: interpreter.Closure | None = None,
    ) -> interpreter.Outcome:
        return interpreter.run(self._read(), members, dtype, closure)

    def evaluate(
        self,
        members: Sequence[Any],
        dtype: torch.dtype,
        closure: interpreter.Closure | None = None,
    ) -> interpreter.Outcome:
        return interpreter.evaluate(self._read(), members, dtype)

    def _read(self) -> Rule:
        if self.rule is None:
            self.rule = read_rule(self.path.read_text("utf-8"))
        return self.rule


class Replans:
    """Programs of the rule at `path` whose plans are made for a storage of its states."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: dict[tuple[tuple[str, str], ...], Program] = {}

    def __call__(self, storage: Mapping[str, str]) -> Program:
        chosen = tuple(sorted(storage.items()))
        if chosen not in self.made:
            parts = [self.path.stem, *map(str, chosen)]
            found = entry(parts, lambda where: self._make(storage, where))
            (name,) = found["modules"].values()
            self.made[chosen] = importlib.import_module(PREFIX + name).PROGRAM
        return self.made[chosen]

    def _make(self, storage: Mapping[str, str], where: Path) -> dict[str, Any]:
        rule = read_rule(self.path.read_text("utf-8"))
        states = tuple(
            replace(each, storage=Storage(storage.get(each.name, each.storage)))
            for each in rule.states
        )
        rule = replace(rule, states=states)
        text = python_module(make_plan(rule), version=VERSION)
        return {"imports": {}, "modules": {rule.name: keep(text, rule_text(rule), where)}}


class _Loader(Loader):
    """Runs a module from the cache and hangs what needs the rule onto its classes."""

    def __init__(self, inner: Loader, rule: Path) -> None:
        self.inner = inner
        self.rule = rule

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__:
                assert issubclass(value, Optimizer)
                value.interpreter = cast(Interpreter, Reference(self.rule))
                value.replanned = Replans(self.rule)

    def get_source(self, fullname: str) -> str | None:
        return self.inner.get_source(fullname)  # type: ignore[attr-defined,no-any-return]


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX):
            return None
        name = fullname.removeprefix(PREFIX)
        folder = modules_folder()
        if not intact(name, folder):
            raise ModuleNotFoundError(
                f"{fullname} is not in the cache ({folder}); load its rule file anew before "
                "what was pickled",
                name=fullname,
            )
        python, rule = module_files(name, folder)
        spec = spec_from_file_location(fullname, python)
        assert spec is not None and spec.loader is not None
        spec.loader = _Loader(spec.loader, rule)
        return spec


sys.meta_path.insert(0, _Finder())
