"""Values that tie parameters together: reductions over them, evaluations of the model, collectives.

Input: values of a rule. Output: which of them do, and which of those change from one pass of a loop
to the next, so that all parameters pass through the loop together. Relies on: the op table.
Does not do: the work of such a value.
"""

from __future__ import annotations

from collections.abc import Iterable

from optdsl.ir.nodes import LoopBody, Value, operands, reachable
from optdsl.ops import OPS, Kind

EVALUATIONS = frozenset({"loss_at", "grad_at"})
"""Evaluations of the model: one for all parameters that execute the statement."""


def couples(value: Value) -> bool:
    """Whether the value of one parameter needs those of others: its operands after the first are
    then the conditions of its statement."""
    kind = OPS[value.op].kind
    return kind is Kind.CLOSURE or (kind is Kind.REDUCE and value.attr("over") is not None)


def device_operands(value: Value) -> tuple[Value, ...]:
    """What the text of a device value is made of; a host value is one number, whatever that is
    made of."""
    if not value.type.on_device:
        return ()
    return value.args[:1] if couples(value) else value.args


def ends_of(loop: Value) -> tuple[Value, ...]:
    """What each pass of a loop works out."""
    body: LoopBody = loop.attr("body")
    return (*body.results, *(() if body.until is None else (body.until,)))


def changing(loop: Value) -> set[Value]:
    """The values that change from one pass of `loop` to the next, in loops within it too."""
    values = reachable(ends_of(loop))
    loops, inside = [loop], set[Value]()
    while loops:
        bodies: list[LoopBody] = [each.attr("body") for each in loops]
        inside |= {arg for body in bodies for arg in (*body.args, body.index) if arg is not None}
        new = []
        for value in values:
            if value not in inside and any(each in inside for each in operands(value)):
                inside.add(value)
                new.append(value)
        loops = [value for value in new if value.op == "loop"]
    return inside


def in_loops(roots: Iterable[Value]) -> set[Value]:
    """The values under `roots` that change from one pass of some loop to the next."""
    loops = [value for value in reachable(roots) if value.op == "loop"]
    return {each for loop in loops for each in changing(loop)}


def rank(value: Value) -> int | None:
    """The place, among all that ties parameters together in loops, of `value`, or of the first such
    value in the loop `value`; None where there is none. In the variants of a rule, where
    split_variants gave it, the same in all of them."""
    if value.op == "loop":
        body: LoopBody = value.attr("body")
        return body.rank
    return dict(value.attrs).get("rank") if couples(value) else None


def identity(value: Value) -> object:
    """What a loop, or what has a rank in one, has in common with the same of other variants."""
    if value.op == "loop":
        body: LoopBody = value.attr("body")
        return body.index
    return rank(value)
