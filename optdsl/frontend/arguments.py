"""Arguments of primitives: how many, which keywords, and what `axis` and `over` say.

Input: a call. Output: its arguments' bindings. Relies on: shapes. Does not do: any primitive
(primitives.py, matrices.py); calls of functions written in the language (calls.py).
"""

from __future__ import annotations

from optdsl.frontend.bindings import NONE, Binding, Symbol
from optdsl.frontend.core import is_none
from optdsl.frontend.shapes import Shapes
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Value
from optdsl.ops import OPS
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import Axis

Keywords = dict[str, Binding]
OVER = ("all", "group", "workers")
WORDS = frozenset({"over", "own", "same", "axis"})
"""Keyword arguments whose value may be a bare word: over = workers."""


class Arguments(Shapes):
    def arguments(
        self, call: ast.Call, least: int, most: int, keywords: frozenset[str] = frozenset()
    ) -> tuple[list[Binding], Keywords]:
        """Positional and keyword arguments of a primitive, evaluated and counted."""
        positional = [arg for arg in call.args if arg.name is None]
        named = {arg.name: self.word(arg) for arg in call.args if arg.name is not None}
        for k, arg in enumerate(call.args):
            if arg.name is not None and arg.name in [each.name for each in call.args[:k]]:
                self.fail("E208", f"`{arg.name}` is given twice", arg.span)
            if arg.name is not None and arg.name not in keywords:
                listed = ", ".join(sorted(keywords)) or "none"
                self.fail(
                    "E208",
                    f"`{call.function}` has no argument `{arg.name}`",
                    arg.span,
                    help=f"its keyword arguments: {listed}",
                )
        if not least <= len(positional) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            op = OPS.get(call.function)
            self.fail(
                "E209",
                f"`{call.function}` takes {wanted} arguments, not {len(positional)}",
                call.span,
                help=None if op is None else op.doc,
            )
        return [self.evaluate(arg.value) for arg in positional], named

    def word(self, arg: ast.Argument) -> Binding:
        """A keyword argument's value; `workers` alone is a word, not the number of them."""
        if arg.name in WORDS and isinstance(arg.value, ast.Name):
            word = arg.value.name
            if word == "workers":
                return Symbol(word)
            if arg.name == "over" and self.read(self.frame.local(word)) is None:
                self._over(NONE if word == "none" else Symbol(word), arg.span)
        return self.evaluate(arg.value)

    def values(self, call: ast.Call, count: int) -> list[Value]:
        args, _ = self.arguments(call, count, count)
        return [self.as_value(bound, arg.span) for bound, arg in zip(args, call.args, strict=True)]

    def _over(self, bound: Binding | None, span: Span) -> str | None:
        if is_none(bound):
            return None
        if isinstance(bound, Symbol) and bound.name in OVER:
            return bound.name
        self.fail("E307", "`over` is all, group or workers", span)

    def _axis(self, bound: Binding | None, span: Span) -> Axis:
        if is_none(bound):
            return None
        if bound == ():
            return ()
        if isinstance(bound, Symbol):
            return bound.name
        if isinstance(bound, Value) and is_const(bound) and bound.attr("value") in (0, 1):
            return int(bound.attr("value"))
        self.fail(
            "E307",
            "`axis` is 0, 1, () or the name of a leading axis",
            span,
            help="every parameter is a matrix: axis = 1 goes along each row, 0 along each column",
        )

    def _no_device_condition(self, what: str, span: Span) -> None:
        if self.device_depth:
            self.fail(
                "E320",
                f"{what} cannot stand under a condition on tensors",
                span,
                help="both sides are computed and one is selected; decide on a host value instead",
            )
