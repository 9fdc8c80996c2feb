"""drawn_from: what a kernel draws from.

Input: a draw of one number for each element of p, and the host numbers of the variant, to which it
adds. Output: a key of the parameter, and the number of each element, as plan leaves. Relies on: the
op table. Does not do: which draws kernels make (levels.py).
"""

from __future__ import annotations

from optdsl.ir.nodes import Value
from optdsl.schedule.scalars import ScalarTable
from optdsl.types import DType, Shape


def drawn_from(value: Value, scalars: ScalarTable) -> tuple[Value, Value]:
    """The number of the update is read as it lies in the table of `scalars`: float32 would round
    it from 2^24 on, and two updates would draw the same."""
    (at,) = value.args
    one = value.type.with_(shape=Shape(), dtype=DType.INT)
    place = {"site": value.attr("site"), "at": scalars.place(at)}
    builder = scalars.builder
    key = builder.make("draw_key", (), one, value.span, **place)
    return key, builder.make("element", (), value.type.with_(dtype=DType.INT), value.span)
