"""What an optimizer of a rule cannot be asked for, and the statements that are in the way.

Input: a typed rule. Output: a sentence for each such statement, with its place: `coupled` those
that tie parameters together, so that none can step before the others (runtime/release.py), and
`unpaired` the first that makes no sense of a complex parameter as pairs
(runtime/parameters/pairs.py), `whole` the first that a part of a parameter is not enough for
(runtime/parameters/shards.py).

Relies on: the op table, domains of a plan. Does not do: the work of these statements.
"""

from __future__ import annotations

from collections.abc import Iterator

from optdsl.codegen.body import place
from optdsl.ir.coupling import EVALUATIONS
from optdsl.ir.nodes import Rule, Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.schedule.plan import Domain, domain_of
from optdsl.source import Span
from optdsl.types import Instances

Found = Iterator[tuple[Span | None, str]]

PAIRED = frozenset({Domain.FULL, Domain.TENSOR, Domain.GROUP, Domain.ALL})
"""The domains that know no rows and columns, so that the last dimension may be twice as long."""
EXTENTS = frozenset({"rows", "cols", "short", "long", "batch"})


def coupled(rule: Rule) -> tuple[str, ...]:
    """What of `rule` needs more than one parameter and its gradient."""
    return _placed(_coupled(rule))


def unpaired(rule: Rule) -> str:
    """The first thing in `rule` that is neither element by element nor of a whole parameter."""
    return next(iter(_placed(_unpaired(rule))), "")


def whole(rule: Rule) -> str:
    """The first thing in `rule` that needs all elements of a parameter together."""
    return next(iter(_placed(_whole(rule))), "")


def _placed(found: Found) -> tuple[str, ...]:
    texts = [f"{said} ({place(span)})" if span else said for span, said in found]
    return tuple(dict.fromkeys(texts))


def _coupled(rule: Rule) -> Found:
    if not rule.reads_gradient:
        yield None, "no gradient is read"
    for state in (*rule.states, *rule.host_states):
        if state.type.instances < Instances.PARAM:
            whole = "each group" if state.type.instances is Instances.GROUP else "the model"
            yield state.span, f"the state `{state.name}` is one for {whole}"
    for given in rule.inputs:
        yield given.span, f"`{given.name}` comes with each step"
    for value in _values(rule):
        if OPS[value.op].kind is Kind.REDUCE and value.attr("over") is not None:
            whole = "the group" if value.attr("over") == "group" else "the model"
            yield value.span, f"{_quoted(value)} takes in all parameters of {whole}"
        elif value.op in EVALUATIONS:
            yield value.span, f"{_quoted(value)} evaluates the model"
        elif any(arg.op == "steps" for arg in value.args):
            yield value.span, "`steps` counts the steps of the group"


def _unpaired(rule: Rule) -> Found:
    for given in rule.inputs:
        yield given.span, f"`{given.name}` comes with each step"
    for value in _values(rule):
        kind = OPS[value.op].kind
        if value.op in EVALUATIONS:
            yield value.span, f"{_quoted(value)} evaluates the model"
        elif kind is Kind.RANDOM:
            yield value.span, f"{_quoted(value)} is drawn"
        elif kind is Kind.MATRIX:
            yield value.span, f"{_quoted(value)} works on a matrix"
        elif kind is Kind.REDUCE and value.attr("axis") is not None:
            yield value.span, f"{_quoted(value)} goes along an axis"
        elif any(arg.op == "size" and arg.attr("name") in EXTENTS for arg in value.args):
            yield value.span, f"{_quoted(value)} reads rows and columns"
    for state in rule.states:
        if domain_of(state.type, rule.view) not in PAIRED:
            yield state.span, f"the state `{state.name}` is no number and not of p's shape"


def _whole(rule: Rule) -> Found:
    yield from _unpaired(rule)
    for value in _values(rule):
        if OPS[value.op].kind is Kind.REDUCE:
            yield value.span, f"{_quoted(value)} takes in all elements of a parameter"
        elif any(arg.op == "size" for arg in value.args):
            yield value.span, f"{_quoted(value)} reads a size"


def _values(rule: Rule) -> list[Value]:
    roots = [value for _, value in rule.outputs()]
    return reachable([*roots, *rule.host_updates.values()])


def _quoted(value: Value) -> str:
    """What was written, on one line."""
    return f"`{' '.join(value.span.text.split())}`" if value.span else f"`{value.op}`"
