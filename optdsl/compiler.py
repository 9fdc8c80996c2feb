"""The pipeline, from the text of a rule file to Python modules.

    parse            text -> tree                       every syntax error, imports too
    lower            tree -> typed rule                 names, types; functions inlined
    split_variants   rule -> straight variants          one for each way host conditions fall
    lay_blocks       variants -> variants               and those whose rows are blocks
    add_evaluation   variants -> variants               and those that evaluate
    one_update       variants -> variants               p's updates as one subtraction
    pull_factors     variants -> variants               sums freed of factors they need not wait for
    hoist_scalars    variants -> variants               products with host numbers gathered
    find_levels      variants -> levels                 the stage at which each value is there
    choose_passes    levels -> choices                  what is stored, reduced, recomputed where
    build            choices -> plan                    passes over memory
    render           plan -> text                       the module that a user imports

Input: a `Source` and the folder that its imports are relative to. Output: `CompiledRule`s.
Relies on: frontend, schedule, codegen. Does not do: read or write files, import torch.

An observer sees what each stage leaves, under the names above. With `OPTDSL_VERIFY=1` the rule is
checked between stages: a fault is an InternalError.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optdsl.codegen.module import TARGETS, python_module
from optdsl.diagnostics import CompileError, Diagnostic, Sink
from optdsl.frontend.check import check_scope
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import Scope, make_scope
from optdsl.ir.nodes import Rule
from optdsl.ir.verify import verify_rule, verify_values
from optdsl.passes.variants import Split
from optdsl.schedule import make
from optdsl.schedule.make import make_plan
from optdsl.schedule.plan import Plan
from optdsl.schedule.planes import seen_by
from optdsl.schedule.storage import stored_as
from optdsl.source import Source
from optdsl.version import VERSION

PASSES = ("parse", "lower", *make.PASSES, "render")
"""The stages in order, by the names that `--dump-after` takes."""

Stored = str | Mapping[str, str] | None
"""A storage for all states of p's size, or by key; None: as the rule says."""

Observer = Callable[[str, str, object], None]
"""`observe(stage, rule, result)`; `rule` is empty for `parse`."""


@dataclass(frozen=True)
class CompiledRule:
    """One rule. `text` is the Python module that holds its class, of the same name."""

    name: str
    rule: Rule
    plan: Plan
    text: str


@dataclass(frozen=True)
class CompiledFile:
    """The rules of one file, in its order, and the warnings about it. `scope` has its imports."""

    source: Source
    scope: Scope
    rules: tuple[CompiledRule, ...]
    warnings: tuple[Diagnostic, ...]


def ignore(stage: str, rule: str, result: object) -> None:
    """The observer that looks at nothing."""


def compile_source(
    source: Source,
    directory: Path | None = None,
    names: tuple[str, ...] | None = None,
    command: str = "",
    observe: Observer = ignore,
    targets: Sequence[str] = TARGETS,
    storage: Stored = None,
) -> CompiledFile:
    """Compile the rules of `source`, or those called `names` (KeyError if one is not there), with
    kernels for `targets` and states stored as `storage` says.

    Raises CompileError with all errors of the file; without a `directory` imports are errors.
    ValueError for a storage that a rule cannot have.
    """
    sink = Sink()
    scope = make_scope(source, sink, directory)
    observe("parse", "", scope.module)
    check_scope(scope, sink)
    sink.check()
    rules: list[CompiledRule] = []
    faults: list[Diagnostic] = []
    for name in rule_names(scope) if names is None else names:
        try:
            rules.append(compile_rule(scope, name, command, observe, targets, storage))
        except CompileError as error:
            faults.extend(error.diagnostics)
    if faults:
        raise CompileError([*faults, *sink.diagnostics])
    return CompiledFile(source, scope, tuple(rules), sink.diagnostics)


def compile_rule(
    scope: Scope,
    name: str,
    command: str = "",
    observe: Observer = ignore,
    targets: Sequence[str] = TARGETS,
    storage: Stored = None,
) -> CompiledRule:
    """Compile one rule of a file that was parsed. Raises CompileError, KeyError for a name that the
    file does not have, ValueError for a `storage` that the rule cannot have."""
    sink = Sink()
    rule = lower_rule(name, scope, sink)
    sink.check()
    assert rule is not None, "a rule without errors was not lowered"
    if storage is not None:
        rule = stored_as(rule, storage)
    watch = _watched(rule, observe)
    watch("lower", rule)
    plan = make_plan(rule, watch)
    text = python_module(plan, version=VERSION, command=command, targets=targets)
    watch("render", text)
    return CompiledRule(name, rule, plan, text)


def _watched(rule: Rule, observe: Observer) -> Callable[[str, object], None]:
    """`observe` for one rule, which is checked after each stage if that is asked for."""
    checked = os.environ.get("OPTDSL_VERIFY") == "1"

    def watch(stage: str, result: object) -> None:
        if checked and isinstance(result, Rule):
            verify_rule(result, stage)
        if checked and isinstance(result, Split):
            for variant in result.variants:
                shared = [value for _, value in variant.contributions.values()]
                verify_values(seen_by(rule, variant), [*variant.outputs.values(), *shared], stage)
        observe(stage, rule.name, result)

    return watch
