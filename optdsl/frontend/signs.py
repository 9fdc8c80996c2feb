"""What is known of the signs of values: enough to tell a safe divisor from one that may be 0.

Input: a typed rule. Output: for a host value its number at the defaults, for a tensor whether it is
never negative, or always positive. Relies on: the op table's `host` column.
Does not do: prove; NaN and overflow are left out of account, and a weight is taken to lie between 0
and 1, as that of an average does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from optdsl.axes import axis_sizes
from optdsl.ir.fold import host_function
from optdsl.ir.nodes import Rule, Value, reachable
from optdsl.ops import OPS, Kind

SAMPLES = (1, 2, 1000)
"""Steps at which host numbers are looked at."""
SIZES = {"rows": 8, "cols": 6, "short": 6, "long": 8, "numel": 48, "ndim": 2, "batch": 1}
SIZES |= axis_sizes((8, 6))

POSITIVE, NONNEGATIVE, ANY = 2, 1, 0
# fmt: off
KEEP = frozenset({
    "pow", "sum", "max_of", "min_of", "full", "index", "transpose", "diag", "wide", "unwide",
    "tall", "untall", "unfold", "fold", "take", "flip", "reshape", "kth_smallest", "kth_of",
    "gather",
    "worker_sum", "worker_max", "worker_min",
})
# fmt: on
"""Operations whose result has the sign of their first operand."""


@dataclass
class Numbers:
    """Host numbers at the defaults of the hyperparameters, for a matrix of 8 by 6."""

    rule: Rule
    known: dict[int, dict[Value, Any]] = field(default_factory=dict)

    def at(self, value: Value, t: int) -> float | None:
        """The number at update t; None where it depends on what is not known here."""
        known = self.known.setdefault(t, {})
        if value not in known:
            for each in reachable([value]):
                if each not in known:
                    known[each] = self._one(each, known, t)
        found = known[value]
        return float(found) if isinstance(found, int | float) else None

    def _one(self, value: Value, known: dict[Value, Any], t: int) -> Any:
        if value.op == "const":
            return value.attr("value")
        if value.op in ("t", "steps"):
            return t
        if value.op == "size":
            return SIZES[value.attr("name")]
        if value.op == "hyper":
            return self._default(value)
        if value.op == "attribute":
            return next(
                each.default for each in self.rule.attributes if each.name == value.attr("name")
            )
        operands = [known[arg] for arg in value.args]
        if value.type.on_device or OPS[value.op].kind is not Kind.MAP or None in operands:
            return None
        try:
            return host_function(value.op)(*operands)
        except (OverflowError, ValueError, TypeError):
            return None

    def _default(self, value: Value) -> Any:
        found = next(h.default for h in self.rule.hypers if h.name == value.attr("name"))
        for index in value.attr("index"):
            found = found[index]
        return found

    def constant(self, value: Value) -> float | None:
        """The number, where it is made of literals and hyperparameters alone."""
        leaves = {each.op for each in reachable([value]) if not each.args}
        return self.at(value, 1) if leaves <= {"const", "hyper"} else None

    def samples(self, value: Value) -> list[float]:
        """The number at some steps; empty where it is not known."""
        found = [self.at(value, t) for t in SAMPLES]
        return [] if None in found else [number for number in found if number is not None]


@dataclass
class Signs:
    """Signs of values. States are worked out together: each is first taken to be as its initial
    value is, and given up where its update shows otherwise."""

    rule: Rule
    numbers: Numbers
    states: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    memo: dict[Value, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bound_states()
        for state in self.rule.states:
            start = None if state.initial is None else self.numbers.at(state.initial, 1)
            self.states[state.name] = POSITIVE if start is None else _sign(start)
        while True:
            self.memo.clear()
            lower = {
                name: self.of(value)
                for name, value in self.rule.updates.items()
                if self.of(value) < self.states[name]
            }
            if not lower:
                return
            self.states |= lower

    def _bound_states(self) -> None:
        """A state that no update takes above its first value stays at most that."""
        for state in self.rule.states:
            start = None if state.initial is None else self.numbers.at(state.initial, 1)
            self.bounds[state.name] = start if start is not None and start >= 0 else math.inf
        for name, value in self.rule.updates.items():
            if not self.at_most(value) <= self.bounds[name]:
                self.bounds[name] = math.inf

    def at_most(self, value: Value) -> float:
        """What a value of at least 0 does not exceed; inf where that is not known."""
        known: dict[Value, float] = {}
        for each in reachable([value], into_loops=False):
            known[each] = math.inf
            if not each.type.on_device:
                samples = self.numbers.samples(each)
                known[each] = max(samples) if samples and min(samples) >= 0 else math.inf
            elif each.op == "state":
                known[each] = self.bounds[each.attr("name")]
            elif each.op == "mul":
                known[each] = math.prod(known[arg] for arg in each.args)
        return known[value]

    def suppose(self, positive: Iterable[Value]) -> None:
        """Take these tensors to be positive, after the states are worked out."""
        self.memo.clear()
        self.memo.update({value: POSITIVE for value in positive if value.type.on_device})

    def is_nonzero(self, value: Value) -> bool:
        """Whether nothing speaks against dividing by the value."""
        if not value.type.on_device:
            return 0 not in self.numbers.samples(value)
        return self.of(value) == POSITIVE

    def of(self, value: Value) -> int:
        """POSITIVE, NONNEGATIVE or ANY."""
        if value not in self.memo:
            for each in reachable([value], into_loops=False):
                if each not in self.memo:
                    self.memo[each] = self._one(each)
        return self.memo[value]

    def _one(self, value: Value) -> int:
        if not value.type.on_device:
            samples = self.numbers.samples(value)
            return min(map(_sign, samples)) if samples else ANY
        if value.op == "state":
            return self.states[value.attr("name")]
        return self._by_op(value, [self.memo[arg] for arg in value.args])

    def _by_op(self, value: Value, signs: list[int]) -> int:
        match value.op:
            case "exp":
                return POSITIVE
            case "rand" | "exponential":
                return NONNEGATIVE
            case "abs" | "sqrt":
                return max(signs[0], NONNEGATIVE)
            case "mul" if value.args[0] is value.args[1]:
                return max(signs[0], NONNEGATIVE)
            case "sub" if not value.args[0].type.on_device:
                samples = self.numbers.samples(value.args[0])
                above = samples and min(samples) > self.at_most(value.args[1])
                return POSITIVE if above else ANY
            case "mul" | "div" | "min":
                return min(signs)
            case "max":
                return max(signs)
            case "add" | "lerp":
                return _added(*signs[:2])
            case "fma":
                return _added(min(signs[:2]), signs[2])
            case "where" | "choose":
                return min(signs[1:])
            case "put_index":
                return min(signs[0], signs[2])
            case "triu":
                return min(signs[0], NONNEGATIVE)
        return signs[0] if value.op in KEEP else ANY


def _added(a: int, b: int) -> int:
    return ANY if ANY in (a, b) else max(a, b)


def _sign(number: float) -> int:
    if math.isnan(number) or number < 0:
        return ANY
    return POSITIVE if number > 0 else NONNEGATIVE
