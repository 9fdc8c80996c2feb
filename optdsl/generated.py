"""The package that generated modules live in: `optdsl.generated.m<hash>`.

Input: the name of a module, which is the hash of its files in the cache. Output: the module, with
the reference interpreter at hand. Its name says all, so that a pickled optimizer finds its class
in another process, as long as the cache (see `resources.cache_directory`) keeps it.

Relies on: ir.reading, interpreter. Does not do: generate anything (`loading` does).
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch

from optdsl import interpreter
from optdsl.ir.nodes import Rule
from optdsl.ir.reading import read_rule
from optdsl.resources import cache_directory
from optdsl.runtime.optimizer import Optimizer
from optdsl.runtime.reference import Interpreter

__path__: list[str] = []  # modules are found by name, below, not in a folder

PREFIX = f"{__name__}."


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


class _Loader(Loader):
    """Runs a module from the cache and hangs the interpreter onto its classes."""

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
