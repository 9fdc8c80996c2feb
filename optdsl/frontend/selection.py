"""Which elements a reduction takes in: those where a condition holds, blocks of consecutive ones.

Input: a value, and `where` and `blocks` as they were written. Output: the value with nothing in the
place of what is left out, in blocks a matrix with a row for each; and how many elements there are.
A matrix whose last row is short ends in what changes no result. Relies on: arguments.
Does not do: reduce (primitives.py, ordering.py), the way back to p's shape (emit).
"""

from __future__ import annotations

from optdsl.frontend.arguments import Arguments, Keywords
from optdsl.frontend.bindings import Binding
from optdsl.frontend.core import is_none
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.types import BATCH, Axis, Dim, DType, Instances, Place, Shape

SELECTING = frozenset({"where", "blocks"})
"""Arguments of a reduction that say which elements it takes in."""
TAKEN_IN = frozenset({"axis", "over"}) | SELECTING


class Selection(Arguments):
    def selects(self, named: Keywords) -> bool:
        """Whether a reduction takes in other elements than those along its axis."""
        return any(not is_none(named.get(name)) for name in SELECTING)

    def selected(
        self, value: Value, named: Keywords, nothing: float, span: Span
    ) -> tuple[Value, Axis]:
        """`value` with `nothing` in the place of what a reduction leaves out, and its axis."""
        condition, length = named.get("where"), named.get("blocks")
        if condition is not None and not is_none(condition):
            holds = self.as_value(condition, span)
            self.need_condition(holds, span)
            value = self.emit.map("where", [holds, value, self.emit.const(nothing, span)], span)
        axis = self._axis(named.get("axis"), span)
        if length is None or is_none(length):
            return value, axis
        if axis is not None or not is_none(named.get("over")):
            self.fail("E307", "`blocks` stands for itself, without `axis` and `over`", span)
        return self._in_blocks(value, length, nothing, span), 1

    def _in_blocks(self, value: Value, length: Binding, nothing: float, span: Span) -> Value:
        """One row for each block of `length` elements; `nothing` fills the last."""
        full = self.emit.full
        if value.type.shape != full:
            self.fail("E307", "`blocks` is for values of p's shape", span, value.type.describe())
        m = self._block_length(self.as_value(length, span), span)
        n = self.emit.blocks_of(m, span)
        shape = Shape(full.lead, n, m)
        return self.emit.shaped("reshape", [value], shape, span, n=n, m=m, fill=nothing)

    def _block_length(self, length: Value, span: Span) -> Dim:
        """A whole number of at least 1, which a group's hyperparameters are held to."""
        m = self.settled_size(length, span)
        if is_const(length) and not m:
            self.fail("E314", "a block has at least one element", span)
        if length.type.instances <= Instances.GROUP:
            one, zero = self.emit.const(1), self.emit.const(0)
            least = self.emit.map("ge", [length, one], span)
            integral = self.emit.map("eq", [self.emit.map("mod", [length, one], span), zero], span)
            if not is_const(least):
                met = self.emit.map("and", [least, integral], span)
                self.required(met, f"blocks = {m}, whole and at least 1", span)
        return m

    def required(self, value: Value, text: str, span: Span) -> None:
        raise AssertionError("declarations.py defines it")

    def ones(self, value: Value, span: Span) -> Value:
        """1 for each element that a reduction of `value` takes in: named axes are not."""
        shape = value.type.shape
        lead = tuple(each for each in shape.lead if each == BATCH)
        type_ = value.type.with_(
            shape=Shape(lead, shape.rows, shape.cols), place=Place.DEVICE, dtype=DType.REAL
        )
        return self.emit.broadcast(self.emit.const(1.0), type_, span)
