"""What the interpreter is given and what it gives back: members of a step, updates, the model.

Relies on: torch, for tensors. Does not do: evaluate anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass
class Member:
    """One parameter that takes part in a step.

    `states` holds the states that exist, by the rule's name for them, `shared` those over = group |
    all, and the numbers that the host keeps, by (name, group index or None). `t` counts this
    update, from 1; `index` tells parameters apart in random draws. `group` holds the
    hyperparameters, and the draws' `seed` (0 if missing).
    """

    p: Tensor
    g: Tensor | None
    group: dict[str, Any]
    t: int
    steps: int = 1
    group_index: int = 0
    index: int = 0
    name: str = ""
    states: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[tuple[str, int | None], Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Update:
    """What a step leaves of one member: the new p (None: unchanged), and the states that changed or
    began in this step, with p's shape where they have it."""

    p: Tensor | None
    states: dict[str, Tensor]


@dataclass
class Outcome:
    """What a step leaves. `reports` are numbers, or tensors [1, 1]."""

    updates: list[Update]
    shared: dict[tuple[str, int | None], Any]
    reports: dict[str, Tensor | float]


class Closure(Protocol):
    """The model, as `loss(q)` and `grad(q)` see it. `points` has one tensor per member, None where
    the parameters are as the caller's own evaluation left them."""

    def loss(self, points: Sequence[Tensor] | None) -> Tensor: ...

    def grad(self, points: Sequence[Tensor]) -> list[Tensor]: ...


def matrix_sizes(shape: Sequence[int], view: str) -> tuple[int, int, int]:
    """batch, rows, cols of a tensor of `shape` under a view of p."""
    if view == "flat" or len(shape) < 2:
        return 1, math.prod(shape), 1
    if view == "last":
        return math.prod(shape[:-2]), shape[-2], shape[-1]
    return 1, shape[0], math.prod(shape[1:])
