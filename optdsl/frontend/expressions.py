"""Expressions: names, operators, comparisons, shapes.

Relies on: core, emit. Does not do: calls (calls.py overrides `call`).
"""

from __future__ import annotations

import math
import re
from typing import NoReturn

from optdsl.diagnostics import Label, did_you_mean
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
from optdsl.ir.fold import host_text, is_const
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import Dim, DType, Instances, Place, Shape

SIZES = ("rows", "cols", "short", "long", "numel", "ndim")
RESERVED = frozenset({"p", "g", "t", "steps", *SIZES, "name", "workers", "rank"})
"""Names with a meaning of their own in every rule; only p and g are assigned."""

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
                return Dims(self.shape(shape))
        self.fail("E201", "this has no meaning here", expr.span)

    def call(self, call: ast.Call) -> Binding:
        raise AssertionError("calls.py defines it")

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
                help=f"give `{name}` a value before the branch",
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
            return self.emit.leaf("t", Instances.PARAM, Place.HOST, DType.INT)
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
        meant = did_you_mean(name, [*here, *RESERVED, "pi", "inf"])
        mend = f"did you mean `{meant}`?" if meant else None
        if self.frame.scope.find(name) is not None:
            mend = f"`{name}` is a function or rule; call it with ( )"
        elif self.frame.kind == "rule" and meant is None:
            mend = f"a value kept from step to step is declared with `state {name}`"
        self.fail("E202", f"`{name}` is not defined", span, "unknown name", help=mend)

    # ------------------------------------------------------------ operators

    def _unary(self, expr: ast.Unary) -> Binding:
        value = self.value(expr.operand)
        op = "not" if expr.op == "not" else "neg"
        if op == "not":
            self.need_condition(value, expr.operand.span)
        return self.emit.map(op, [value], expr.span)

    def _binary(self, expr: ast.Binary) -> Binding:
        left, right = self.value(expr.left), self.value(expr.right)
        if expr.op == "^":
            return self._power(left, right, expr)
        if expr.op == "@":
            inner = expr.left
            if isinstance(inner, ast.Binary) and inner.op in ("*", "/") and not inner.parenthesised:
                self._ambiguous_product(inner, expr)
            return self.emit.matmul(left, right, expr.span)
        if expr.op in ("and", "or"):
            for side, part in ((left, expr.left), (right, expr.right)):
                self.need_condition(side, part.span)
            constant, other = (left, right) if is_const(left) else (right, left)
            if is_const(constant):
                return other if bool(constant.attr("value")) is (expr.op == "and") else constant
        elif DType.BOOL in (left.type.dtype, right.type.dtype) and expr.op not in ("==", "!="):
            self.fail(
                "E309",
                "a condition is not a number",
                expr.span,
                help="write where(condition, 1, 0) to count with it",
            )
        return self.emit.map(_OPERATORS[expr.op], [left, right], expr.span)

    def _ambiguous_product(self, inner: ast.Binary, expr: ast.Binary) -> None:
        sides = [self.value(inner.left), self.value(inner.right)]
        if all(side.type.on_device and not side.type.shape.is_scalar for side in sides):
            self.fail(
                "E310",
                f"`a {inner.op} b @ c` on matrices needs parentheses",
                expr.span,
                help=f"write (a {inner.op} b) @ c or a {inner.op} (b @ c)",
            )

    def _power(self, base: Value, exponent: Value, expr: ast.Binary) -> Value:
        number = exponent.attr("value") if is_const(exponent) else None
        if base.type.on_device and isinstance(number, int) and abs(number) <= SMALL_POWER:
            result = self.emit.const(1, expr.span)
            for i in range(abs(number)):
                result = base if i == 0 else self.emit.map("mul", [result, base], expr.span)
            if isinstance(number, int) and number < 0:
                return self.emit.map("div", [self.emit.const(1), result], expr.span)
            return result
        return self.emit.map("pow", [base, exponent], expr.span)

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
        result: Value | None = None
        for left, op, right in zip(expr.operands, expr.ops, expr.operands[1:], strict=False):
            part = self._comparison(left, op, right, expr.span)
            result = part if result is None else self.emit.map("and", [result, part], expr.span)
        assert result is not None
        return result

    def _comparison(self, left: ast.Expr, op: str, right: ast.Expr, span: Span) -> Value:
        if op == "matches":
            return self._matches(left, right, span)
        if op == "in":
            choices = self.evaluate(right)
            items = choices if isinstance(choices, tuple) else (choices,)
            value, result = self.value(left), self.emit.const(False)
            for item in items:
                same = self.emit.map("eq", [value, self.as_value(item, right.span)], span)
                result = (
                    same
                    if is_const(result) and not result.attr("value")
                    else self.emit.map("or", [result, same], span)
                )
            return result
        a, b = self.value(left), self.value(right)
        strings = [side.type.dtype is DType.STRING for side in (a, b)]
        if any(strings) and not all(strings):
            self.fail("E302", "a string and a number cannot be compared", span)
        return self.emit.map(_OPERATORS[op], [a, b], span)

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
        if index.type.on_device:
            self.fail("E313", "an index is a host number", expr.index.span)
        return self.builder.make("index", (value, index), value.type.with_(shape=shape), expr.span)

    def entry_shape(self, value: Value, span: Span) -> Shape:
        """The shape of one entry along the first axis of `value`."""
        shape = value.type.shape
        if shape.lead:
            return Shape(shape.lead[1:], shape.rows, shape.cols)
        if shape.rows == 1:
            self.fail("E313", f"a value of shape {shape} cannot be indexed", span)
        return Shape((), shape.cols, 1) if shape.cols != 1 else Shape()

    # ------------------------------------------------------------ shapes

    def shape(self, shape: ast.Shape, new_axes: bool = False) -> Shape:
        """A written shape. With `new_axes` (in `input`) unknown names become named axes."""
        dims: list[Dim] = []
        star, named = False, 0
        for position, dim in enumerate(shape.dims):
            if isinstance(dim, ast.Star):
                if position != len(shape.dims) - 1 or dim.name not in ("p", "g"):
                    self.fail("E314", "`*p` stands last in a shape", dim.span)
                star = True
            elif (
                new_axes and isinstance(dim, ast.Name) and self._lookup(dim.name, dim.span) is None
            ):
                self.store[self.frame.local(dim.name)] = Symbol(dim.name, is_axis=True)
                dims.append(dim.name)
                named += 1
            else:
                dims.append(self.dim(dim))
                named += isinstance(dim, ast.Name) and (
                    dim.name == "workers"
                    or isinstance(self.read(self.frame.local(dim.name)), Symbol)
                )
        if star:
            full = self.emit.full
            return Shape((*dims, *full.lead), full.rows, full.cols)
        if named == len(dims) == 1:
            return Shape((dims[0],))
        padded = [*dims, 1, 1][: max(2, len(dims))]
        lead = tuple(padded[:-2])
        batched = self.emit.view == "last" and {"rows", "cols", "short", "long"} & set(padded[-2:])
        return Shape((*lead, "batch") if batched else lead, padded[-2], padded[-1])

    def dim(self, expr: ast.Expr) -> Dim:
        """One dimension: a literal, or a static host number by its text."""
        bound = self.evaluate(expr)
        if isinstance(bound, Symbol) and bound.is_axis:
            return bound.name
        value = self.as_value(bound, expr.span)
        if value.op == "workers":
            return value.op
        if not is_settled(value) or value.type.dtype in (DType.BOOL, DType.STRING):
            self.fail(
                "E314",
                "a size must be known when the parameter is added",
                expr.span,
                f"this is {value.type.describe()}",
                help="use sizes, integers and integer hyperparameters",
            )
        if is_const(value):
            number = value.attr("value")
            if number != number or number < 0 or number != int(min(number, 2**62)):
                self.fail("E314", "a size is a whole number", expr.span)
            return int(number)
        text = host_text(value)
        if value.op != "size":
            self.emit.dims[text] = value
        return text


def is_settled(value: Value) -> bool:
    """Whether a host value stays what it is once the parameter is added: made of literals, sizes,
    names, attributes and hyperparameters, which then are static: changing them is an error."""
    if value.type.on_device or value.op in ("t", "steps", "first", "to_host"):
        return False
    return all(is_settled(arg) for arg in value.args)
