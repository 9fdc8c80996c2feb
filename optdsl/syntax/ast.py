"""The untyped tree of a rule file: what was written, each node with its span.

Nodes are frozen. A parser makes them; nothing else does. Names are not looked up
here and nothing is typed: `m` is a `Name`, whatever it turns out to be.

    Module     = Import* (Def | Transform | Optimizer | Wrapper | Alias)*
    body       = Stmt*
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from optdsl.source import Span


@dataclass(frozen=True)
class Node:
    """`span` covers the whole node, for an expression with the brackets round it."""

    span: Span


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below `node`, in the order they are written in."""
    for value in vars(node).values():
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (item for item in value if isinstance(item, Node))


# ---------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Expr(Node):
    pass


@dataclass(frozen=True)
class Number(Expr):
    """A literal. `value` is an int where it was written as one, else a float."""

    value: int | float


@dataclass(frozen=True)
class String(Expr):
    value: str


@dataclass(frozen=True)
class Bool(Expr):
    value: bool


@dataclass(frozen=True)
class NoneLiteral(Expr):
    """`none`: the default of an argument that was left out."""


@dataclass(frozen=True)
class Name(Expr):
    name: str


@dataclass(frozen=True)
class Unary(Expr):
    """`-x` or `not x`; `op` is "-" or "not"."""

    op: str
    operand: Expr


@dataclass(frozen=True)
class Binary(Expr):
    """`op` is one of + - * / // % ^ @ and or.

    `parenthesised` tells `a * (b @ c)` from `a * b @ c`, which is an error on matrices.
    """

    op: str
    left: Expr
    right: Expr
    parenthesised: bool = False


@dataclass(frozen=True)
class Compare(Expr):
    """`a < b <= c`: operands a, b, c and ops <, <=. Ops: < <= > >= == != in matches."""

    operands: tuple[Expr, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Argument(Node):
    """`value` or `name = value` in a call."""

    name: str | None
    value: Expr
    name_span: Span | None = None


@dataclass(frozen=True)
class Call(Expr):
    function: str
    function_span: Span
    args: tuple[Argument, ...]


@dataclass(frozen=True)
class Index(Expr):
    """`base[index]`."""

    base: Expr
    index: Expr


@dataclass(frozen=True)
class Transpose(Expr):
    """`base.T`."""

    base: Expr


@dataclass(frozen=True)
class Tuple(Expr):
    """`(a, b)`, or `a, b` after `return` and `=`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Star(Expr):
    """`*p`: the dimensions of `p`, in a shape."""

    name: str


@dataclass(frozen=True)
class Shape(Node):
    """`[rows, 1]`, `[5, *p]`, `[]`; also an argument, as in `randn([short, rank])`."""

    dims: tuple[Expr, ...]


@dataclass(frozen=True)
class ShapeLiteral(Expr):
    shape: Shape


# ---------------------------------------------------------------- statements


@dataclass(frozen=True)
class Stmt(Node):
    pass


@dataclass(frozen=True)
class Doc(Stmt):
    text: str


@dataclass(frozen=True)
class Require(Stmt):
    conditions: tuple[Expr, ...]


@dataclass(frozen=True)
class Attribute(Stmt):
    name: str
    name_span: Span
    default: Expr


@dataclass(frozen=True)
class Input(Stmt):
    """`input NAME: SHAPE [over group|all] [on host]`, also `input k: int on host`."""

    name: str
    name_span: Span
    shape: Shape | None
    dtype: str | None
    over: str | None
    on_host: bool


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class State(Stmt):
    items: tuple[StateItem, ...]


@dataclass(frozen=True)
class Assign(Stmt):
    """`targets op value`; op is = += -= *= /= . A target is a Name or an Index of one."""

    targets: tuple[Expr, ...]
    op: str
    value: Expr


@dataclass(frozen=True)
class If(Stmt):
    """`if`/`elif`/`else`; an `elif` is an If alone in `orelse`."""

    condition: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@dataclass(frozen=True)
class WhenArm(Node):
    condition: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class When(Stmt):
    """Consecutive `when` arms and their `otherwise`: the first arm that holds runs."""

    arms: tuple[WhenArm, ...]
    otherwise: tuple[Stmt, ...]


@dataclass(frozen=True)
class Every(Stmt):
    period: Expr
    start: Expr | None
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Repeat(Stmt):
    """`repeat count:`; an `until CONDITION` statement may end its body."""

    count: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Until(Stmt):
    condition: Expr


@dataclass(frozen=True)
class For(Stmt):
    """`for a, b in ITERABLE:`."""

    targets: tuple[Name, ...]
    iterable: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Return(Stmt):
    value: Expr


@dataclass(frozen=True)
class Step(Stmt):
    """`step inner` or `step inner(lr = EXPR)`."""

    name: str
    name_span: Span
    args: tuple[Argument, ...]


@dataclass(frozen=True)
class Use(Stmt):
    """`use Adam(lr = adam_lr)`: another rule runs here."""

    name: str
    name_span: Span
    args: tuple[Argument, ...]


@dataclass(frozen=True)
class View(Stmt):
    """`view rows|last|flat`."""

    kind: str


@dataclass(frozen=True)
class Eval(Stmt):
    value: Expr


@dataclass(frozen=True)
class Report(Stmt):
    """`report [NAME =] EXPR`."""

    name: str | None
    value: Expr


# ---------------------------------------------------------------- items


@dataclass(frozen=True)
class Parameter(Node):
    """A parameter of a rule or function: `lr = 1e-3`, or `x` with no default."""

    name: str
    default: Expr | None
    name_span: Span


@dataclass(frozen=True)
class Item(Node):
    name: str
    name_span: Span


@dataclass(frozen=True)
class Def(Item):
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Transform(Item):
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Optimizer(Item):
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Wrapper(Item):
    """A rule around rules: parameters without a default, first, are the inner rules."""

    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Alias(Item):
    """`optimizer NAME[(params)] = Lookahead(AdamW, k = 10)`; value is a Call or a Name."""

    parameters: tuple[Parameter, ...] | None
    value: Expr


@dataclass(frozen=True)
class Import(Node):
    path: str
    path_span: Span


@dataclass(frozen=True)
class Module(Node):
    doc: str | None
    imports: tuple[Import, ...]
    items: tuple[Item, ...]
