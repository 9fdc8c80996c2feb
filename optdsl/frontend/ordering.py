"""Order statistics and gathers: sorting positions, entries along an axis, the k-th smallest.

Input: a call of one. Output: its value. Relies on: matrices. Does not do: what is composed of
these, such as a median or a permutation (std/std.opt).
"""

from __future__ import annotations

import math

from optdsl.frontend.arguments import Keywords
from optdsl.frontend.bindings import Binding, Dims
from optdsl.frontend.core import is_none
from optdsl.frontend.matrices import Matrices
from optdsl.frontend.selection import TAKEN_IN
from optdsl.ir.matrices import resized, without
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import BATCH, SCALAR, Axis, Dim, DType, Shape


class Ordering(Matrices):
    def _call_argsort(self, call: ast.Call) -> Binding:
        first = next((arg for arg in call.args if arg.name == "first"), None)
        args, named = self.arguments(call, 1, 1, frozenset({"axis", "first"}))
        value = self._tensor(args[0], call)
        dim = self._dim(named, call.span)
        count = None if first is None else self.dim(first.value)
        shape = resized(value.type.shape, dim, count)
        return self.emit.shaped("argsort", [value], shape, call.span, dim=dim, first=count)

    def _call_take(self, call: ast.Call) -> Binding:
        args, named = self.arguments(call, 2, 2, frozenset({"axis"}))
        value, places = self._tensor(args[0], call), self._tensor(args[1], call, number=True)
        dim = self._dim(named, call.span)
        count = self._count_of(places, call.span)
        shape = resized(value.type.shape, dim, count)
        return self.emit.shaped("take", [value, places], shape, call.span, dim=dim)

    def _call_put(self, call: ast.Call) -> Binding:
        args, named = self.arguments(call, 3, 3, frozenset({"axis"}))
        value, places = (self._tensor(each, call, number=True) for each in args[:2])
        into = self._tensor(args[2], call)
        dim = self._dim(named, call.span)
        wanted = resized(into.type.shape, dim, self._count_of(places, call.span))
        if value.type.shape != wanted:
            self.fail(
                "E322",
                f"`put` of so many entries into a value of shape {into.type.shape} takes one of "
                f"shape {wanted}",
                call.span,
                f"this has shape {value.type.shape}",
            )
        args_ = [value, places, into]
        return self.emit.shaped("put", args_, into.type.shape, call.span, dim=dim)

    def _call_flip(self, call: ast.Call) -> Binding:
        args, named = self.arguments(call, 1, 1, frozenset({"axis"}))
        value = self._tensor(args[0], call)
        axis = self._axis(named.get("axis"), call.span)
        dims = (-2, -1) if axis is None else (self._dim(named, call.span),)
        return self.emit.shaped("flip", [value], value.type.shape, call.span, dims=dims)

    def _call_reshape(self, call: ast.Call) -> Binding:
        args, _ = self.arguments(call, 2, 2)
        value, wanted = self._tensor(args[0], call), args[1]
        if not isinstance(wanted, Dims):
            self.fail("E314", "a shape is wanted, e.g. [rows, 1]", call.span)
        n, m = wanted.shape.rows, wanted.shape.cols
        shape = Shape(value.type.shape.lead, n, m)
        return self.emit.shaped("reshape", [value], shape, call.span, n=n, m=m, fill=None)

    def _call_kth_smallest(self, call: ast.Call) -> Binding:
        args, named = self.arguments(call, 2, 2, TAKEN_IN)
        value, k = self._tensor(args[0], call), self.as_value(args[1], call.span)
        over = self._over(named.get("over"), call.span)
        if over is not None:
            return self._kth_of(call, value, over, named)
        if not self.selects(named):
            return self._kth(call, value, k, self._axis(named.get("axis"), call.span))
        # What is left out lies behind all others: k counts to as many as there are.
        count = self.reduce("sum", self.ones(value, call.span), named, call.span)
        chosen, axis = self.selected(value, named, math.inf, call.span)
        k = self.emit.map("min", [k, count], call.span)
        found = self._kth(call, chosen, k, axis)
        if is_none(named.get("where")):
            return found
        there = self.emit.map("gt", [count, self.emit.const(0)], call.span)
        return self.emit.map("where", [there, found, self.emit.const(math.nan)], call.span)

    def _kth(self, call: ast.Call, value: Value, k: Value, axis: Axis) -> Value:
        shape = value.type.shape
        if axis is None:
            dims: tuple[int, ...] = (-3, -2, -1) if BATCH in shape.lead else (-2, -1)
            result = Shape(tuple(each for each in shape.lead if each != BATCH))
        elif axis in shape.lead:
            dims = (shape.lead.index(axis) - len(shape.lead) - 2,)
            result = without(shape, dims[0])
        else:
            dims = (self._dim_along(axis, call.span),)
            result = resized(value.type.shape, dims[0], 1)
        if k.type.shape not in (SCALAR, result):
            self.fail("E322", "the k of `kth_smallest` is one number for each result", call.span)
        return self.emit.shaped("kth_smallest", [value, k], result, call.span, dims=dims)

    def reduce(self, op: str, value: Value, named: Keywords, span: Span) -> Value:
        raise AssertionError("primitives.py defines it")

    def _kth_of(self, call: ast.Call, value: Value, over: str, named: Keywords) -> Binding:
        """The statistic over all elements of several parameters."""
        axis = self._axis(named.get("axis"), call.span)
        self._no_device_condition("a reduction over parameters", call.span)
        lead = [each for each in value.type.shape.lead if each != BATCH]
        if over == "workers" or axis is not None or lead or self.selects(named):
            self.fail("E322", "an order statistic `over` takes whole parameters in", call.span)
        found = self.emit.reduce("kth_of", value, None, over, self.path, call.span)
        attributes = {**dict(found.attrs), "k": self.dim(call.args[1].value)}
        return self.builder.make("kth_of", found.args, found.type, call.span, **attributes)

    # ------------------------------------------------------------ arguments

    def _tensor(self, bound: Binding, call: ast.Call, *, number: bool = False) -> Value:
        """A tensor; with `number` also one of the host, which then is a single entry."""
        value = self.as_value(bound, call.span)
        if number and not value.type.on_device and value.type.dtype is not DType.STRING:
            return self.emit.broadcast(value, self.emit.param_type.with_(shape=SCALAR), call.span)
        if not value.type.on_device:
            self.fail("E322", f"`{call.function}` takes tensors", call.span, value.type.describe())
        return value

    def _dim(self, named: Keywords, span: Span) -> int:
        return self._dim_along(self._axis(named.get("axis"), span), span)

    def _dim_along(self, axis: Axis, span: Span) -> int:
        """The axis that is meant, by default that of the rows, counted from the end."""
        if isinstance(axis, str) or axis == ():
            self.fail("E307", "`axis` is 0 or 1 here", span)
        return -1 if axis == 1 else -2

    def _count_of(self, places: Value, span: Span) -> Dim:
        """How many positions a column or a row of them has."""
        shape = places.type.shape
        if 1 not in (shape.rows, shape.cols):
            self.fail("E322", "positions are a column or a row", span, f"this has shape {shape}")
        return shape.rows if shape.cols == 1 else shape.cols
