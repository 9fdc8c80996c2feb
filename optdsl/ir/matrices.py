"""The shapes of matrix functions and of gathers: what the verifier holds them to.

Input: a value of a matrix op. Output: the shape that its operands give it. Relies on: types.
Does not do: the parts of a decomposition, whose sizes the front end names (frontend/matrices.py).
"""

from __future__ import annotations

from optdsl.axes import AXIS_SIZES
from optdsl.ir.nodes import Value
from optdsl.types import BATCH, Dim, Shape, join_shape

SIZES = frozenset({"rows", "cols", "short", "long", "numel", "ndim", BATCH, *AXIS_SIZES})
"""Sizes of a parameter."""
DIMENSIONS = SIZES | {"workers"}
"""What a shape may have besides literals and what a rule names."""

PARTS = {"qr": 2, "eigh": 2, "svd": 3}
"""How many values a decomposition has."""
TURNED = {"wide": ("short", "long"), "tall": ("long", "short")}


def matrix_shape(value: Value) -> Shape | None:
    """The shape of the result, that of the matrix for a decomposition; None where the operands do
    not fit."""
    if value.op == "eye":
        return Shape((), value.attr("n"), value.attr("m"))
    first, last = value.args[0].type.shape, value.args[-1].type.shape
    name = value.op.removeprefix("un")
    if value.op == "matmul":
        lead = join_shape(Shape(first.lead), Shape(last.lead))
        fits = lead is not None and first.cols == last.rows
        return Shape(lead.lead, first.rows, last.cols) if lead is not None and fits else None
    if value.op == "transpose":
        return first.transposed()
    if name in TURNED:
        ends = (Shape(first.lead, "rows", "cols"), Shape(first.lead, *TURNED[name]))
        before, after = ends if value.op == name else ends[::-1]
        return after if first == before else None
    if value.op in ("qr", "svd", "flip"):
        return first
    if value.op == "reshape":
        return Shape(first.lead, value.attr("n"), value.attr("m"))
    if value.op in ("unfold", "fold"):
        ends = Shape((), "rows", "cols"), Shape((), value.attr("m"), value.attr("others"))
        before, after = ends if value.op == "unfold" else ends[::-1]
        return after if first == before else None
    if value.op == "argsort":
        return resized(first, value.attr("dim"), value.attr("first"))
    if value.op in ("take", "put"):
        places = value.args[1].type.shape
        count = places.rows if places.cols == 1 else places.cols
        if value.op == "take":
            return resized(first, value.attr("dim"), count)
        return last if first == resized(last, value.attr("dim"), count) else None
    if value.op == "kth_smallest":
        dims = value.attr("dims")
        if len(dims) > 1:
            return Shape(tuple(each for each in first.lead if each != BATCH))
        return resized(first, dims[0], 1) if dims[0] >= -2 else without(first, dims[0])
    if first.rows != first.cols:
        return None
    return Shape(last.lead, last.rows, 1) if value.op == "diag" else last


def resized(shape: Shape, dim: int, count: Dim | None) -> Shape:
    """`shape` with `count` entries along `dim`, an axis from the end; None leaves it as it is."""
    if count is None:
        return shape
    ends = (count, shape.cols) if dim == -2 else (shape.rows, count)
    return Shape(shape.lead, *ends)


def without(shape: Shape, dim: int) -> Shape:
    """`shape` less one of its leading axes, counted from the end of all."""
    at = dim + 2 + len(shape.lead)
    return Shape((*shape.lead[:at], *shape.lead[at + 1 :]), shape.rows, shape.cols)
