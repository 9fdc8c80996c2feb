"""The reports of `optdsl explain FILE`.

Input: the command's options. Output: a report for each rule. Relies on: compiler, explain.
"""

from __future__ import annotations

import argparse

from optdsl.cli.rules import find_target, pick, read_storage
from optdsl.cli.terminal import Fault
from optdsl.compiler import compile_rule
from optdsl.copied import told
from optdsl.diagnostics import Sink
from optdsl.explain import SHAPE, Report, explain_plan
from optdsl.frontend.check import check_scope
from optdsl.frontend.rules import rule_names
from optdsl.frontend.scope import make_scope


def reports(options: argparse.Namespace) -> list[Report]:
    """A report for each rule that is meant. Raises CompileError, Fault."""
    target = find_target(options.subject, options.rule)
    sink = Sink()
    scope = make_scope(target.source, sink, target.folder)
    check_scope(scope, sink)
    sink.check()
    shape = options.shape or SHAPE
    try:
        storage = None if options.storage is None else read_storage(options.storage)
        found = []
        for name in pick(target, rule_names(scope)):
            plan = compile_rule(scope, name, storage=storage).plan
            other = None if storage is None else told(compile_rule(scope, name).plan, storage)
            found.append(explain_plan(plan, shape, other))
    except ValueError as error:
        raise Fault(str(error)) from None
    return found
