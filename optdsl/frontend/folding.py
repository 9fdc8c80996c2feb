"""A tensor's own axes: how many and how long, and the matrix of one axis by all others.

Input: a call of len, size, unfold or fold. Output: its value. The first axis is that of the rows;
there are AXES at most, of which the last takes in what is left. Relies on: ordering.
Does not do: loops over axes (axes.py), products along them (std/std.opt).
"""

from __future__ import annotations

from optdsl.axes import AXES
from optdsl.frontend.bindings import Binding
from optdsl.frontend.ordering import Ordering
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import Axis, Dim, Shape


class Folding(Ordering):
    def _tensor_axis(self, expr: ast.Expr) -> int:
        value = self.value(expr)
        number = value.attr("value") if is_const(value) else None
        if not isinstance(number, int) or not 0 <= number < AXES:
            self.fail("E307", f"an axis of the tensor is wanted, 0 to {AXES - 1}", expr.span)
        return number

    def _length(self, number: int) -> Value:
        """How long an axis of p is; 1 where it has no such axis."""
        return self.emit.size("rows" if number == 0 else f"axis{number}")

    def _call_len(self, call: ast.Call) -> Binding:
        if len(call.args) == 1 and is_axes(call.args[0].value):
            ndim = self.emit.map("max", [self.emit.size("ndim"), self.emit.const(1)], call.span)
            return self.emit.map("min", [ndim, self.emit.const(AXES)], call.span)
        args, _ = self.arguments(call, 1, 1)
        if not isinstance(args[0], tuple):
            self.fail("E308", "`len` takes a tuple", call.span)
        return self.emit.const(len(args[0]))

    def _call_size(self, call: ast.Call) -> Binding:
        if len(call.args) == 1:
            return self._length(self._tensor_axis(call.args[0].value))
        args, _ = self.arguments(call, 1, 2)
        axis = self._axis(args[1], call.span)
        if axis is None or axis == ():
            self.fail("E307", "`size` takes an axis: 0, 1 or the name of a leading one", call.span)
        return self._count_here(self.as_value(args[0], call.span).type.shape, axis, call.span)

    def _count_here(self, shape: Shape, axis: Axis, span: Span) -> Value:
        raise AssertionError("primitives.py defines it")

    def _call_unfold(self, call: ast.Call) -> Binding:
        self._need_args(call, 2)
        value, number = self.value(call.args[0].value), self._tensor_axis(call.args[1].value)
        self._need_shape(value, self.emit.full, call)
        return value if number == 0 else self._folded(call, value, number)

    def _call_fold(self, call: ast.Call) -> Binding:
        self._need_args(call, 2)
        value, number = self.value(call.args[0].value), self._tensor_axis(call.args[1].value)
        self._need_shape(value, self._unfolded(number, call.span), call)
        return value if number == 0 else self._folded(call, value, number)

    def _folded(self, call: ast.Call, value: Value, number: int) -> Value:
        before = self.emit.const(1)
        for each in range(number):
            size = self._length(each)
            before = size if each == 0 else self.emit.map("mul", [before, size], call.span)
        unfolded = self._unfolded(number, call.span)
        shape = unfolded if call.function == "unfold" else self.emit.full
        return self.emit.shaped(
            call.function,
            [value],
            shape,
            call.span,
            n=self.emit.named_size(before),
            m=unfolded.rows,
            others=unfolded.cols,
        )

    def _unfolded(self, number: int, span: Span) -> Shape:
        """The matrix of an axis by all others."""
        if number == 0:
            return self.emit.full
        size = self._length(number)
        least = self.emit.map("max", [size, self.emit.const(1)], span)  # of an empty one, too
        others = self.emit.map("floordiv", [self.emit.size("numel"), least], span)
        dims: tuple[Dim, Dim] = self.emit.named_size(size), self.emit.named_size(others)
        return Shape((), *dims)

    def _need_args(self, call: ast.Call, count: int) -> None:
        if len(call.args) != count or any(arg.name is not None for arg in call.args):
            self.fail("E209", f"`{call.function}` takes {count} arguments", call.span)

    def _need_shape(self, value: Value, shape: Shape, call: ast.Call) -> None:
        if self.emit.view != "rows":
            self.fail("E315", f"`{call.function}` is for `view rows`", call.span)
        if value.type.shape != shape:
            self.fail(
                "E315",
                f"`{call.function}` takes a value of shape {shape} here",
                call.span,
                value.type.describe(),
            )


def is_axes(expr: ast.Expr) -> bool:
    return isinstance(expr, ast.Name) and expr.name == "axes"
