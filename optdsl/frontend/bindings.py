"""What a name may stand for while a rule is worked out.

A binding is a `Value`, a tuple of bindings, or one of the few things below that exist only at
compile time. None of them is ever stored in the typed rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from optdsl.frontend.scope import Scope as FileScope
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import Shape


@dataclass(frozen=True)
class Symbol:
    """A bare word with a meaning of its own in a call: all, group, workers, none, a named axis."""

    name: str
    is_axis: bool = False


@dataclass(frozen=True)
class Dims:
    """A shape written as an argument, `[short, rank]`."""

    shape: Shape


@dataclass(frozen=True)
class RuleRef:
    """A rule with some of its hyperparameters bound: what a wrapper's `inner` stands for. A literal
    among `args` sets a default; what is among `given` is bound for good."""

    item: ast.Item
    scope: FileScope
    args: tuple[tuple[str, Binding], ...]
    span: Span
    given: tuple[tuple[str, Binding], ...] = ()


@dataclass(frozen=True)
class Undefined:
    """A name that only some branches assign. Reading it is an error that shows `span`."""

    span: Span
    why: str
    mend: str | None = None


@dataclass(frozen=True)
class Poison:
    """What stands where an error was reported already; whatever touches it stays silent."""


Binding: TypeAlias = "Value | tuple[Binding, ...] | Symbol | Dims | RuleRef | Undefined | Poison"
NONE = Symbol("none")
POISON = Poison()


class Reported(Exception):
    """An error was put into the sink; the statement it stands in is given up."""


class GivenUp(Exception):
    """An error was put into the sink that ends the work on the rule."""
