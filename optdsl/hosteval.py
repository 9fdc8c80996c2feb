"""Host numbers without a step: what conditions and sizes are for given facts.

Input: a host value and `Facts`. Output: a Python number. Relies on: the op table's host column.
Does not do: read an optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optdsl.axes import axis_sizes
from optdsl.ir.fold import host_function
from optdsl.ir.nodes import Rule, Value
from optdsl.types import BATCH, DType

STEADY = 1_000_003
"""A step far from the first; a prime, on which no `every k` falls."""
MIDDLE = {"rand": 0.5, "randn": 0.0, "exponential": 1.0}
"""What a draw is on average."""


@dataclass(frozen=True)
class Facts:
    """A parameter, which is `batch` matrices of `shape` and has `axes` of its own, its group's
    hyperparameters, the numbers `kept` of the group on the host, and the step."""

    hypers: Mapping[str, Any]
    attributes: Mapping[str, Any]
    shape: tuple[int, int] = (1, 1)
    t: int = STEADY
    first: bool = False
    name: str = ""
    ndim: int = 2
    batch: int = 1
    kept: Mapping[str, float] = field(default_factory=dict)
    axes: tuple[int, ...] = ()
    sizes: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        rows, cols = self.shape
        sizes = {
            "rows": rows,
            "cols": cols,
            "short": min(rows, cols),
            "long": max(rows, cols),
            "numel": self.batch * rows * cols,
            "ndim": self.ndim,
            BATCH: self.batch,
            **axis_sizes(self.axes or (rows, cols)),
        }
        object.__setattr__(self, "sizes", sizes)

    @staticmethod
    def steady(rule: Rule, shape: tuple[int, int]) -> Facts:
        """A matrix in the long run, with everything at its default."""
        hypers = {each.name: each.default for each in rule.hypers}
        attributes = {each.name: each.default for each in rule.attributes}
        facts = Facts(hypers, attributes, shape)
        kept = {s.name: host_number(s.initial, facts) for s in rule.host_states if s.initial}
        return replace(facts, kept=kept)


def host_number(value: Value, facts: Facts, known: Mapping[Value, bool] | None = None) -> Any:
    """What `value` is for `facts`: a number, a bool or a string. `known` conditions come first."""
    if known and value in known:
        return known[value]
    match value.op:
        case "const":
            return value.attr("value")
        case "hyper":
            found = facts.hypers[value.attr("name")]
            for index in value.attr("index"):
                found = found[index]
            return found
        case "host_state":
            return facts.kept[value.attr("name")]
        case "attribute":
            return facts.attributes[value.attr("name")]
        case "size":
            return facts.sizes[value.attr("name")]
        case "t" | "steps":
            return facts.t
        case "first":
            return facts.first
        case "evaluating":
            return False
        case "name_matches":
            return re.search(value.attr("pattern"), facts.name) is not None
        case "input":
            return 1 if value.type.dtype is not DType.BOOL else True
        case "workers" | "lead_size":
            return 1
        case "rank":
            return 0
        case "rand" | "randn" | "exponential":
            return MIDDLE[value.op]
        case "where":
            taken = value.args[1 if host_number(value.args[0], facts, known) else 2]
            return host_number(taken, facts, known)
    return host_function(value.op)(*(host_number(arg, facts, known) for arg in value.args))
