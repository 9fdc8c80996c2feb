"""The shipped rules for the tests of all that comes after them, and which of them are fast.

Every test of a target runs over every shipped rule. Eighty of them would take the fast suite many
minutes, so those of CORE run always, and the others where `-m slow` asks for them. What is cheap
(the published values, layout, text forms, passes and bytes) runs over all of them always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from optdsl.diagnostics import CompileError, Sink
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import make_scope, read_source, shipped_index, zoo_folder
from optdsl.ir.coupling import EVALUATIONS
from optdsl.ir.nodes import Rule, reachable
from optdsl.schedule.make import check_supported, make_plan
from optdsl.schedule.plan import Plan

CORE = {
    "Adafactor", "Adam", "AdamW", "ClippedLion", "LAMB", "LayerwiseSGD", "Lion", "LookaheadAdamW",
    "Muon", "SGD", "SGDSaI", "SWAN",
}  # fmt: skip
"""One or two of each kind: element-wise, reducing in and over parameters, matrices, routes,
wrappers, attributes, branches on the host."""


def marked(names: Iterable[str]) -> list[Any]:
    """Names of rules, or `file/rule`, as arguments of a test: those outside CORE are slow."""
    return [
        name if name.split("/")[-1] in CORE else pytest.param(name, marks=pytest.mark.slow)
        for name in names
    ]


def marked_files() -> list[Any]:
    """The shipped files that targets compile, as arguments of a test: those without a rule of CORE
    are slow."""
    fast = {path for name, path in shipped_index().items() if name in CORE}
    none = {path for name, path in shipped_index().items() if name in interpreted()}
    return [
        path if path in fast else pytest.param(path, marks=pytest.mark.slow)
        for path in sorted(zoo_folder().glob("*.opt"))
        if path not in none
    ]


def rules_of(path: Path) -> dict[str, Rule]:
    """The rules of a file that become classes, by name."""
    sink = Sink()
    scope = make_scope(read_source(path), sink, path.parent)
    lowered = {name: lower_rule(name, scope, sink) for name in rule_names(scope)}
    sink.check()
    return {name: rule for name, rule in lowered.items() if rule is not None}


@cache
def shipped_rules() -> dict[str, Rule]:
    """Every shipped rule that becomes a class, by name."""
    found: dict[str, Rule] = {}
    for path in sorted(zoo_folder().glob("*.opt")):
        found |= rules_of(path)
    return found


@cache
def interpreted() -> dict[str, str]:
    """The shipped rules that the tests of targets leave to others, each with the construct that it
    needs: mostly since only the interpreter runs it."""
    found = {}
    for name, rule in shipped_rules().items():
        try:
            check_supported(rule)
        except CompileError as error:
            found[name] = error.diagnostics[0].message
        # What the tests that run over all rules do not supply; test_inputs.py and test_model.py of
        # tests/runtime do.
        if rule.inputs:
            found[name] = "an input"
        if any(v.op in EVALUATIONS for v in reachable(v for _, v in rule.outputs())):
            found[name] = "the model"
    return found


@cache
def shipped_plans() -> dict[str, Callable[[], Plan]]:
    """A function that makes the plan, for each shipped rule that a target runs."""
    return {
        name: cache(partial(make_plan, rule))
        for name, rule in shipped_rules().items()
        if name not in interpreted()
    }
