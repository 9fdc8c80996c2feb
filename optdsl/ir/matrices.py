"""The shapes of matrix functions: what the verifier holds them to.

Input: a value of a matrix op. Output: the shape that its operands give it. Relies on: types.
Does not do: the parts of a decomposition, whose sizes the front end names (frontend/matrices.py).
"""

from __future__ import annotations

from optdsl.ir.nodes import Value
from optdsl.types import Shape, join_shape

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
    if value.op in ("qr", "svd"):
        return first
    if first.rows != first.cols:
        return None
    return Shape(last.lead, last.rows, 1) if value.op == "diag" else last
