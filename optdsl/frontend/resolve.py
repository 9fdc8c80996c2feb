"""Names of a whole file, without types: what lowering does not see.

Input: a file's scope. Output: E202, E204 and E207 for names and functions that are not there, in
functions that nothing calls, too; W601 for a hyperparameter and W602 for a local that nothing
reads. Relies on: the scope, the names of primitives.
Does not do: types, kinds of values, order across branches (lowering does).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from optdsl.diagnostics import Sink, did_you_mean
from optdsl.frontend.arguments import WORDS
from optdsl.frontend.expressions import RESERVED
from optdsl.frontend.guesses import mend_of, mend_of_call
from optdsl.frontend.matrices import ORIENTED
from optdsl.frontend.primitives import ELEMENTWISE, LATER, REDUCTIONS, Primitives
from optdsl.frontend.scope import Scope
from optdsl.source import Span
from optdsl.syntax import ast

PRIMITIVES = frozenset(
    {
        *(name.removeprefix("_call_") for name in dir(Primitives) if name.startswith("_call_")),
        *ELEMENTWISE,
        *REDUCTIONS,
        *ORIENTED,
        *LATER,
        "range",
    }
)
WITHOUT_RULE = RESERVED - {"p", "g"}
"""What a `def` has in reach: p and g are a rule's and a transform's."""
CONSTANTS = frozenset({"inf", "pi", "all", "group", "axes"})


def resolve(scope: Scope, sink: Sink) -> None:
    """Check the names in all items of the file; errors that lowering finds too are equal to it."""
    for item in scope.own.values():
        _Body(scope, sink, item).check()


@dataclass
class _Body:
    """One item. `known` grows from statement to statement; a name that any branch before gives
    counts, so that no name is called undefined that may have a value."""

    scope: Scope
    sink: Sink
    item: ast.Item
    known: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    assigned: dict[str, Span] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)

    def check(self) -> None:
        item = self.item
        parameters: tuple[ast.Parameter, ...] = getattr(item, "parameters", None) or ()
        self.known = set(WITHOUT_RULE if isinstance(item, ast.Def) else RESERVED) | CONSTANTS
        for parameter in parameters:
            if parameter.default is not None:
                self.expression(parameter.default)
            self.known.add(parameter.name)
        if isinstance(item, ast.Alias):
            self._rule(item.value)
        self.body(getattr(item, "body", ()))
        self._warn_unused(parameters)

    def _warn_unused(self, parameters: tuple[ast.Parameter, ...]) -> None:
        if not isinstance(self.item, ast.Def | ast.Transform):
            for parameter in parameters:
                if parameter.default is not None and parameter.name not in self.read:
                    self.sink.warning(
                        "W601",
                        f"`{self.item.name}` does not use its hyperparameter `{parameter.name}`",
                        parameter.name_span,
                        help="a `require` alone changes nothing; use it or leave it out",
                    )
        for name, span in self.assigned.items():
            if name not in self.read | self.kept and not name.startswith("_"):
                meant = did_you_mean(name, self.kept | {"p", "g"})
                self.sink.warning(
                    "W602",
                    f"nothing reads `{name}`",
                    span,
                    "",
                    help=f"did you mean `{meant}`?" if meant else "leave it out, or name it `_`",
                )

    # ------------------------------------------------------------ statements

    def body(self, body: Iterable[ast.Stmt]) -> None:
        for stmt in body:
            self.statement(stmt)

    def statement(self, stmt: ast.Stmt) -> None:
        match stmt:
            case ast.Require(conditions=conditions):
                self._required(conditions)
            case ast.Attribute(name=name, default=default):
                self.expression(default)
                self._keep(name)
            case ast.Input(name=name, shape=shape):
                if shape is not None:  # a new name in it is an axis
                    self.known |= {dim.name for dim in shape.dims if isinstance(dim, ast.Name)}
                self._keep(name)
            case ast.State(items=items):
                for item in items:
                    self._state(item)
            case ast.Assign():
                self._assign(stmt)
            case ast.If(condition=condition, body=body, orelse=orelse):
                self._each([condition], body, orelse)
            case ast.When(arms=arms, otherwise=otherwise):
                for arm in arms:
                    self._each([arm.condition], arm.body)
                self.body(otherwise)
            case ast.Every(period=period, start=start, body=body):
                self._each([period, *([] if start is None else [start])], body)
            case ast.Repeat(count=count, body=body):
                self._each([count], body)
            case ast.For(targets=targets, iterable=iterable, body=body):
                self.expression(iterable)
                self.known |= {target.name for target in targets}
                self.body(body)
            case ast.Until(condition=value) | ast.Return(value=value) | ast.Eval(value=value):
                self.expression(value)
            case ast.Report(value=value):
                self.expression(value)
            case ast.Step(args=args) | ast.Use(args=args):
                self._arguments(args)

    def _each(self, values: Iterable[ast.Expr], *bodies: Iterable[ast.Stmt]) -> None:
        for value in values:
            self.expression(value)
        for body in bodies:
            self.body(body)

    def _required(self, conditions: Iterable[ast.Expr]) -> None:
        """What only a `require` reads counts as unused."""
        before = set(self.read)
        self._each(conditions)
        self.read = before

    def _state(self, item: ast.StateItem) -> None:
        self._dims(item.shape)
        if item.initial is not None:
            self.expression(item.initial)
        self._keep(item.name)

    def _keep(self, name: str) -> None:
        self.known.add(name)
        self.kept.add(name)

    def _assign(self, stmt: ast.Assign) -> None:
        self.expression(stmt.value)
        for target in stmt.targets:
            if isinstance(target, ast.Index):
                self._each([target.base, target.index])
            elif isinstance(target, ast.Name):
                if stmt.op != "=":
                    self._defined(target)
                if target.name not in RESERVED:
                    self.assigned.setdefault(target.name, target.span)
                self.known.add(target.name)

    # ------------------------------------------------------------ expressions

    def expression(self, expr: ast.Node) -> None:
        match expr:
            case ast.Name(name=name):
                self.read.add(name)
                self._defined(expr)
            case ast.Call():
                self._call(expr)
            case ast.Compare(operands=(ast.Name(name="name"), *rest), ops=("matches", *_)):
                for each in rest:
                    self.expression(each)
            case ast.Shape():
                self._dims(expr)
            case _:
                for child in ast.children(expr):
                    self.expression(child)

    def _dims(self, shape: ast.Shape | None) -> None:
        for dim in () if shape is None else shape.dims:
            if not isinstance(dim, ast.Star):
                self.expression(dim)

    def _arguments(self, args: Iterable[ast.Argument]) -> None:
        for arg in args:
            if arg.name in WORDS and isinstance(arg.value, ast.Name):
                self.read.add(arg.value.name)  # over = workers, axis = samples: words
            else:
                self.expression(arg.value)

    def _call(self, call: ast.Call) -> None:
        self.read.add(call.function)
        self._arguments(call.args)
        name = call.function
        if name in self.known or name in PRIMITIVES or self.scope.find(name) is not None:
            return
        self.sink.error(
            "E207",
            f"there is no function `{name}`",
            call.function_span,
            "unknown function",
            help=mend_of_call(name, [*PRIMITIVES - LATER, *self.scope.functions()]),
        )

    def _rule(self, expr: ast.Expr) -> None:
        """A rule with its arguments, as an alias has it; lowering looks the rules up."""
        if isinstance(expr, ast.Call):
            for arg in expr.args:
                if arg.name is None or self.scope.find(_head(arg.value)) is not None:
                    self._rule(arg.value)
                else:
                    self.expression(arg.value)

    def _defined(self, name: ast.Name) -> None:
        if name.name in self.known:
            return
        if isinstance(self.item, ast.Def) and name.name in ("p", "g"):
            self.sink.error(
                "E204",
                f"`{name.name}` is not in reach inside a `def`",
                name.span,
                help=f"make it a parameter of the function and pass `{name.name}`",
            )
            return
        is_item = self.scope.find(name.name) is not None
        mend = mend_of(name.name, self.known, self.item, is_item)
        self.sink.error(
            "E202", f"`{name.name}` is not defined", name.span, "unknown name", help=mend
        )
        self.known.add(name.name)  # once is enough


def _head(expr: ast.Expr) -> str:
    if isinstance(expr, ast.Call):
        return expr.function
    return expr.name if isinstance(expr, ast.Name) else ""
