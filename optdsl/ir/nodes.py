"""The typed rule: a pure graph of values.

A rule reads p, g and old states and yields new ones; nothing is changed in place and no value
has an order but that of its operands. `if` on a host value is a `choose`, of which one side is
computed; a reduction `over` parameters carries the host conditions under which its statement
runs as further operands, so that it ranges over the parameters that execute it. A loop is one
value with a body of its own.

Values are interned by `Builder`: equal op, operands and attributes give the same object, so that
`is` compares and a common subexpression is one value. Name and span are hints, not identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from optdsl.source import Source, Span
from optdsl.types import DType, Instances, Place, Shape, Storage, Type

Attrs = tuple[tuple[str, Any], ...]
Scope = tuple[tuple["Value", bool], ...]
"""Host conditions with the side taken: where a statement stands."""


@dataclass(eq=False, slots=True)
class Value:
    """One value. `id` grows in the order of creation, so operands have smaller ones."""

    op: str
    args: tuple[Value, ...]
    attrs: Attrs
    type: Type
    id: int
    span: Span | None = None
    name: str | None = None

    def attr(self, key: str) -> Any:
        for name, value in self.attrs:
            if name == key:
                return value
        raise KeyError(f"{self.op} has no attribute {key}")

    def __repr__(self) -> str:
        return f"%{self.id}={self.op}"


@dataclass(eq=False)
class LoopBody:
    """What a loop repeats: `args` are loop_arg values, `results` their next values. `until`
    ends the loop early, where it holds after a pass. `index` is the loop's counter, if read. `rank`
    is given where parameters pass through it together (see coupling.py)."""

    args: tuple[Value, ...]
    results: tuple[Value, ...] = ()
    until: Value | None = None
    index: Value | None = None
    rank: int | None = None


@dataclass
class Builder:
    """Makes and interns values."""

    table: dict[tuple[Any, ...], Value] = field(default_factory=dict)
    count: int = 0
    site: Span | None = None
    """Where the user's file calls the library function that is being inlined: what it makes was
    written there."""

    def make(
        self,
        op: str,
        args: Iterable[Value],
        type: Type,
        span: Span | None = None,
        **attrs: Any,
    ) -> Value:
        operands = tuple(args)
        items = tuple(sorted(attrs.items()))
        key = (op, tuple(each.id for each in operands), items, type)
        found = self.table.get(key)
        if found is None:
            found = Value(op, operands, items, type, self.count, self.site or span)
            self.count += 1
            self.table[key] = found
        return found

    def const(self, value: float | int | bool | str, span: Span | None = None) -> Value:
        dtype = {bool: DType.BOOL, int: DType.INT, float: DType.REAL, str: DType.STRING}[
            type(value)
        ]
        host = Type(Instances.CONST, Shape(), Place.STATIC, dtype)
        # repr tells 1 from 1.0 and True, which are equal as keys.
        return self.make("const", (), host, span, value=value, text=repr(value))


@dataclass(frozen=True)
class Hyper:
    """A hyperparameter. `default` is a number, bool, string, None or a tuple of such."""

    name: str
    default: Any
    span: Span | None = None


@dataclass(frozen=True)
class AttributeDecl:
    """A static fact of a parameter or its group, e.g. `depth`."""

    name: str
    default: float | int | bool | str
    span: Span | None = None


@dataclass(frozen=True)
class InputDecl:
    """What the caller supplies with a step."""

    name: str
    type: Type
    span: Span | None = None


@dataclass(frozen=True)
class Plane:
    """The entry `entry`, a host number, of the first axis of `state`."""

    state: str
    entry: Value


@dataclass(frozen=True)
class StateDecl:
    """A state. `initial` is a host value (filled when created), or None where the rule itself
    chooses the first value by `first(name)`. `key` is its name in `state_dict()`. `birth` is
    the name of the state that stands for all that are created at the same place. `plane` is given
    of a plane that the schedule takes for a state of its own (schedule/planes.py)."""

    name: str
    key: str
    type: Type
    storage: Storage
    initial: Value | None
    birth: str
    scope: Scope = ()
    span: Span | None = None
    plane: Plane | None = None


@dataclass(frozen=True)
class Requirement:
    """A host condition that must hold when a group is added."""

    condition: Value
    text: str
    span: Span


@dataclass
class Rule:
    """A typed rule. `param` is the new p (None: unchanged), `updates` the new value of each state;
    a state that is not in `updates` keeps its value. States on the host, which are numbers of the
    group, are apart: `host_states` and `host_updates`."""

    name: str
    doc: str
    source: Source
    builder: Builder
    hypers: tuple[Hyper, ...]
    attributes: tuple[AttributeDecl, ...]
    inputs: tuple[InputDecl, ...]
    states: tuple[StateDecl, ...]
    requirements: tuple[Requirement, ...]
    view: str
    param: Value | None
    updates: dict[str, Value]
    dims: dict[str, Value]
    evaluated: Value | None = None
    reports: dict[str, Value] = field(default_factory=dict)
    reads_gradient: bool = True
    static_conditions: tuple[Value, ...] = ()
    host_states: tuple[StateDecl, ...] = ()
    host_updates: dict[str, Value] = field(default_factory=dict)

    def state(self, name: str) -> StateDecl:
        return next(each for each in (*self.states, *self.host_states) if each.name == name)

    def outputs(self) -> Iterator[tuple[str, Value]]:
        """The values a step leaves behind, by name: `p`, then states, then reports."""
        if self.param is not None:
            yield "p", self.param
        yield from self.updates.items()
        for name, value in self.reports.items():
            yield f"report {name}", value


def reachable(
    roots: Iterable[Value], *, into_loops: bool = True, beyond: Iterable[Value] = ()
) -> list[Value]:
    """All values that `roots` depend on, operands before users; those `beyond` are not looked at.
    Iterative: graphs can be deep."""
    seen = set(beyond)
    order: list[Value] = []
    stack: list[tuple[Value, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        value, done = stack.pop()
        if done:
            order.append(value)
            continue
        if value in seen:
            continue
        seen.add(value)
        stack.append((value, True))
        stack.extend((arg, False) for arg in reversed(operands(value, into_loops=into_loops)))
    return order


def operands(value: Value, *, into_loops: bool = True) -> tuple[Value, ...]:
    """A value's operands, with those that a loop's body reads from outside."""
    if value.op != "loop" or not into_loops:
        return value.args
    body: LoopBody = value.attr("body")
    inner = (*body.results, *((body.until,) if body.until is not None else ()))
    return (*value.args, *inner)


def scope_of(value: Value) -> Scope:
    """The host conditions of a reduction's statement (see the module's docstring)."""
    sides: tuple[bool, ...] = value.attr("scope")
    return tuple(zip(value.args[1:], sides, strict=True))
