"""Shapes that a rule writes: [rows, 1], [5, *p], [samples], [min(rank, cols), cols].

Input: a shape's dimensions. Output: a `Shape` of literals and texts; the host value behind a text
lies in the emitter's `dims`. Relies on: expressions. Does not do: shapes of results (emit).
"""

from __future__ import annotations

from optdsl.axes import AXIS_SIZES
from optdsl.frontend.bindings import Symbol
from optdsl.frontend.expressions import SIZES, Expressions
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import BATCH, Dim, DType, Instances, Shape

UNSETTLED = frozenset(
    {"t", "steps", "first", "input", "host_state", "to_host", "loop_arg", "loop_result"}
    | {"lead_size", "workers", "rank"}
    | {op.name for op in OPS.values() if op.kind is Kind.RANDOM}
)
"""Host values that differ from step to step, or are not known before the first."""
LARGEST_SIZE = 200
"""Operations that the text of one dimension may have."""


class Shapes(Expressions):
    def shape(self, shape: ast.Shape, axes: str = "none") -> Shape:
        """A written shape. `axes` says which named axes it may have: none, those that an input has
        (known), or also names that it makes axes (new)."""
        dims: list[Dim] = []
        star = False
        for position, dim in enumerate(shape.dims):
            if isinstance(dim, ast.Star):
                if position != len(shape.dims) - 1 or dim.name not in ("p", "g"):
                    self.fail("E314", "`*p` stands last in a shape", dim.span)
                star = True
                continue
            if axes == "new" and isinstance(dim, ast.Name) and self._is_unknown(dim):
                self.store[self.frame.local(dim.name)] = Symbol(dim.name, is_axis=True)
            dims.append(self.dim(dim, axes != "none"))
        if star:
            full = self.emit.full
            return Shape((*dims, *full.lead), full.rows, full.cols)
        if len(dims) == 1 and self._is_axis(shape.dims[0]):
            return Shape((dims[0],))
        padded = [*dims, 1, 1][: max(2, len(dims))]
        lead = tuple(padded[:-2])
        batched = self.emit.view == "last" and {"rows", "cols", "short", "long"} & set(padded[-2:])
        return Shape((*lead, BATCH) if batched else lead, padded[-2], padded[-1])

    def _is_unknown(self, name: ast.Name) -> bool:
        return self._lookup(name.name, name.span) is None

    def _is_axis(self, expr: ast.Expr) -> bool:
        if not isinstance(expr, ast.Name):
            return False
        bound = self.read(self.frame.local(expr.name))
        return expr.name == "workers" or (isinstance(bound, Symbol) and bound.is_axis)

    def dim(self, expr: ast.Expr, axes: bool = False) -> Dim:
        """One dimension: a literal, or a static host number by its text."""
        bound = self.evaluate(expr)
        if isinstance(bound, Symbol) and bound.is_axis and axes:
            return bound.name
        value = self.as_value(bound, expr.span)
        if value.op == "workers" and axes:
            return value.op
        return self.settled_size(value, expr.span)

    def settled_size(self, value: Value, span: Span) -> Dim:
        """The dimension that a host value is, which must be a whole number that stays."""
        if not is_settled(value):
            self.fail(
                "E314",
                "a size must be known when the parameter is added",
                span,
                f"this is {value.type.describe()}",
                help="use sizes, integers and integer hyperparameters",
            )
        if _tree_size(value) > LARGEST_SIZE:
            self.fail("E314", f"a size of more than {LARGEST_SIZE} operations", span)
        number = value.attr("value") if is_const(value) else 0
        if not _is_whole(value) or not 0 <= number < 2**31:
            self.fail(
                "E314",
                "a size is a whole number",
                span,
                help="`//` divides and rounds down" if value.op == "div" else None,
            )
        return self.emit.named_size(value)

    def own_size(self, shape: Shape) -> str | None:
        """A size in `shape` that parameters may differ in, if there is one."""
        for dim in shape.dims:
            value = self.emit.dims.get(str(dim))
            own = value is not None and value.type.instances is Instances.PARAM
            if own or dim in (*SIZES, *AXIS_SIZES, BATCH):
                return str(dim)
        return None


def is_settled(value: Value) -> bool:
    """Whether a host value stays what it is once the parameter is added: made of literals, sizes,
    names, attributes and hyperparameters, which then are static: changing them is an error."""
    return not value.type.on_device and not any(
        each.op in UNSETTLED for each in reachable([value], into_loops=False)
    )


def _is_whole(value: Value) -> bool:
    """Whether a host number is an integer whatever the hyperparameters are."""
    if value.type.dtype is DType.INT or value.op in ("floor", "ceil", "round", "floordiv"):
        return True
    if value.op == "const":
        return float(value.attr("value")).is_integer()
    parts = value.args[1:] if value.op == "where" else value.args
    return value.op in ("add", "sub", "mul", "min", "max", "where") and all(map(_is_whole, parts))


def _tree_size(value: Value) -> int:
    """How many operations the text of a host value spells, shared ones each time."""
    sizes: dict[Value, int] = {}
    for each in reachable([value]):
        sizes[each] = 1 + sum(sizes[arg] for arg in each.args)
    return sizes[value]
