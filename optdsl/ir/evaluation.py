"""`eval VALUE` between two steps: what p is in evaluation, from p and the states as they lie.

Input: a rule. Output: a rule of one output, the p for evaluation, that reads p and states alone.
Does not do: run it.

`eval` speaks of the end of a step, where a value may be what is about to be stored. Such a value is
read from where it was stored; whatever else the step worked out is gone.
"""

from __future__ import annotations

from dataclasses import replace

from optdsl.ir.nodes import Rule, Value
from optdsl.ir.rewrite import rewrite


class GoneError(Exception):
    """The value for evaluation needs `value`, which is not there after the step."""

    def __init__(self, value: Value) -> None:
        super().__init__(value)
        self.value = value


def evaluation_of(rule: Rule) -> Rule | None:
    """The rule whose step gives p its value for evaluation; None where that is p itself.

    Raises GoneError where it cannot be had from p and the states.
    """
    if rule.evaluated is None:
        return None
    make, updates = rule.builder.make, rule.updates
    stored: dict[Value, Value] = {}
    for name, value in updates.items():
        state = rule.state(name)
        stored.setdefault(value, make("state", (), state.type, state.span, name=name))
    if rule.param is not None:
        stored[rule.param] = make("param", (), rule.param.type)

    def check(value: Value) -> Value:
        lost = value.op in ("grad", "input") or (value.op == "param" and rule.param is not None)
        if lost or (value.op == "state" and value.attr("name") in updates):
            raise GoneError(value)
        return value

    shown = rewrite(rule.builder, [rule.evaluated], check, stored)[rule.evaluated]
    if shown.op == "param":
        return None
    return replace(rule, param=shown, updates={}, reports={}, evaluated=None, reads_gradient=False)
