"""pull_factors: a sum of products gives up the factors that are constant along it.

Input: values of a straight variant. Output: values of equal meaning in which `dot(p / norm(p),
d)` is `dot(p, d) / norm(p)`: the sum no longer waits for the norm, and one pass over memory is
saved (AdamP: three passes and 48 bytes a parameter become two and 40).

Only factors that themselves wait for a reduction are pulled; only products, quotients and
magnitudes are looked into (`norm(g - c * p)` is never expanded: that would cancel).
Error: one rounding of the factor's product instead of one per element: at most 1 ulp more.
Relies on: nothing. Does not do: maxima; factors known before the step.
"""

from __future__ import annotations

from optdsl.ir.nodes import Builder, Value, reachable
from optdsl.ir.rewrite import rewrite
from optdsl.ops import OPS, Kind
from optdsl.passes.algebra import Algebra
from optdsl.types import BATCH, Instances


def pull_factors(builder: Builder, roots: list[Value]) -> dict[Value, Value]:
    """What each value under `roots` becomes."""
    algebra = Algebra(builder)

    def step(value: Value) -> Value:
        if value.op != "sum":
            return value
        algebra.span = value.span
        factor, core = _split(algebra, value.args[0], value)
        if factor is None or core is None:
            return value
        rest = value.args[1:]
        inner = builder.make("sum", (core, *rest), value.type, value.span, **dict(value.attrs))
        return algebra.make("mul", inner, factor)

    return rewrite(builder, roots, step)


def _split(algebra: Algebra, value: Value, total: Value) -> tuple[Value | None, Value | None]:
    """`value` as factor times core, either of which may be missing (1)."""
    if _constant_along(value, total):
        return (value, None) if _waits(value) else (None, value)
    if value.op == "mul":
        (fa, ca), (fb, cb) = (_split(algebra, arg, total) for arg in value.args)
        return _times(algebra, fa, fb), _times(algebra, ca, cb)
    if value.op == "abs":
        parts = _split(algebra, value.args[0], total)
        if parts[0] is not None:
            factor, core = (None if each is None else algebra.make("abs", each) for each in parts)
            return factor, core
    if value.op == "div":
        numerator, divisor = value.args
        factor, core = _split(algebra, numerator, total)
        if _constant_along(divisor, total) and _waits(divisor):
            over = algebra.const(1.0) if factor is None else factor
            return algebra.make("div", over, divisor), core
        if factor is not None:
            top = algebra.const(1.0) if core is None else core
            return factor, algebra.make("div", top, divisor)
    return None, value


def _times(algebra: Algebra, a: Value | None, b: Value | None) -> Value | None:
    if a is None or b is None:
        return b if a is None else a
    return algebra.make("mul", a, b)


def _constant_along(value: Value, total: Value) -> bool:
    """Whether `value` is the same for all elements that `total` sums."""
    axis, over = total.attr("axis"), total.attr("over")
    shape = value.type.shape
    if over is not None:
        limit = Instances.RUN if over == "all" else Instances.GROUP
        if value.type.instances > limit:
            return False
    if axis == ():
        return True
    if axis in (0, 1):
        return (shape.rows if axis == 0 else shape.cols) == 1
    if axis is not None:
        return axis not in shape.lead
    return shape.rows == shape.cols == 1 and BATCH not in shape.lead


def _waits(value: Value) -> bool:
    """Whether `value` is worked out from a reduction."""
    return any(
        OPS[each.op].kind is Kind.REDUCE or each.op == "result" for each in reachable([value])
    )
