"""Matrix functions: identity, orientation, inverses, decompositions.

Input: a call of one. Output: its value, or the tuple of its values. Relies on: selection.
Does not do: products (emit); what is composed of these (std/std.opt).
"""

from __future__ import annotations

from optdsl.frontend.bindings import Binding
from optdsl.frontend.selection import Selection
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import Dim, Shape

ORIENTED = {"wide": ("short", "long"), "tall": ("long", "short")}


class Matrices(Selection):
    def _call_eye(self, call: ast.Call) -> Binding:
        self.arguments(call, 1, 2)
        dims = [self.dim(arg.value) for arg in call.args]
        n, m = dims[0], dims[-1]
        return self.emit.shaped("eye", [], Shape((), n, m), call.span, n=n, m=m)

    def _oriented(self, call: ast.Call, expected: Shape, result: Shape) -> Binding:
        (value,) = self.values(call, 1)
        found = value.type.shape
        if self.emit.view == "flat":
            self.fail("E315", f"`{call.function}` turns a matrix; `view flat` has none", call.span)
        if (found.rows, found.cols) != (expected.rows, expected.cols):
            self.fail(
                "E315",
                f"`{call.function}` takes a value of shape {expected}",
                call.span,
                f"this has shape {found}",
            )
        return self.emit.shaped(
            call.function, [value], Shape(found.lead, result.rows, result.cols), call.span
        )

    def _call_wide(self, call: ast.Call) -> Binding:
        return self._oriented(call, self.emit.full, Shape((), "short", "long"))

    def _call_unwide(self, call: ast.Call) -> Binding:
        return self._oriented(call, Shape((), "short", "long"), self.emit.full)

    def _call_tall(self, call: ast.Call) -> Binding:
        return self._oriented(call, self.emit.full, Shape((), "long", "short"))

    def _call_untall(self, call: ast.Call) -> Binding:
        return self._oriented(call, Shape((), "long", "short"), self.emit.full)

    def _square(self, value: Value, call: ast.Call) -> Shape:
        shape = value.type.shape
        if not value.type.on_device or shape.rows != shape.cols or shape.is_scalar:
            self.fail(
                "E315", f"`{call.function}` takes a square matrix", call.span, value.type.describe()
            )
        return shape

    def _thin(self, call: ast.Call) -> tuple[Value, Dim]:
        """The matrix to be taken apart, and the lesser of its sizes."""
        self._no_device_condition("a matrix routine of a library", call.span)
        (value,) = self.values(call, 1)
        if not value.type.on_device:
            self.fail("E315", f"`{call.function}` takes a matrix", call.span, value.type.describe())
        return value, self._lesser(value.type.shape.rows, value.type.shape.cols, call.span)

    def _lesser(self, a: Dim, b: Dim, span: Span) -> Dim:
        if b in self._bounds(a):
            return a
        if a in self._bounds(b):
            return b
        if {a, b} == {"rows", "cols"}:
            return "short"
        least = self.emit.map("min", [self.emit.dim_value(a), self.emit.dim_value(b)], span)
        return self.emit.named_size(least)

    def _bounds(self, dim: Dim) -> set[Dim]:
        """Sizes that `dim` is never greater than, whatever p's shape is."""
        if dim == "short":
            return {"short", "rows", "cols", "long"}
        found, value = {dim}, self.emit.dims.get(str(dim))
        if value is not None and value.op == "min":
            for part in value.args:
                found |= self._bounds(self.emit.named_size(part))
        return found

    def _parts(self, call: ast.Call, value: Value, *shapes: tuple[Dim, Dim]) -> Binding:
        """The values of a decomposition, of `shapes`, as a tuple."""
        whole = self.emit.shaped(call.function, [value], value.type.shape, call.span)
        lead = value.type.shape.lead
        return tuple(
            self.emit.shaped("part", [whole], Shape(lead, *shape), call.span, index=index)
            for index, shape in enumerate(shapes)
        )

    def _call_qr(self, call: ast.Call) -> Binding:
        value, k = self._thin(call)
        shape = value.type.shape
        return self._parts(call, value, (shape.rows, k), (k, shape.cols))

    def _call_svd(self, call: ast.Call) -> Binding:
        value, k = self._thin(call)
        shape = value.type.shape
        return self._parts(call, value, (shape.rows, k), (k, 1), (shape.cols, k))

    def _call_eigh(self, call: ast.Call) -> Binding:
        self._no_device_condition("a matrix routine of a library", call.span)
        (value,) = self.values(call, 1)
        n = self._square(value, call).rows
        return self._parts(call, value, (n, 1), (n, n))

    def _call_cholesky(self, call: ast.Call) -> Binding:
        self._no_device_condition("a matrix routine of a library", call.span)
        (value,) = self.values(call, 1)
        return self.emit.shaped("cholesky", [value], self._square(value, call), call.span)

    def _call_inverse(self, call: ast.Call) -> Binding:
        self._no_device_condition("a matrix routine of a library", call.span)
        (value,) = self.values(call, 1)
        return self.emit.shaped("inverse", [value], self._square(value, call), call.span)

    def _call_triu(self, call: ast.Call) -> Binding:
        (value,) = self.values(call, 1)
        return self.emit.shaped("triu", [value], self._square(value, call), call.span)

    def _call_diag(self, call: ast.Call) -> Binding:
        (value,) = self.values(call, 1)
        shape = self._square(value, call)
        return self.emit.shaped("diag", [value], Shape(shape.lead, shape.rows, 1), call.span)

    def _call_solve(self, call: ast.Call) -> Binding:
        self._no_device_condition("a matrix routine of a library", call.span)
        matrix, right = self.values(call, 2)
        shape = self._square(matrix, call)
        if shape.cols != right.type.shape.rows:
            self.fail("E304", f"cannot solve {shape} x = {right.type.shape}", call.span)
        return self.emit.shaped("solve", [matrix, right], right.type.shape, call.span)
