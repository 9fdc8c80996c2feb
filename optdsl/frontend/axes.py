"""The axes of a tensor: `for axis in axes`, a body for each with states of its own.

Input: such a loop. Output: what it leaves of each name that it assigns. The body is written out for
the most axes that there can be, each under the condition that there is such an axis: they nest, so
that n axes make n variants and not 2^n. Relies on: loops; statements run the body.
Does not do: what takes an axis (folding.py), products along axes (std/std.opt).
"""

from __future__ import annotations

from optdsl.axes import AXES
from optdsl.frontend.bindings import Undefined
from optdsl.frontend.core import Key
from optdsl.frontend.folding import is_axes
from optdsl.frontend.loops import Loops
from optdsl.syntax import ast


class Axes(Loops):
    def _for(self, stmt: ast.For) -> None:
        if not is_axes(stmt.iterable):
            super()._for(stmt)
            return
        if self.emit.view != "rows":
            message = f"`view {self.emit.view}` has no axes but those of its matrices"
            self.fail("E317", message, stmt.iterable.span)
        if self.axis is not None:
            self.fail("E317", "one loop over axes cannot stand in another", stmt.span)
        before = {key for key, bound in self.store.items() if not isinstance(bound, Undefined)}
        turns = self.turns
        try:
            self._along_axis(stmt, 0, before)
        finally:
            self.axis, self.turns = None, turns

    def _along_axis(self, stmt: ast.For, number: int, outside: set[Key]) -> None:
        """The body for this axis and, where there are more, for those that follow. Of names it
        leaves those that have a value `outside`."""
        self.axis, self.turns = number, (self.emit.const(number),)
        known = self.axis_states.setdefault((self.frame.number, number), {})
        self.store |= {self.frame.local(name): slot for name, slot in known.items()}
        self._take(stmt, self.emit.const(number))
        self.run_all(stmt.body)
        for key in self.store.keys() - outside:
            if key[:2] == ("local", self.frame.number):
                self.store[key] = Undefined(
                    stmt.span, "each axis has its own", "read it in a loop over axes"
                )
        if number + 1 == AXES:
            return
        axes = [self.emit.size("ndim"), self.emit.const(number + 1)]
        there = self.emit.map("gt", axes, stmt.span)
        self.axis_conditions.add(there)
        before = dict(self.store)
        with self.conditioned(there, True):
            self._along_axis(stmt, number + 1, outside)
        then, self.store = self.store, before
        self.merge(there, then, before, stmt.span)

    def run_all(self, body: tuple[ast.Stmt, ...]) -> None:
        raise AssertionError("statements.py defines it")
