"""ScalarTable: the host numbers of a variant, each at its place in the scalar table.

Input: host values. Output: the plan's leaves that read them in a pass. Relies on: nothing.
Does not do: work them out (the host does, each step).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Builder, Value, reachable
from optdsl.passes.algebra import is_size
from optdsl.types import DType, Place


@dataclass
class ScalarTable:
    """`values` in the order of their places."""

    builder: Builder
    values: list[Value] = field(default_factory=list)

    def place(self, value: Value) -> int:
        """Where a number stands, from now on."""
        if value not in self.values:
            self.values.append(value)
        return self.values.index(value)

    def leaf(self, value: Value) -> Value:
        """A host value as literals, sizes, counters of loops, and numbers of the table."""
        if is_const(value) or is_size(value) or value.op == "loop_arg":
            return value
        if any(each.op == "loop_arg" for each in reachable([value], into_loops=False)):
            args = tuple(map(self.leaf, value.args))  # worked out anew in each pass of the loop
            return self.builder.make(value.op, args, value.type, value.span, **dict(value.attrs))
        type_ = value.type.with_(place=Place.HOST, dtype=DType.REAL)
        place = {"index": self.place(value), "of": value.id}
        scalar = self.builder.make("scalar", (), type_, value.span, **place)
        scalar.name = scalar.name or value.name or _name(value)
        if value.type.dtype is not DType.BOOL:
            return scalar
        return self.builder.make("ne", (scalar, self.builder.const(0.0)), value.type, value.span)


def _name(value: Value) -> str | None:
    if value.op == "g_scale":
        return value.op
    if value.op == "host_state":
        return str(value.attr("name"))
    if value.op == "hyper":
        return "_".join([value.attr("name"), *map(str, value.attr("index"))])
    return None
