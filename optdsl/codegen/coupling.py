"""The statements that tie parameters together, so that none of them can step before the others.

Input: a typed rule. Output: a sentence for each such statement, with its place: what an optimizer
says when it is asked to step each parameter in the backward pass (runtime/release.py).

Relies on: the op table. Does not do: the work of these statements.
"""

from __future__ import annotations

from collections.abc import Iterator

from optdsl.codegen.body import place
from optdsl.ir.nodes import Rule, Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.passes.variants import EVALUATIONS
from optdsl.source import Span
from optdsl.types import Instances


def coupled(rule: Rule) -> tuple[str, ...]:
    """What of `rule` needs more than one parameter and its gradient, in the order of the text."""
    found = list(dict.fromkeys(_coupled(rule)))
    return tuple(f"{said} ({place(span)})" if span else said for span, said in found)


def _coupled(rule: Rule) -> Iterator[tuple[Span | None, str]]:
    if not rule.reads_gradient:
        yield None, "no gradient is read"
    for state in (*rule.states, *rule.host_states):
        if state.type.instances < Instances.PARAM:
            whole = "each group" if state.type.instances is Instances.GROUP else "the model"
            yield state.span, f"the state `{state.name}` is one for {whole}"
    for given in rule.inputs:
        yield given.span, f"`{given.name}` comes with each step"
    roots = [value for _, value in rule.outputs()]
    for value in reachable([*roots, *rule.host_updates.values()]):
        if OPS[value.op].kind is Kind.REDUCE and value.attr("over") is not None:
            whole = "the group" if value.attr("over") == "group" else "the model"
            yield value.span, f"{_quoted(value)} takes in all parameters of {whole}"
        elif value.op in EVALUATIONS:
            yield value.span, f"{_quoted(value)} evaluates the model"
        elif any(arg.op == "steps" for arg in value.args):
            yield value.span, "`steps` counts the steps of the group"


def _quoted(value: Value) -> str:
    """What was written, on one line."""
    return f"`{' '.join(value.span.text.split())}`" if value.span else f"`{value.op}`"
