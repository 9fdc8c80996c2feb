"""All errors and warnings of a rule file in one run.

Input: a source and the folder that its imports are relative to. Output: diagnostics, by position.
Relies on: lowering for rules (a wrapper around a stand-in), resolve for names elsewhere.
Does not do: what a target cannot run (the schedule says so when the file is compiled).
"""

from __future__ import annotations

from pathlib import Path

from optdsl.diagnostics import Diagnostic, Sink
from optdsl.frontend.resolve import resolve
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import Scope, make_scope
from optdsl.source import Source
from optdsl.syntax import ast

UNKNOWN = frozenset({"E206", "E207"})
"""After a syntax error these may only mean that the error hid an item."""


def check(source: Source, directory: Path | None = None) -> tuple[Diagnostic, ...]:
    """Everything that is wrong or odd in `source`; without a `directory` it cannot import."""
    sink = Sink()
    check_scope(make_scope(source, sink, directory), sink)
    return sink.diagnostics


def check_scope(scope: Scope, sink: Sink) -> None:
    """The same for a file that was parsed, with the errors of that in `sink` already."""
    if not sink.has_errors:
        _check_items(scope, sink)
        return
    # What a syntax error left of its item would give errors that are none.
    broken = [each.span for each in sink.diagnostics]
    whole = {
        name: item
        for name, item in scope.own.items()
        if not any(
            span.source == item.span.source and item.span.start <= span.start <= item.span.end
            for span in broken
        )
    }
    rest = Sink()
    _check_items(Scope(scope.module, scope.imports, whole), rest)
    for diagnostic in rest.diagnostics:
        if diagnostic.code not in UNKNOWN:
            sink.add(diagnostic)


def _check_items(scope: Scope, sink: Sink) -> None:
    for name, item in scope.own.items():
        if isinstance(item, ast.Optimizer | ast.Wrapper | ast.Alias):
            lower_rule(name, scope, sink)
    resolve(scope, sink)
