"""one_update: every update of p in a step as one subtraction, p - d.

Input: the new p of a straight variant. Output: p - d with the same meaning, or the value as it was
where p is not a small change of itself (`p = slow`).

Why: `p *= 1 - lr*wd` with 1 - lr*wd rounded to float32 is a bias of up to 3e-8 of p at each step;
over 200 steps of AdamW the error is 1.3e-4 of the total update instead of 1.2e-5, and in bfloat16
the decay vanishes. In p - d the factor lr*wd is small and exact to 24 bits, and p is rounded once.

Relies on: nothing. Does not do: factors of other values.
"""

from __future__ import annotations

from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Builder, Value, reachable
from optdsl.passes.algebra import Algebra


def one_update(builder: Builder, new_p: Value) -> Value:
    """`new_p` as p - d, where it is one."""
    algebra = Algebra(builder, new_p.span)
    d = _change(algebra, new_p, {})
    param = next((each for each in reachable([new_p]) if each.op == "param"), None)
    if d is None or param is None or algebra.is_number(d, 0):
        return new_p
    result = algebra.make("sub", param, d)
    result.name = result.name or new_p.name
    if result.span is None:
        result.span = new_p.span
    return result


def _change(algebra: Algebra, value: Value, done: dict[Value, Value | None]) -> Value | None:
    """d with value = p - d, None where there is none of this form."""
    if value not in done:
        algebra.span = value.span or algebra.span
        done[value] = _change_of(algebra, value, done)
    return done[value]


def _change_of(algebra: Algebra, value: Value, done: dict[Value, Value | None]) -> Value | None:
    if value.op == "param":
        return algebra.const(0)
    if value.op == "sub":
        left = _change(algebra, value.args[0], done)
        return None if left is None else algebra.add(left, value.args[1])
    if value.op == "add":
        for here, other in (value.args, value.args[::-1]):
            d = _change(algebra, here, done)
            if d is not None:
                return algebra.sub(d, other)
        return None
    if value.op in ("mul", "div"):
        return _scaled(algebra, value, done)
    return None


def _scaled(algebra: Algebra, value: Value, done: dict[Value, Value | None]) -> Value | None:
    """p' * (1 - h) = p - (d + h p') and p' / (1 + h) = p - (d + h/(1+h) p'), p' = p - d."""
    sides = [value.args] if value.op == "div" else [value.args, value.args[::-1]]
    for here, factor in sides:
        if factor.type.on_device or not here.type.on_device:
            continue
        h = _small_part(algebra, factor, value.op)
        d = None if h is None else _change(algebra, here, done)
        if h is not None and d is not None:
            return algebra.add(algebra.mul(h, here), d)
    return None


def _small_part(algebra: Algebra, factor: Value, op: str) -> Value | None:
    """h of a factor 1 - h (or 1 + h), or of a divisor 1 + h as h / (1 + h)."""
    if factor.op not in ("sub", "add") or not is_const(factor.args[0]):
        return None
    if factor.args[0].attr("value") != 1:
        return None
    h = factor.args[1]
    if op == "div":
        h = algebra.neg(h) if factor.op == "sub" else h
        return algebra.div(h, factor)
    return h if factor.op == "sub" else algebra.neg(h)
