"""Lark's reductions → AST nodes.

Input: the tokens and nodes of one grammar rule at a time, from the bottom up. Output: one node
of `syntax.ast`. Relies on: the rule names of `grammar/optdsl.lark`, one method each.
Does not do: look names up, type anything, or stop at an error (it goes to the sink).
"""

from __future__ import annotations

import inspect
import math
from typing import NamedTuple

from lark import Token, Transformer, v_args

from optdsl.diagnostics import Label, Sink
from optdsl.source import Source, Span
from optdsl.syntax import ast

Body = tuple[ast.Stmt, ...]


class _Arguments(NamedTuple):
    items: tuple[ast.Argument, ...]
    end: Token


class _Part(NamedTuple):
    """A part of a state or an input: which of its fields, what for, and where."""

    field: str
    value: object
    span: Span


def docstring_text(literal: str) -> str:
    """What a docstring says: without its quotes, its indentation and blanks at line ends."""
    lines = inspect.cleandoc(literal[3:-3]).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n")


@v_args(inline=True)
class Builder(Transformer[Token, ast.Module]):
    """Called by the parser at each reduction; `begin` sets what the nodes belong to."""

    def begin(self, source: Source, sink: Sink) -> None:
        self.source = source
        self.sink = sink

    def _span(self, first: Token | ast.Node, last: Token | ast.Node | None = None) -> Span:
        """From the start of `first` to the end of `last` (of `first`, where that is None)."""
        last = first if last is None else last
        start = first.start_pos if isinstance(first, Token) else first.span.start
        end = last.end_pos if isinstance(last, Token) else last.span.end
        return Span(self.source, start or 0, end or 0)

    # ------------------------------------------------------------ file

    def module(self, doc: ast.Doc | None, *parts: ast.Import | ast.Item) -> ast.Module:
        return ast.Module(
            Span(self.source, 0, len(self.source.text)),
            doc.text if doc else None,
            tuple(part for part in parts if isinstance(part, ast.Import)),
            tuple(part for part in parts if isinstance(part, ast.Item)),
        )

    def import_(self, word: Token, path: Token) -> ast.Import:
        return ast.Import(self._span(word, path), path[1:-1], self._span(path))

    def function(self, *parts: object) -> ast.Def:
        return ast.Def(*self._definition(*parts))  # type: ignore[arg-type]

    def transform_(self, *parts: object) -> ast.Transform:
        return ast.Transform(*self._definition(*parts))  # type: ignore[arg-type]

    def optimizer(self, *parts: object) -> ast.Optimizer:
        return ast.Optimizer(*self._definition(*parts))  # type: ignore[arg-type]

    def wrapper(self, *parts: object) -> ast.Wrapper:
        return ast.Wrapper(*self._definition(*parts))  # type: ignore[arg-type]

    def _definition(
        self,
        word: Token,
        name: Token,
        parameters: tuple[ast.Parameter, ...],
        doc: ast.Doc | None,
        body: Body | None,
    ) -> tuple[Span, str, Span, tuple[ast.Parameter, ...], Body]:
        everything = (*([doc] if doc else ()), *(body or ()))
        last = everything[-1] if everything else name
        return self._span(word, last), str(name), self._span(name), parameters, everything

    def alias(
        self,
        word: Token,
        name: Token,
        parameters: tuple[ast.Parameter, ...] | None,
        value: ast.Expr,
    ) -> ast.Alias:
        span = self._span(word, value)
        return ast.Alias(span, str(name), self._span(name), parameters, value)

    def parameters(self, *parameters: ast.Parameter) -> tuple[ast.Parameter, ...]:
        with_default: ast.Parameter | None = None
        for parameter in parameters:
            if parameter.default is not None:
                with_default = parameter
            elif with_default is not None:
                self.sink.error(
                    "E113",
                    f"`{parameter.name}` has no default, but follows `{with_default.name}`, "
                    "which has one",
                    parameter.span,
                    "",
                    Label(with_default.span, "has a default"),
                    help=f"give `{parameter.name}` a default, or move it to the front",
                )
        return parameters

    def parameter(self, name: Token, default: ast.Expr | None) -> ast.Parameter:
        span = self._span(name, default)
        return ast.Parameter(span, str(name), default, self._span(name))

    # ------------------------------------------------------------ declarations

    def statements(self, *parts: ast.Stmt | tuple[ast.Stmt, ...]) -> Body:
        body: list[ast.Stmt] = []
        for part in parts:
            body.extend(part if isinstance(part, tuple) else (part,))
        return tuple(body)

    def docstring(self, token: Token) -> ast.Doc:
        return ast.Doc(self._span(token), docstring_text(token))

    def require(self, word: Token, *conditions: ast.Expr) -> ast.Require:
        return ast.Require(self._span(word, conditions[-1]), conditions)

    def attribute(self, _word: Token, *items: ast.Attribute) -> tuple[ast.Attribute, ...]:
        return items

    def attribute_item(self, name: Token, default: ast.Expr) -> ast.Attribute:
        return ast.Attribute(self._span(name, default), str(name), self._span(name), default)

    def input_(self, _word: Token, *items: ast.Input) -> tuple[ast.Input, ...]:
        return items

    def input_item(self, name: Token, *parts: _Part) -> ast.Input:
        found = self._parts(name, parts)
        span = self._span(name)
        return ast.Input(
            span.to(parts[-1].span) if parts else span,
            str(name),
            span,
            shape=found.get("shape"),  # type: ignore[arg-type]
            dtype=found.get("dtype"),  # type: ignore[arg-type]
            over=found.get("over"),  # type: ignore[arg-type]
            on_host=bool(found.get("on_host")),
        )

    def state(self, word: Token, *items: ast.StateItem) -> ast.State:
        return ast.State(self._span(word, items[-1]), items)

    def state_item(self, name: Token, *parts: _Part | ast.Expr | None) -> ast.StateItem:
        *clauses, initial = parts
        given = tuple(part for part in clauses if isinstance(part, _Part))
        assert initial is None or isinstance(initial, ast.Expr)
        found = self._parts(name, given)
        span = self._span(name)
        last = initial.span if initial else given[-1].span if given else span
        return ast.StateItem(
            span.to(last),
            str(name),
            span,
            key=found.get("key"),  # type: ignore[arg-type]
            shape=found.get("shape"),  # type: ignore[arg-type]
            over=found.get("over"),  # type: ignore[arg-type]
            on_host=bool(found.get("on_host")),
            storage=found.get("storage"),  # type: ignore[arg-type]
            initial=initial,
        )

    def _parts(self, name: Token, parts: tuple[_Part, ...]) -> dict[str, object]:
        """The parts by field; a field given twice is an error, and the first one counts."""
        first: dict[str, _Part] = {}
        for part in parts:
            field = "shape" if part.field == "dtype" else part.field  # both follow the colon
            if field in first:
                self.sink.error(
                    "E114",
                    f"`{name}` is given `{part.span.text}` where it has "
                    f"`{first[field].span.text}` already",
                    part.span,
                    "",
                    Label(first[field].span, "given first"),
                    help="keep one of the two",
                )
            first.setdefault(field, part)
        return {part.field: part.value for part in first.values()}

    def shaped(self, shape: ast.Shape) -> _Part:
        return _Part("shape", shape, shape.span)

    def typed(self, name: Token) -> _Part:
        return _Part("dtype", str(name), self._span(name))

    def keyed(self, word: Token, key: Token) -> _Part:
        return _Part("key", key[1:-1], self._span(word, key))

    def shared(self, word: Token, extent: Token) -> _Part:
        return _Part("over", str(extent), self._span(word, extent))

    def on_host(self, word: Token, host: Token) -> _Part:
        return _Part("on_host", True, self._span(word, host))

    def stored(self, word: Token, name: Token) -> _Part:
        return _Part("storage", str(name), self._span(word, name))

    def view(self, word: Token, kind: Token) -> ast.View:
        return ast.View(self._span(word, kind), str(kind))

    # ------------------------------------------------------------ simple statements

    def assign(self, *parts: ast.Expr) -> ast.Assign:
        *targets, value = parts
        return ast.Assign(self._span(targets[0], value), tuple(targets), "=", value)

    def augment(self, target: ast.Expr, op: Token, value: ast.Expr) -> ast.Assign:
        return ast.Assign(self._span(target, value), (target,), str(op), value)

    def target(self, name: Token, *index: ast.Expr | Token | None) -> ast.Expr:
        variable = self.variable(name)
        match index:
            case (ast.Expr() as place, Token() as end):
                return self.index(variable, place, end)
        return variable

    def step(self, word: Token, name: Token, arguments: _Arguments | None) -> ast.Step:
        span = self._span(word, arguments.end if arguments else name)
        return ast.Step(span, str(name), self._span(name), arguments.items if arguments else ())

    def use(self, word: Token, name: Token, arguments: _Arguments | None) -> ast.Use:
        span = self._span(word, arguments.end if arguments else name)
        return ast.Use(span, str(name), self._span(name), arguments.items if arguments else ())

    def return_(self, word: Token, value: ast.Expr) -> ast.Return:
        return ast.Return(self._span(word, value), value)

    def eval_(self, word: Token, value: ast.Expr) -> ast.Eval:
        return ast.Eval(self._span(word, value), value)

    def report(self, word: Token, name: Token | None, value: ast.Expr) -> ast.Report:
        return ast.Report(self._span(word, value), None if name is None else str(name), value)

    # ------------------------------------------------------------ blocks

    def if_(
        self, word: Token, condition: ast.Expr, body: Body, rest: ast.If | Body | None
    ) -> ast.If:
        orelse = (rest,) if isinstance(rest, ast.If) else rest or ()
        return ast.If(self._span(word, (orelse or body)[-1]), condition, body, orelse)

    elif_ = if_

    def else_(self, _word: Token, body: Body) -> Body:
        return body

    def when(self, *parts: ast.WhenArm | Body | None) -> ast.When:
        *arms, rest = parts
        otherwise = rest if isinstance(rest, tuple) else ()
        chosen = tuple(arm for arm in arms if isinstance(arm, ast.WhenArm))
        last = otherwise[-1] if otherwise else chosen[-1]
        return ast.When(self._span(chosen[0], last), chosen, otherwise)

    def when_arm(self, word: Token, condition: ast.Expr, body: Body) -> ast.WhenArm:
        return ast.WhenArm(self._span(word, body[-1]), condition, body)

    def otherwise(self, _word: Token, body: Body) -> Body:
        return body

    def every(
        self, word: Token, period: ast.Expr, *parts: Token | ast.Expr | Body | None
    ) -> ast.Every:
        _from, start, body = parts
        assert isinstance(body, tuple) and not isinstance(start, Token | tuple)
        return ast.Every(self._span(word, body[-1]), period, start, body)

    def repeat(
        self, word: Token, count: ast.Expr, body: Body | None, until: ast.Until | None
    ) -> ast.Repeat:
        everything = (*(body or ()), *((until,) if until else ()))
        return ast.Repeat(self._span(word, everything[-1]), count, everything)

    def until(self, word: Token, condition: ast.Expr) -> ast.Until:
        return ast.Until(self._span(word, condition), condition)

    def for_(self, word: Token, *parts: ast.Name | Token | ast.Expr | Body) -> ast.For:
        *targets, _in, iterable, body = parts
        assert isinstance(body, tuple) and isinstance(iterable, ast.Expr)
        names = tuple(target for target in targets if isinstance(target, ast.Name))
        return ast.For(self._span(word, body[-1]), names, iterable, body)

    # ------------------------------------------------------------ expressions

    def tuple_(self, *items: ast.Expr) -> ast.Tuple:
        return ast.Tuple(self._span(items[0], items[-1]), items)

    def binary(self, left: ast.Expr, op: Token, right: ast.Expr) -> ast.Binary:
        return ast.Binary(self._span(left, right), str(op), left, right)

    def unary(self, op: Token, operand: ast.Expr) -> ast.Unary:
        return ast.Unary(self._span(op, operand), str(op), operand)

    def chain(self, *parts: ast.Expr | Token) -> ast.Compare:
        operands = tuple(part for part in parts if isinstance(part, ast.Expr))
        ops = tuple(str(part) for part in parts if isinstance(part, Token))
        return ast.Compare(self._span(operands[0], operands[-1]), operands, ops)

    def index(self, base: ast.Expr, place: ast.Expr, end: Token) -> ast.Index:
        return ast.Index(self._span(base, end), base, place)

    def transpose(self, base: ast.Expr, mark: Token) -> ast.Transpose:
        return ast.Transpose(self._span(base, mark), base)

    def variable(self, name: Token) -> ast.Name:
        return ast.Name(self._span(name), str(name))

    def call(self, name: Token, arguments: _Arguments) -> ast.Call:
        span = self._span(name, arguments.end)
        return ast.Call(span, str(name), self._span(name), arguments.items)

    def arguments(self, *parts: ast.Argument | Token) -> _Arguments:
        *items, end = parts
        assert isinstance(end, Token)
        return _Arguments(tuple(item for item in items if isinstance(item, ast.Argument)), end)

    def argument(self, name: Token | None, value: ast.Expr) -> ast.Argument:
        if name is None:
            return ast.Argument(value.span, None, value)
        return ast.Argument(self._span(name, value), str(name), value, self._span(name))

    def group(self, start: Token, *parts: ast.Expr | Token) -> ast.Expr:
        *inside, end = parts
        span = self._span(start, end)
        if not inside:
            return ast.Tuple(span, ())
        inner = inside[0]
        assert isinstance(inner, ast.Expr)
        if isinstance(inner, ast.Binary):
            return inner.replace(span=span, parenthesised=True)
        return inner.replace(span=span)

    def literal(self, shape: ast.Shape) -> ast.ShapeLiteral:
        return ast.ShapeLiteral(shape.span, shape)

    def shape(self, start: Token, *parts: ast.Expr | Token) -> ast.Shape:
        *dims, end = parts
        sizes = tuple(dim for dim in dims if isinstance(dim, ast.Expr))
        return ast.Shape(self._span(start, end), sizes)

    def star(self, sign: Token, name: Token) -> ast.Star:
        return ast.Star(self._span(sign, name), str(name))

    def number(self, token: Token) -> ast.Number:
        digits = token.replace("_", "")
        if digits.isdigit():
            # 19 digits hold every int64; Python refuses to read more than 4300.
            digits = digits.lstrip("0") or "0"
            value: int | float = int(digits) if len(digits) <= 19 else 2**63
            fault = "does not fit in 64 bits" if value >= 2**63 else ""
        else:
            value = float(digits)
            mantissa = digits.lower().partition("e")[0]
            fault = "is too large for a double" if math.isinf(value) else ""
            if value == 0 and mantissa.strip("0."):
                fault = "is too small for a double, and would be 0"
        if fault:
            mend = "for infinity write `inf`" if value else None
            self.sink.error("E103", f"this number {fault}", self._span(token), help=mend)
        return ast.Number(self._span(token), value if math.isfinite(value) else 0.0)

    def string(self, token: Token) -> ast.String:
        return ast.String(self._span(token), token[1:-1])

    def bool_(self, token: Token) -> ast.Bool:
        return ast.Bool(self._span(token), token.type == "TRUE")

    def none(self, token: Token) -> ast.NoneLiteral:
        return ast.NoneLiteral(self._span(token))
