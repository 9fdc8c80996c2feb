"""Expressions: names, operators, comparisons, shapes.

Relies on: core, emit. Does not do: calls (calls.py overrides `call`).
"""

from __future__ import annotations

import math
import re
from typing import NoReturn

from optdsl.diagnostics import Label
from optdsl.frontend.bindings import (
    NONE,
    Binding,
    Dims,
    Poison,
    Reported,
    RuleRef,
    Symbol,
    Undefined,
)
from optdsl.frontend.core import Core, P
from optdsl.frontend.guesses import mend_of
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import DType, Instances, Place, Shape

SIZES = ("rows", "cols", "short", "long", "numel", "ndim")
RESERVED = frozenset({"p", "g", "t", "steps", *SIZES, "name", "workers", "rank"})
"""Names with a meaning of their own in every rule; only p and g are assigned."""
HIDDEN = frozenset({"steps", "workers", "rank"})
"""Those that a parameter may be called, which then hides the meaning: newton_schulz(x, steps)."""

_OPERATORS = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floordiv",
    "%": "mod",
    "and": "and",
    "or": "or",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "==": "eq",
    "!=": "ne",
}
_KINDS = {DType.STRING: "a string", DType.BOOL: "a condition"}
_CONSTANTS = {"inf": math.inf, "pi": math.pi}
SMALL_POWER = 4
"""x^n with an integer literal of at most this size is written as multiplications."""


class Expressions(Core):
    def evaluate(self, expr: ast.Expr) -> Binding:
        """What `expr` stands for. Raises Reported."""
        match expr:
            case ast.Number(value=number):
                return self.emit.const(number, expr.span)
            case ast.Bool(value=flag):
                return self.emit.const(flag, expr.span)
            case ast.String(value=text):
                return self.emit.const(text, expr.span)
            case ast.NoneLiteral():
                return NONE
            case ast.Name(name=name):
                return self.name(name, expr.span)
            case ast.Unary():
                return self._unary(expr)
            case ast.Binary():
                return self._binary(expr)
            case ast.Compare():
                return self._compare(expr)
            case ast.Call():
                return self.call(expr)
            case ast.Index():
                return self._index(expr)
            case ast.Transpose(base=base):
                value = self.value(base)
                if not value.type.on_device:
                    self.fail("E303", "a host number has no transpose", expr.span)
                return self.emit.shaped(
                    "transpose", [value], value.type.shape.transposed(), expr.span
                )
            case ast.Tuple(items=items):
                return tuple(self.evaluate(item) for item in items)
            case ast.ShapeLiteral(shape=shape):
                return Dims(self.shape(shape, "known"))
        self.fail("E201", "this has no meaning here", expr.span)

    def call(self, call: ast.Call) -> Binding:
        raise AssertionError("calls.py defines it")

    def shape(self, shape: ast.Shape, axes: str = "none") -> Shape:
        raise AssertionError("shapes.py defines it")

    def value(self, expr: ast.Expr) -> Value:
        """`expr` as a value. Raises Reported, silently where an error was reported before."""
        return self.as_value(self.evaluate(expr), expr.span)

    def as_value(self, bound: Binding, span: Span) -> Value:
        if isinstance(bound, Value):
            return bound
        if isinstance(bound, Poison):
            raise Reported
        if isinstance(bound, Symbol) and bound.is_axis:
            return self.emit.leaf(
                "lead_size", Instances.RUN, Place.HOST, DType.INT, name=bound.name
            )
        kind = (
            "a tuple"
            if isinstance(bound, tuple)
            else (f"`{bound.name}`" if isinstance(bound, Symbol) else "this")
        )
        if isinstance(bound, RuleRef):
            kind = f"the rule `{bound.item.name}`"
        self.fail("E308", f"{kind} is not a value", span, "a number or tensor is wanted here")

    # ------------------------------------------------------------ names

    def name(self, name: str, span: Span) -> Binding:
        bound = self._lookup(name, span)
        if bound is None:
            self._undefined(name, span)
        if isinstance(bound, Undefined):
            self.fail(
                "E203",
                f"`{name}` may have no value here",
                span,
                bound.why,
                Label(bound.span, "decided here"),
                help=bound.mend or f"give `{name}` a value before the branch",
            )
        if isinstance(bound, Poison):
            raise Reported
        return bound

    def _lookup(self, name: str, span: Span) -> Binding | None:
        bound = self.read(self.frame.local(name))
        if bound is not None:
            return bound
        if name in ("p", "g"):
            self._not_in_def(name, span)
            return self.read(P if name == "p" else self.frame.rule.gradient)
        if name == "t":
            leaf = self.emit.leaf("t", Instances.PARAM, Place.HOST, DType.INT)
            return self.frame.rule.run or leaf
        if name == "steps":
            return self.emit.leaf("steps", Instances.GROUP, Place.HOST, DType.INT)
        if name in SIZES:
            return self.emit.size(name)
        if name in ("workers", "rank"):
            return self.emit.leaf(name, Instances.RUN, Place.HOST, DType.INT)
        if name in _CONSTANTS:
            return self.emit.const(_CONSTANTS[name], span)
        if name in ("all", "group"):
            return Symbol(name)
        if name == "none":
            return NONE
        return None

    def _not_in_def(self, name: str, span: Span) -> None:
        if self.frame.kind == "def":
            self.fail(
                "E204",
                f"`{name}` is not in reach inside a `def`",
                span,
                help=f"make it a parameter of the function and pass `{name}`",
            )

    def _undefined(self, name: str, span: Span) -> NoReturn:
        here = [key[2] for key in self.store if key[0] == "local" and key[1] == self.frame.number]
        is_item = self.frame.scope.find(name) is not None
        mend = mend_of(name, [*here, *RESERVED], self.frame.item, is_item)
        self.fail("E202", f"`{name}` is not defined", span, "unknown name", help=mend)

    # ------------------------------------------------------------ operators

    def _unary(self, expr: ast.Unary) -> Binding:
        value = self.value(expr.operand)
        op = "not" if expr.op == "not" else "neg"
        if op == "not":
            self.need_condition(value, expr.operand.span)
        else:
            self._need_number(value, expr.operand.span)
        return self.emit.map(op, [value], expr.span)

    def _binary(self, expr: ast.Binary) -> Binding:
        left, right = self.value(expr.left), self.value(expr.right)
        if expr.op == "^":
            return self._power(left, right, expr)
        if expr.op == "@":
            inner = expr.left
            if isinstance(inner, ast.Binary) and inner.op in ("*", "/") and not inner.parenthesised:
                self._ambiguous_product(left, inner.op, expr)
            return self.emit.matmul(left, right, expr.span)
        if expr.op in ("and", "or"):
            for side, part in ((left, expr.left), (right, expr.right)):
                self.need_condition(side, part.span)
            if expr.op == "and":
                return self._both(left, right, expr.span)
            for constant, other in ((left, right), (right, left)):
                if is_const(constant):
                    return constant if constant.attr("value") else other
        else:
            self._need_number(left, expr.left.span)
            self._need_number(right, expr.right.span)
        return self.emit.map(_OPERATORS[expr.op], [left, right], expr.span)

    def _ambiguous_product(self, product: Value, op: str, expr: ast.Binary) -> None:
        if all(side.type.on_device and not side.type.shape.is_scalar for side in product.args):
            self.fail(
                "E310",
                f"`a {op} b @ c` on matrices needs parentheses",
                expr.span,
                help=f"write (a {op} b) @ c or a {op} (b @ c)",
            )

    def _power(self, base: Value, exponent: Value, expr: ast.Binary) -> Value:
        for side, part in ((base, expr.left), (exponent, expr.right)):
            self._need_number(side, part.span)
        number = exponent.attr("value") if is_const(exponent) else None
        if base.type.on_device and isinstance(number, int) and abs(number) <= SMALL_POWER:
            result = self.emit.const(1, expr.span)
            for i in range(abs(number)):
                result = base if i == 0 else self.emit.map("mul", [result, base], expr.span)
            if number == 0:
                return self.emit.broadcast(result, base.type, expr.span)
            if number < 0:
                return self.emit.map("div", [self.emit.const(1), result], expr.span)
            return result
        return self.emit.map("pow", [base, exponent], expr.span)

    def _need_number(self, value: Value, span: Span) -> None:
        if value.type.dtype is DType.BOOL:
            self.fail(
                "E309",
                "a condition is not a number",
                span,
                help="write where(condition, 1, 0) to count with it",
            )

    def need_condition(self, value: Value, span: Span) -> None:
        if value.type.dtype is not DType.BOOL:
            self.fail(
                "E311",
                "a condition is wanted here",
                span,
                "this is a number",
                help="compare it, e.g. x > 0",
            )

    def _compare(self, expr: ast.Compare) -> Binding:
        """A chain: `a < b < c` is a < b and b < c, with b worked out once."""
        known: dict[int, Value] = {}
        result: Value | None = None
        for k, op in enumerate(expr.ops):
            part = self._comparison(expr, k, op, known)
            result = part if result is None else self._both(result, part, expr.span)
        assert result is not None
        return result

    def _both(self, left: Value, right: Value, span: Span) -> Value:
        for constant, other in ((left, right), (right, left)):
            if is_const(constant):
                return other if constant.attr("value") else constant
        return self.emit.map("and", [left, right], span)

    def _comparison(self, expr: ast.Compare, k: int, op: str, known: dict[int, Value]) -> Value:
        """The comparison of operands k and k + 1."""
        left, right = expr.operands[k : k + 2]
        if op == "matches":
            return self._matches(left, right, expr.span)
        if op == "in":
            return self._is_one_of(left, right, expr.span)
        for number, side in ((k, left), (k + 1, right)):
            if number not in known:
                known[number] = self.value(side)
        a, b = known[k], known[k + 1]
        if op not in ("==", "!="):
            self._need_number(a, left.span)
            self._need_number(b, right.span)
        for kind in (DType.STRING, DType.BOOL):
            if (a.type.dtype is kind) is not (b.type.dtype is kind):
                texts = [_KINDS.get(side.type.dtype, "a number") for side in (a, b)]
                self.fail("E302", f"{texts[0]} cannot be compared with {texts[1]}", expr.span)
        return self.emit.map(_OPERATORS[op], [a, b], expr.span)

    def _is_one_of(self, left: ast.Expr, right: ast.Expr, span: Span) -> Value:
        choices = self.evaluate(right)
        items = choices if isinstance(choices, tuple) else (choices,)
        value, result = self.value(left), self.emit.const(False)
        for item in items:
            same = self.emit.map("eq", [value, self.as_value(item, right.span)], span)
            if is_const(result):
                result = result if result.attr("value") else same
            else:
                result = self.emit.map("or", [result, same], span)
        return result

    def _matches(self, left: ast.Expr, right: ast.Expr, span: Span) -> Value:
        if not (isinstance(left, ast.Name) and left.name == "name"):
            self.fail(
                "E302",
                "`matches` tests the parameter's name",
                left.span,
                help='write name matches "bias"',
            )
        pattern = self.value(right)
        if not is_const(pattern) or pattern.type.dtype is not DType.STRING:
            self.fail("E302", "a pattern is a string literal", right.span)
        try:
            re.compile(pattern.attr("value"))
        except (re.error, RecursionError, OverflowError) as error:
            self.fail("E312", f"not a regular expression: {error}", right.span)
        return self.emit.leaf(
            "name_matches", Instances.PARAM, Place.STATIC, DType.BOOL, pattern=pattern.attr("value")
        )

    def _index(self, expr: ast.Index) -> Binding:
        base = self.evaluate(expr.base)
        index = self.value(expr.index)
        if isinstance(base, tuple):
            number = index.attr("value") if is_const(index) else None
            if not isinstance(number, int) or not -len(base) <= number < len(base):
                self.fail(
                    "E313",
                    f"a tuple of {len(base)} is indexed by a literal from 0 to {len(base) - 1}",
                    expr.index.span,
                )
            return base[number]
        value = self.as_value(base, expr.base.span)
        shape = self.entry_shape(value, expr.base.span)
        self.need_entry(value, index, expr.index.span)
        return self.builder.make("index", (value, index), value.type.with_(shape=shape), expr.span)

    def need_entry(self, value: Value, index: Value, span: Span) -> None:
        """`index` must be a host number, and within the first axis as far as is known here."""
        if index.type.on_device or index.type.dtype in (DType.BOOL, DType.STRING):
            self.fail("E313", "an index is a host number", span)
        if index.op == "to_host":
            message = "an index is known before the step, not read from a tensor"
            self.fail("E313", message, span, help="`take` and `put` go by tensors")
        if not is_const(index):
            return
        number, size = index.attr("value"), value.type.shape.dims[0]
        known = size if isinstance(size, int) else math.inf
        if not (0 <= number < known and number == int(number)):
            self.fail("E313", f"an axis of {size} has no entry {number}", span, help="from 0")

    def entry_shape(self, value: Value, span: Span) -> Shape:
        """The shape of one entry along the first axis of `value`."""
        shape = value.type.shape
        if shape.lead:
            return Shape(shape.lead[1:], shape.rows, shape.cols)
        if shape.rows == 1:
            self.fail("E313", f"a value of shape {shape} cannot be indexed", span)
        return Shape((), shape.cols, 1) if shape.cols != 1 else Shape()
