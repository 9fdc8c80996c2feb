"""Calls: functions and transforms of a file, inlined where they are called.

Input: a call. Output: its value. Relies on: primitives; statements run a body (`run_body`).
Does not do: `step` and `use` (rules.py).
"""

from __future__ import annotations

from collections.abc import Callable

from optdsl.diagnostics import Label, did_you_mean
from optdsl.frontend.arguments import Keywords
from optdsl.frontend.bindings import Binding
from optdsl.frontend.core import Frame
from optdsl.frontend.expressions import HIDDEN, RESERVED
from optdsl.frontend.guesses import mend_of_call
from optdsl.frontend.matrices import ORIENTED
from optdsl.frontend.primitives import ELEMENTWISE, LATER, REDUCTIONS, Primitives
from optdsl.frontend.scope import Scope as FileScope
from optdsl.source import Span
from optdsl.syntax import ast


class Calls(Primitives):
    def call(self, call: ast.Call) -> Binding:
        result_name, self.result_name = self.result_name, None
        if self.read(self.frame.local(call.function)) is not None:
            self.fail(
                "E205",
                f"`{call.function}` is a value here, not a function",
                call.function_span,
                help="rename the variable: it hides the function",
            )
        found = self.frame.scope.find(call.function)
        if found is not None and isinstance(found[0], ast.Def | ast.Transform):
            return self._inline(call, found[0], found[1], result_name)
        if found is not None:
            self.fail(
                "E206",
                f"`{call.function}` is a rule, not a function",
                call.function_span,
                help=f"write `use {call.function}(...)`, or `step` inside a wrapper",
            )
        builtin: Callable[[ast.Call], Binding] | None = getattr(
            self, f"_call_{call.function}", None
        )
        if builtin is not None:
            return builtin(call)
        if call.function in ELEMENTWISE:
            return self._elementwise(call)
        if call.function in REDUCTIONS:
            return self._reduction(call)
        if call.function in LATER:
            self.fail(
                "E501",
                f"`{call.function}` is not in this version of the language",
                call.function_span,
            )
        known = [*ELEMENTWISE, *REDUCTIONS, *ORIENTED, "rand", "randn", "loss", "grad"]
        self.fail(
            "E207",
            f"there is no function `{call.function}`",
            call.function_span,
            "unknown function",
            help=mend_of_call(call.function, [*known, *self.frame.scope.functions()]),
        )

    # ------------------------------------------------------------ functions of a file

    def _inline(
        self,
        call: ast.Call,
        item: ast.Def | ast.Transform,
        scope: FileScope,
        result_name: str | None,
    ) -> Binding:
        kind = "def" if isinstance(item, ast.Def) else "transform"
        given = self._bind(call, item)
        frame = Frame(
            self.number("frame"), kind, scope, self.frame.rule, item, call.span, result_name
        )
        if kind == "transform":
            if self.frame.kind == "def":
                self.fail(
                    "E231",
                    f"`{item.name}` has state and cannot be called in a `def`",
                    call.function_span,
                    help="make the caller a `transform`",
                )
            if self.loop_depth or self.unrolled_depth:
                self.fail(
                    "E401",
                    f"`{item.name}` has state and cannot be called in a loop",
                    call.function_span,
                    help="keep what it keeps in a state of your own, `state m: [3, *p]`, and read "
                    "and assign `m[k]` in the loop",
                )
        with self.entered(frame), self.sited(scope, call.span):
            for parameter in item.parameters:
                if parameter.name in RESERVED - HIDDEN - {"p", "g"}:
                    self.fail(
                        "E404",
                        f"`{parameter.name}` has a meaning of its own everywhere",
                        parameter.name_span,
                    )
                if parameter.name in given:
                    bound = given[parameter.name]
                else:
                    assert parameter.default is not None
                    bound = self.evaluate(parameter.default)
                self.store[frame.local(parameter.name)] = bound
            result = self.run_body(item.body, call.span)
        for key in [k for k in self.store if k[0] == "local" and k[1] == frame.number]:
            del self.store[key]
        if result is None:
            self.fail(
                "E232",
                f"`{item.name}` returns nothing",
                call.function_span,
                help="end it with `return`",
            )
        return result

    result_name: str | None = None
    """The variable that a call is assigned to: a transform's single state takes its name."""

    def _bind(self, call: ast.Call, item: ast.Def | ast.Transform) -> Keywords:
        names = [parameter.name for parameter in item.parameters]
        given: Keywords = {}
        for position, arg in enumerate(call.args):
            name = arg.name
            if name is None:
                if position >= len(names):
                    written = f"`{item.name}({', '.join(names)})`"
                    self.fail(
                        "E209",
                        f"`{item.name}` takes {len(names)} arguments, not {len(call.args)}",
                        call.span,
                        "",
                        Label(item.name_span, "defined here"),
                        help=f"{written} keeps what it remembers in a state of its own"
                        if isinstance(item, ast.Transform)
                        else None,
                    )
                name = names[position]
            elif name not in names:
                meant = did_you_mean(name, names)
                self.fail(
                    "E208",
                    f"`{item.name}` has no argument `{name}`",
                    arg.span,
                    help=f"did you mean `{meant}`?"
                    if meant
                    else f"its arguments: {', '.join(names)}",
                )
            if name in given:
                self.fail("E208", f"`{name}` is given twice", arg.span)
            given[name] = self.word(arg)
        missing = [p.name for p in item.parameters if p.default is None and p.name not in given]
        if missing:
            self.fail(
                "E209",
                f"`{item.name}` needs {', '.join(f'`{m}`' for m in missing)}",
                call.span,
                "",
                Label(item.name_span, "defined here"),
            )
        return given

    def run_body(self, body: tuple[ast.Stmt, ...], span: Span) -> Binding | None:
        raise AssertionError("statements.py defines it")
