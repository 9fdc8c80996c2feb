"""The untyped tree of a rule file: what was written, each node with its span.

Nodes are frozen. A parser makes them; nothing else does. Names are not looked up
here and nothing is typed: `m` is a `Name`, whatever it turns out to be.

    Module     = Import* (Def | Transform | Optimizer | Wrapper | Alias)*
    body       = Stmt*
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, ClassVar, Self, dataclass_transform

from optdsl.source import Span


@dataclass_transform(frozen_default=True)
class Record:
    """What `@dataclass(frozen=True)` gives, for all classes below from one piece of code.

    The decorator compiles six methods for each of forty classes, at every start of the command:
    46 ms, where this takes 1.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        fields = (*cls.__match_args__, *inspect.get_annotations(cls))
        cls.__match_args__ = fields  # type: ignore[misc]
        cls._defaults = {field: getattr(cls, field) for field in fields if hasattr(cls, field)}

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self.__match_args__
        given = self._defaults | dict(zip(fields, values, strict=False)) | named
        if given.keys() != set(fields) or len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {', '.join(fields)}")
        self.__dict__.update(given)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**vars(self) | changes)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *(vars(self)[field] for field in self.__match_args__)))

    def __repr__(self) -> str:
        fields = ", ".join(f"{field}={vars(self)[field]!r}" for field in self.__match_args__)
        return f"{type(self).__name__}({fields})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is not to be changed")


class Node(Record):
    """`span` covers the whole node, for an expression with the brackets round it."""

    span: Span


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below `node`, in the order they are written in."""
    for field in node.__match_args__:
        value = getattr(node, field)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (item for item in value if isinstance(item, Node))


# ---------------------------------------------------------------- expressions


class Expr(Node):
    pass


class Number(Expr):
    """A literal. `value` is an int where it was written as one, else a float."""

    value: int | float


class String(Expr):
    value: str


class Bool(Expr):
    value: bool


class NoneLiteral(Expr):
    """`none`: the default of an argument that was left out."""


class Name(Expr):
    name: str


class Unary(Expr):
    """`-x` or `not x`; `op` is "-" or "not"."""

    op: str
    operand: Expr


class Binary(Expr):
    """`op` is one of + - * / // % ^ @ and or.

    `parenthesised` tells `a * (b @ c)` from `a * b @ c`, which is an error on matrices.
    """

    op: str
    left: Expr
    right: Expr
    parenthesised: bool = False


class Compare(Expr):
    """`a < b <= c`: operands a, b, c and ops <, <=. Ops: < <= > >= == != in matches."""

    operands: tuple[Expr, ...]
    ops: tuple[str, ...]


class Argument(Node):
    """`value` or `name = value` in a call."""

    name: str | None
    value: Expr
    name_span: Span | None = None


class Call(Expr):
    function: str
    function_span: Span
    args: tuple[Argument, ...]


class Index(Expr):
    """`base[index]`."""

    base: Expr
    index: Expr


class Transpose(Expr):
    """`base.T`."""

    base: Expr


class Tuple(Expr):
    """`(a, b)`, or `a, b` after `return` and `=`."""

    items: tuple[Expr, ...]


class Star(Expr):
    """`*p`: the dimensions of `p`, in a shape."""

    name: str


class Shape(Node):
    """`[rows, 1]`, `[5, *p]`, `[]`; also an argument, as in `randn([short, rank])`."""

    dims: tuple[Expr, ...]


class ShapeLiteral(Expr):
    shape: Shape


# ---------------------------------------------------------------- statements


class Stmt(Node):
    pass


class Doc(Stmt):
    text: str


class Require(Stmt):
    conditions: tuple[Expr, ...]


class Attribute(Stmt):
    name: str
    name_span: Span
    default: Expr


class Input(Stmt):
    """`input NAME: SHAPE [over group|all] [on host]`, also `input k: int on host`."""

    name: str
    name_span: Span
    shape: Shape | None
    dtype: str | None
    over: str | None
    on_host: bool


class StateItem(Node):
    """`NAME [named "KEY"] [: SHAPE] [over group|all] [on host] [as STORAGE] [= EXPR]`.

    The parts stand in any order, but `= EXPR` last.
    """

    name: str
    name_span: Span
    key: str | None
    shape: Shape | None
    over: str | None
    on_host: bool
    storage: str | None
    initial: Expr | None


class State(Stmt):
    items: tuple[StateItem, ...]


class Assign(Stmt):
    """`targets op value`; op is = += -= *= /= . A target is a Name or an Index of one."""

    targets: tuple[Expr, ...]
    op: str
    value: Expr


class If(Stmt):
    """`if`/`elif`/`else`; an `elif` is an If alone in `orelse`."""

    condition: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


class WhenArm(Node):
    condition: Expr
    body: tuple[Stmt, ...]


class When(Stmt):
    """Consecutive `when` arms and their `otherwise`: the first arm that holds runs."""

    arms: tuple[WhenArm, ...]
    otherwise: tuple[Stmt, ...]


class Every(Stmt):
    period: Expr
    start: Expr | None
    body: tuple[Stmt, ...]


class Repeat(Stmt):
    """`repeat count:`; an `until CONDITION` statement may end its body."""

    count: Expr
    body: tuple[Stmt, ...]


class Until(Stmt):
    condition: Expr


class For(Stmt):
    """`for a, b in ITERABLE:`."""

    targets: tuple[Name, ...]
    iterable: Expr
    body: tuple[Stmt, ...]


class Return(Stmt):
    value: Expr


class Step(Stmt):
    """`step inner` or `step inner(lr = EXPR)`."""

    name: str
    name_span: Span
    args: tuple[Argument, ...]


class Use(Stmt):
    """`use Adam(lr = adam_lr)`: another rule runs here."""

    name: str
    name_span: Span
    args: tuple[Argument, ...]


class View(Stmt):
    """`view rows|last|flat`."""

    kind: str


class Eval(Stmt):
    value: Expr


class Report(Stmt):
    """`report [NAME =] EXPR`."""

    name: str | None
    value: Expr


# ---------------------------------------------------------------- items


class Parameter(Node):
    """A parameter of a rule or function: `lr = 1e-3`, or `x` with no default."""

    name: str
    default: Expr | None
    name_span: Span


class Item(Node):
    name: str
    name_span: Span


class Def(Item):
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


class Transform(Item):
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


class Optimizer(Item):
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


class Wrapper(Item):
    """A rule around rules: parameters without a default, first, are the inner rules."""

    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


class Alias(Item):
    """`optimizer NAME[(params)] = Lookahead(AdamW, k = 10)`; value is a Call or a Name."""

    parameters: tuple[Parameter, ...] | None
    value: Expr


class Import(Node):
    path: str
    path_span: Span


class Module(Node):
    doc: str | None
    imports: tuple[Import, ...]
    items: tuple[Item, ...]
