"""What trials are about: shipped rules and those of a text, and tensors for them.

Relies on: the compiler. Does not do: run a trial.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from optdsl import interpreter
from optdsl.compiler import compile_source
from optdsl.frontend.scope import read_source, shipped_index
from optdsl.passes.variants import Split
from optdsl.source import Source
from optdsl.verify import LARGE, SHAPES, Subject
from tests.rules import interpreted, shipped_rules

SURROUNDED = {name for name, needs in interpreted().items() if needs in ("an input", "the model")}
COMPILED = sorted(shipped_rules().keys() - interpreted().keys() | SURROUNDED)
"""The shipped rules that targets run; SURROUNDED need inputs or a model."""
QUICK = tuple(shape for shape in SHAPES if shape != LARGE)
SMALL = ((), (0,), (17,), (3, 5), (8, 3, 3, 3))
"""For inputs of each sample, and for a model that is evaluated many times."""


@cache
def subject(name: str, text: str = "") -> Subject:
    """A shipped rule, or that of a text, with its class made of the module's text."""
    path = shipped_index().get(name, Path("text.opt"))
    source = Source("text.opt", text) if text else read_source(path)
    splits: list[Split] = []

    def observe(stage: str, rule: str, result: object) -> None:
        if isinstance(result, Split):
            splits.append(result)

    (found,) = compile_source(source, path.parent, (name,), observe=observe).rules
    made = _class(name, found.text)
    made.interpreter = lambda *args: interpreter.run(found.rule, *args)
    return Subject(found.rule, found.plan, splits[-1].variants, made)


def _class(name: str, text: str) -> Any:
    space: dict[str, Any] = {"__name__": f"generated_{name}"}
    exec(compile(text, f"{name}.py", "exec"), space)
    return space[name]
