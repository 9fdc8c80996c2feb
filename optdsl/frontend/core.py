"""What is known while one rule is worked out: current values, frames, the path of conditions.

Working out a rule is running it once on symbols. All that a statement can change (p, g, states,
locals) lies in one dictionary, so that the two sides of an `if` are run on copies and merged by one
function. Functions and inner rules are inlined: a call is a frame.

Relies on: emit. Does not do: any construct of the language (expressions, calls, statements, rules).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from optdsl.diagnostics import Label, Sink
from optdsl.frontend.bindings import (
    NONE,
    POISON,
    Binding,
    GivenUp,
    Poison,
    Reported,
    Symbol,
    Undefined,
)
from optdsl.frontend.emit import Emitter
from optdsl.frontend.scope import Scope as FileScope
from optdsl.ir.nodes import (
    AttributeDecl,
    Builder,
    Hyper,
    InputDecl,
    Requirement,
    Scope,
    StateDecl,
    Value,
)
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import Instances

DEPTH = 64
"""Calls nest at most this deep."""
CALLS = 10_000
"""Calls that one rule inlines at most: functions that call two others double with every level."""
STATEMENTS = 50_000
"""Statements that one rule runs at most, loops unrolled and functions inlined: a few seconds."""

Key = tuple[Any, ...]
P: Key = ("p",)


@dataclass
class RuleFrame:
    """One instance of a rule inside the whole: `inner` are the rules that a wrapper steps;
    `prefix` stands before the keys of its states where the wrapper steps several; `way` are the
    names of the inner rules that lead to it. `run` is the number of this run of it, its own `t`,
    where it does not run in every step; `depth` the number of conditions that it stands under."""

    number: int
    item: ast.Item
    inner: dict[str, Binding] = field(default_factory=dict)
    prefix: str = ""
    way: Key = ()
    run: Value | None = None
    depth: int = 0

    @property
    def gradient(self) -> Key:
        return ("g", self.number)


@dataclass
class Frame:
    """A body being run. `kind` is rule, def or transform; `call` is where it was called from."""

    number: int
    kind: str
    scope: FileScope
    rule: RuleFrame
    item: ast.Item
    call: Span | None = None
    result_name: str | None = None

    def local(self, name: str) -> Key:
        return ("local", self.number, name)


class Period(NamedTuple):
    """What stands under `every k from s`: how often it has run by now, and what of it must not
    change, so that this is true."""

    runs: Value
    settled: tuple[Value, ...]


@dataclass(frozen=True)
class StateSlot:
    """What a state's name is bound to; its current value lies under ("state", name)."""

    name: str


@dataclass
class Core:
    sink: Sink
    builder: Builder = field(default_factory=Builder)
    store: dict[Key, Any] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    path: Scope = ()
    device_depth: int = 0
    loop_depth: int = 0
    unrolled_depth: int = 0
    turns: tuple[Value, ...] = ()
    axis: int | None = None
    axis_conditions: set[Value] = field(default_factory=set)
    axis_states: dict[Key, dict[str, StateSlot]] = field(default_factory=dict)
    sites: dict[Key, int] = field(default_factory=dict)
    hypers: dict[str, Hyper] = field(default_factory=dict)
    hyper_owners: dict[str, RuleFrame] = field(default_factory=dict)
    runs: dict[Key, list[Scope]] = field(default_factory=dict)
    attributes: dict[str, AttributeDecl] = field(default_factory=dict)
    inputs: dict[str, InputDecl] = field(default_factory=dict)
    states: dict[str, StateDecl] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)
    requirements: list[Requirement] = field(default_factory=list)
    reports: dict[str, Value] = field(default_factory=dict)
    evaluations: list[tuple[Scope, Value]] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    static_conditions: list[Value] = field(default_factory=list)
    periods: dict[Value, Period] = field(default_factory=dict)
    emit: Emitter = field(init=False)

    def __post_init__(self) -> None:
        self.emit = Emitter(self.builder, self.sink, self.report)

    # ------------------------------------------------------------ errors

    def report(
        self,
        code: str,
        message: str,
        span: Span,
        text: str = "",
        *more: Label,
        help: str | None = None,  # noqa: A002
    ) -> None:
        """As Sink.error; an error inside a function is shown where the user's file calls it."""
        notes = []
        for frame in reversed(self.frames):
            if frame.call is None:
                break
            if frame.scope.module.span.source is not self.frames[0].scope.module.span.source:
                more = (Label(span, text or "here"), *more)
                span, text = frame.call, f"in this call of `{frame_name(frame)}`"
            else:
                notes.append(f"in the call of `{frame_name(frame)}` at {frame.call}")
        self.sink.error(code, message, span, text, *more, help=help, notes=notes)

    def fail(
        self,
        code: str,
        message: str,
        span: Span,
        text: str = "",
        *more: Label,
        help: str | None = None,  # noqa: A002
    ) -> NoReturn:
        self.report(code, message, span, text, *more, help=help)
        raise Reported

    def give_up(self, message: str, span: Span) -> NoReturn:
        """The rule unfolds without end, or nearly so."""
        self.report("E230", message, span)
        raise GivenUp

    # ------------------------------------------------------------ frames and values

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    def number(self, what: str) -> int:
        """A fresh number, in the order of the program."""
        self.counters[what] = self.counters.get(what, 0) + 1
        return self.counters[what]

    def textual_place(self, span: Span) -> Key:
        """Where something is written, with the calls that lead there: one place for all passes of
        an unrolled loop and for both sides of a branch that goes on in each."""
        calls = [each.call for each in self.frames if each.call is not None]
        return tuple((each.source.name, each.start, each.end) for each in (*calls, span))

    @contextmanager
    def entered(self, frame: Frame) -> Iterator[None]:
        call = frame.call or frame.item.name_span
        if not isinstance(frame.item, ast.Wrapper) and any(
            each.item is frame.item for each in self.frames
        ):
            self.fail(
                "E230",
                f"`{frame.item.name}` runs itself",
                call,
                help="calls are inlined, so they cannot recurse; `repeat` and `for` loop",
            )
        if len(self.frames) >= DEPTH:
            self.fail("E230", f"calls nest more than {DEPTH} deep", call)
        if self.number("call") > CALLS:
            self.give_up(f"the rule inlines more than {CALLS:,} calls", call)
        self.frames.append(frame)
        try:
            yield
        finally:
            self.frames.pop()

    @contextmanager
    def sited(self, scope: FileScope, call: Span) -> Iterator[None]:
        """What another file's function makes is put down to the call in the user's file."""
        before = self.builder.site
        if (
            before is None
            and scope.module.span.source is not self.frames[0].scope.module.span.source
        ):
            self.builder.site = call
        try:
            yield
        finally:
            self.builder.site = before

    @contextmanager
    def conditioned(self, condition: Value, side: bool) -> Iterator[None]:
        """Statements run where `condition` is `side`."""
        before, depth = self.path, self.device_depth
        if condition.type.on_device:
            self.device_depth += 1
        else:
            self.path = (*before, (condition, side))
        try:
            yield
        finally:
            self.path, self.device_depth = before, depth

    def read(self, key: Key) -> Binding | None:
        bound = self.store.get(key)
        if not isinstance(bound, StateSlot):
            return bound
        value: Binding = self.store[("state", bound.name)]
        shared = self.states[bound.name].type.instances < Instances.PARAM
        if shared and isinstance(value, Value) and value.type.instances is Instances.PARAM:
            assert value.span is not None
            return Undefined(
                value.span,
                "only the parameters that run this branch know its new value",
                f"read `{bound.name}` before the branch or inside it",
            )
        return value

    def poison(self, key: Key) -> None:
        """The name has no value, and an error says why."""
        bound = self.store.get(key)
        self.store[("state", bound.name) if isinstance(bound, StateSlot) else key] = POISON

    # ------------------------------------------------------------ branches

    def merge(
        self, condition: Value, then: dict[Key, Any], otherwise: dict[Key, Any], span: Span
    ) -> None:
        """Make `store` what it is after both sides of an `if`."""
        merged: dict[Key, Any] = {}
        for key in dict.fromkeys([*then, *otherwise]):
            merged[key] = self._merged(key, condition, then, otherwise, span)
        self.store = merged

    def _merged(
        self,
        key: Key,
        condition: Value,
        then: dict[Key, Any],
        otherwise: dict[Key, Any],
        span: Span,
    ) -> Any:
        a: Any = then.get(key)
        b: Any = otherwise.get(key)
        if a is b or a == b:
            return a
        if isinstance(a, Poison) or isinstance(b, Poison):
            return POISON
        if key[0] == "state":
            # A state that only one side declares keeps, on the other, what it has in memory.
            a, b = (self.state_value(key[1]) if x is None else x for x in (a, b))
            return self._merged_state(key[1], condition, a, b, span)
        if a is None or b is None:
            side = "holds" if b is None else "fails"
            return Undefined(span, f"it is assigned only where the condition {side}")
        if isinstance(a, StateSlot) or isinstance(b, StateSlot):
            return Undefined(span, "it is a state in one branch", "give the two different names")
        return self.select(condition, a, b, span)

    def _merged_state(
        self, name: str, condition: Value, a: Binding, b: Binding, span: Span
    ) -> Binding:
        state = self.states[name]
        narrow = condition.type.instances > max(state.type.instances, Instances.GROUP)
        if narrow and condition.type.on_device:
            self.report(
                "E408",
                f"the state `{name}` is shared and cannot depend on a condition that each "
                "parameter has of its own",
                span,
                help="reduce the condition with over = all or over = group",
            )
            return POISON
        return self.select(condition, a, b, span)

    def state_value(self, name: str) -> Value:
        """The state as it lies in memory at the start of the step."""
        state = self.states[name]
        op = "state" if state.type.on_device else "host_state"
        return self.builder.make(op, (), state.type, state.span, name=name)

    def select(self, condition: Value, a: Binding, b: Binding, span: Span) -> Binding:
        """`a` where the condition holds, else `b`; both must be values, or tuples of them."""
        if isinstance(a, Value) and isinstance(b, Value):
            try:
                if condition.type.on_device:
                    chosen = self.emit.map("where", [condition, a, b], span)
                else:
                    chosen = self.emit.choose(condition, a, b, span)
            except Reported:
                return POISON
            if chosen.name is None and a.name == b.name and chosen is not a and chosen is not b:
                chosen.name = a.name
            return chosen
        if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            return tuple(self.select(condition, x, y, span) for x, y in zip(a, b, strict=True))
        if isinstance(a, Poison) or isinstance(b, Poison):
            return POISON
        return Undefined(span, "the branches give it different kinds of values")


def frame_name(frame: Frame) -> str:
    return frame.item.name


def is_none(binding: Binding | None) -> bool:
    return binding is None or (isinstance(binding, Symbol) and binding == NONE)
