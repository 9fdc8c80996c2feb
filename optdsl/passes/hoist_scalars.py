"""hoist_scalars: products with host numbers gathered, so that each value is multiplied once.

Input: values of a straight variant. Output: values of equal meaning in which `lr * (m / c1) / d` is
`(lr / c1) * (m / d)`: the number is worked out once, in double, and a division by a number is a
multiplication.

Error: a factor worked out in double and rounded once, then one multiplication: 1 ulp, where the
operations as written had 0.5 ulp each. The factor is a float32: a product of host numbers beyond
1e38 or below 1e-38 leaves its range, where the operations one by one may not.
Relies on: nothing. Does not do: sums; values on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optdsl.ir.nodes import Builder, Value
from optdsl.ir.rewrite import rewrite
from optdsl.passes.algebra import Algebra, is_size


@dataclass(frozen=True)
class _Scaled:
    """`row * size * core`, of which the first two are host numbers."""

    row: Value
    size: Value
    core: Value


def hoist_scalars(builder: Builder, roots: list[Value]) -> dict[Value, Value]:
    """What each value under `roots` becomes."""
    algebra = Algebra(builder)
    scaled: dict[Value, _Scaled] = {}

    def split(value: Value) -> _Scaled:
        return scaled.get(value) or _Scaled(algebra.const(1), algebra.const(1), value)

    def step(value: Value) -> Value:
        algebra.span = value.span
        parts = _product(algebra, value, split)
        if parts is None:
            return _simple(algebra, value)
        result = algebra.mul(parts.row, algebra.mul(parts.size, parts.core))
        scaled[result] = parts
        return result

    return rewrite(builder, roots, step)


def _host(algebra: Algebra, value: Value) -> tuple[Value, Value]:
    """A host number as row part times size part."""
    if is_size(value) and value.op != "const":
        return algebra.const(1), value
    if value.op in ("mul", "div") and any(is_size(a) and a.op != "const" for a in value.args):
        parts = [_host(algebra, arg) for arg in value.args]
        combine = algebra.mul if value.op == "mul" else algebra.div
        return combine(parts[0][0], parts[1][0]), combine(parts[0][1], parts[1][1])
    return value, algebra.const(1)


def _product(algebra: Algebra, value: Value, split: Callable[[Value], _Scaled]) -> _Scaled | None:
    if not value.type.on_device:
        return None
    if value.op == "neg":
        parts = split(value.args[0])
        if algebra.is_number(parts.row, 1) and algebra.is_number(parts.size, 1):
            return None
        return _Scaled(algebra.neg(parts.row), parts.size, parts.core)
    if value.op not in ("mul", "div"):
        return None
    left, right = value.args
    if not right.type.on_device:
        row, size = _host(algebra, right)
        parts = split(left)
        combine = algebra.mul if value.op == "mul" else algebra.div
        return _Scaled(combine(parts.row, row), combine(parts.size, size), parts.core)
    if not left.type.on_device:
        if value.op == "div":
            return None
        row, size = _host(algebra, left)
        parts = split(right)
        return _Scaled(algebra.mul(row, parts.row), algebra.mul(size, parts.size), parts.core)
    a, b = split(left), split(right)
    if value.op == "mul":
        return _Scaled(
            algebra.mul(a.row, b.row),
            algebra.mul(a.size, b.size),
            algebra.make("mul", a.core, b.core),
        )
    core = algebra.make("div", a.core, right)  # a factor below may be a guarded divisor; it stays
    return _Scaled(a.row, a.size, core)


def _simple(algebra: Algebra, value: Value) -> Value:
    if not value.type.on_device:
        return value
    if value.op == "add":
        return algebra.add(*value.args)
    if value.op == "sub":
        return algebra.sub(*value.args)
    return value
