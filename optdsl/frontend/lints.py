"""Warnings about a rule that has no errors: what is legal and probably not meant.

Input: a typed rule. Output: W603 (lost in float32), W604 (division by zero), W605 (an axis of a
vector), W606 (a stalled average), at values that the rule's own file wrote, and W607 (p stays).
Relies on: signs; hyperparameters stand at their defaults. Does not do: prove anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from optdsl.diagnostics import Label, Sink
from optdsl.frontend.signs import NONNEGATIVE, POSITIVE, Numbers, Signs
from optdsl.ir.nodes import Rule, Value, operands, reachable
from optdsl.ops import OPS, Kind
from optdsl.source import Span
from optdsl.types import Storage

SMALLEST = 2.0**-126
"""The smallest float32 with all its digits."""
LARGEST = (2 - 2.0**-23) * 2.0**127
STALLS = {Storage.BF16: 2.0**-9, Storage.FP16: 2.0**-12, Storage.FP8: 2.0**-5}
"""Weights of an average below which a typical move is less than half a unit in the last place."""
SIDES = frozenset({"rows", "cols", "short", "long"})
DIMENSIONS = SIDES | {"ndim"}


def lint(rule: Rule, place: Span, sink: Sink) -> None:
    """Warn about a rule that has no errors; `place` is its name."""
    if rule.param is None:
        sink.warning(
            "W607",
            f"`{rule.name}` never changes p",
            place,
            help="a step ends in `p -= lr * ...`, or in `step` or `use` of another rule",
        )
    Lints(rule, sink).run()


@dataclass
class Lints:
    rule: Rule
    sink: Sink
    roots: list[Value] = field(init=False)
    values: list[Value] = field(init=False)
    users: dict[Value, list[Value]] = field(init=False)
    numbers: Numbers = field(init=False)
    signs: Signs = field(init=False)

    def __post_init__(self) -> None:
        rule = self.rule
        self.roots = [value for _, value in rule.outputs()]
        self.roots += [rule.evaluated] if rule.evaluated is not None else []
        self.values = reachable(self.roots)
        self.users = {value: [] for value in self.values}
        for value in self.values:
            for arg in value.args:
                self.users[arg].append(value)
        self.numbers = Numbers(rule)
        self.signs = Signs(rule, self.numbers)
        self.signs.suppose(_guarded(self.values))

    def run(self) -> None:
        for value in self.values:
            span = value.span
            if span is None or span.source is not self.rule.source:
                continue
            if value.type.on_device and OPS[value.op].kind is Kind.MAP:
                self._constants(value, span)
            if value.op == "div":
                self._division(value, span)
        self._axes()
        self._averages()

    # ------------------------------------------------------------ numbers

    def _constants(self, value: Value, span: Span) -> None:
        for arg in value.args:
            number = None if arg.type.on_device else self.numbers.constant(arg)
            if number is None or number == 0 or not math.isfinite(number):
                continue
            if not SMALLEST <= abs(number) <= LARGEST:
                becomes = "infinite" if abs(number) > 1 else "0, or loses digits,"
                self.sink.warning(
                    "W603", f"{number:.3g} becomes {becomes} in float32", self._place(arg, span)
                )

    def _division(self, value: Value, span: Span) -> None:
        divisor = value.args[1]
        if self.signs.is_nonzero(divisor) or self._is_capped(value):
            return
        name = f"`{divisor.name}`" if divisor.name else "the divisor"
        place = self._place(divisor, span)
        inside = span.start <= place.start and place.end <= span.end
        self.sink.warning(
            "W604",
            f"{name} may be 0",
            place if inside else span,
            "",
            *(() if inside else (Label(place, "this is divided by"),)),
            help="add a small number, or choose with where(x > 0, ..., ...)",
        )

    def _is_capped(self, value: Value) -> bool:
        """min(1, c / x) is 1 where x is 0."""
        signs = [self.signs.of(arg) for arg in value.args]
        return (
            signs[0] == POSITIVE
            and signs[1] >= NONNEGATIVE
            and all(user.op == "min" for user in self.users[value])
        )

    def _place(self, value: Value, otherwise: Span) -> Span:
        known = value.span is not None and value.span.source is self.rule.source
        return value.span if known and value.span is not None else otherwise

    # ------------------------------------------------------------ axes

    def _axes(self) -> None:
        """Axes of what no condition on dimensions leads to."""
        for value in self._unconditional(self._asks_for_dimensions):
            along = OPS[value.op].kind is Kind.REDUCE and value.attr("axis") in (0, 1)
            along = along and not SIDES.isdisjoint(value.args[0].type.shape.dims)
            span = value.span
            if along and span is not None and span.source is self.rule.source:
                self.sink.warning(
                    "W605",
                    "over an axis of a vector each element is alone, or all are together",
                    span,
                    help="say which parameters are meant: when ndim == 2, or if ndim >= 2",
                )

    def _unconditional(self, is_condition: Callable[[Value], bool]) -> Iterable[Value]:
        """Values that a step computes whatever such conditions say."""
        seen: dict[Value, None] = {}
        stack = list(self.roots)
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen[value] = None
            if value.op in ("choose", "where") and is_condition(value.args[0]):
                stack.append(value.args[0])
            else:
                stack.extend(operands(value))
        return sorted(seen, key=lambda each: each.id)

    def _asks_for_dimensions(self, condition: Value) -> bool:
        return not condition.type.on_device and any(
            each.op == "name_matches" or (each.op == "size" and each.attr("name") in DIMENSIONS)
            for each in reachable([condition])
        )

    # ------------------------------------------------------------ averages

    def _averages(self) -> None:
        for state in self.rule.states:
            least = STALLS.get(state.storage)
            value, span = self.rule.updates.get(state.name), state.span
            if least is None or value is None or span is None:
                continue
            weight = _weight(value, state.name, self.numbers)
            if weight is None or not 0 < weight < least or span.source is not self.rule.source:
                continue
            self.sink.warning(
                "W606",
                f"an average that moves by {weight:.2g} a step stands still in "
                f"{state.storage.value}",
                span,
                help="store it as float32",
            )


def _guarded(values: list[Value]) -> Iterator[Value]:
    """What some condition compares: a division by it is taken where the condition holds."""
    for value in values:
        if value.op in ("where", "choose"):
            for compared in _compared(value.args[0]):
                yield compared
                if compared.op == "sqrt":
                    yield compared.args[0]


def _compared(condition: Value) -> Iterator[Value]:
    if condition.op in ("and", "or", "not"):
        for part in condition.args:
            yield from _compared(part)
    elif condition.op in ("gt", "ge", "lt", "le", "ne", "eq"):
        yield from condition.args


def _weight(value: Value, state: str, numbers: Numbers) -> float | None:
    """How far the state moves towards something else, where its update is an average."""
    if value.op == "lerp":
        old, _, weight = value.args
        return numbers.constant(weight) if _is_state(old, state) else None
    if value.op == "add":
        for part in value.args:
            for factor, rest in (part.args, part.args[::-1]) if part.op == "mul" else ():
                if _is_state(rest, state) and not factor.type.on_device:
                    kept = numbers.constant(factor)
                    return None if kept is None else 1 - kept
    return None


def _is_state(value: Value, name: str) -> bool:
    return value.op == "state" and value.attr("name") == name
