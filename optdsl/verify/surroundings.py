"""What rules are given besides parameters and gradients: inputs, and a model to evaluate.

Input: the inputs that a rule declares, parameters. Output: random inputs of the declared shapes,
three entries along an axis of their own; a closure over a smooth function of the parameters,
which records where it was evaluated and what it gave.

A target is held to each half of a step by itself: `Recorded` gives the interpreter, for a point
that it asks for, what the target was given at the nearest of the points that it evaluated; how far
that may be off is judged like any other value (judge.py). What the model gives carries no error.

Relies on: torch, runtime/program.py, formats.py. Does not do: judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optdsl.interpreter import Member
from optdsl.interpreter.members import matrix_sizes
from optdsl.runtime.program import Program
from optdsl.runtime.storage.choice import compute_dtype
from optdsl.verify.formats import distance

ENTRIES = 3
"""Along an axis that an input has of its own."""


def draw_inputs(
    program: Program, params: Sequence[Tensor], groups: int, generator: torch.Generator
) -> dict[str, Any]:
    """What `step(inputs=...)` takes, for `params` in so many groups: what has p's shape may be
    negative, all else lies in [0.1, 1.1). Numbers of float32, so that no target rounds them."""
    found: dict[str, Any] = {}
    for each in program.inputs:
        if each.number:
            numbers = [_number(each.number, generator) for _ in range(groups)]
            found[each.name] = numbers if each.over == "group" else numbers[0]
        elif each.over == "all":
            found[each.name] = _drawn(each.shape, None, program.view, generator)
        elif each.over == "group":
            drawn = [_drawn(each.shape, None, program.view, generator) for _ in range(groups)]
            found[each.name] = drawn
        else:
            found[each.name] = [_drawn(each.shape, p, program.view, generator) for p in params]
    return found


def _number(kind: str, generator: torch.Generator) -> float | int | bool:
    """A number of the host; a whole one is 0 or 1, as it may count something."""
    drawn = float(torch.rand((), generator=generator))
    return drawn + 0.1 if kind == "real" else drawn < 0.5 if kind == "bool" else int(drawn < 0.5)


def _drawn(
    shape: Sequence[int | str], p: Tensor | None, view: str, generator: torch.Generator
) -> Tensor:
    batch, rows, cols = (1, 1, 1) if p is None else matrix_sizes(p.shape, view)
    sizes: dict[str, int] = {"batch": batch, "rows": rows, "cols": cols}
    sizes |= {"numel": rows * cols, "short": min(rows, cols), "long": max(rows, cols)}
    dims = [dim if isinstance(dim, int) else sizes.get(dim, ENTRIES) for dim in shape]
    drawn = torch.rand(dims, generator=generator) + 0.1
    like_p = tuple(shape[-2:]) in (("rows", "cols"), ("numel", 1))
    if not like_p:
        return drawn
    return torch.where(torch.rand(dims, generator=generator) < 0.5, -drawn, drawn)


@dataclass(frozen=True)
class Visit:
    """One evaluation: where the parameters were, and what came of it."""

    points: list[Tensor]
    loss: Tensor
    grads: list[Tensor]


@dataclass
class Task:
    """A closure over f = sum of (p - c)^2 / 2 + cos(3 p), c = 0.1 times the parameter's number.

    Parameters whose number is in `without` get no gradient. `visits` are those since it was last
    emptied.
    """

    params: Sequence[Tensor]
    without: frozenset[int] = frozenset()
    visits: list[Visit] = field(default_factory=list)

    def __call__(self) -> Tensor:
        points = [p.detach().to("cpu", torch.float64, copy=True) for p in self.params]
        total, grads = torch.zeros((), dtype=torch.float64), []
        for k, (p, q) in enumerate(zip(self.params, points, strict=True)):
            total = total + ((q - 0.1 * k).square() / 2 + torch.cos(3 * q)).sum()
            slope = self.slope(k, q).to(p.dtype)
            p.grad = None if k in self.without else slope.to(p.device)
            # Where a rule asks, what the loss does not reach has the gradient zero.
            grads.append(torch.zeros_like(q) if k in self.without else slope.to(torch.float64))
        dtype = max((compute_dtype(p.dtype) for p in self.params), key=lambda each: each.itemsize)
        loss = total.to(dtype)
        self.visits.append(Visit(points, loss.to(torch.float64), grads))
        return loss

    def slope(self, k: int, q: Tensor) -> Tensor:
        """The gradient of parameter k at q."""
        return q - 0.1 * k - 3 * torch.sin(3 * q)

    def recorded(self, members: Sequence[Member]) -> Recorded:
        """The model as the interpreter may evaluate it for `members`."""
        return Recorded([member.index for member in members], list(self.visits))


@dataclass
class Recorded:
    """What a target was given, as a model of the parameters at `indices`."""

    indices: Sequence[int]
    visits: Sequence[Visit]

    def nearest(self, points: Sequence[Tensor]) -> list[Tensor]:
        """The points of the visit that is nearest to `points`."""
        return self._of(self._visit(points).points)

    def loss(self, points: Sequence[Tensor] | None) -> Tensor:
        return (self.visits[0] if points is None else self._visit(points)).loss

    def grad(self, points: Sequence[Tensor]) -> list[Tensor]:
        return self._of(self._visit(points).grads)

    def _of(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[index] for index in self.indices]

    def _visit(self, points: Sequence[Tensor]) -> Visit:
        return min(self.visits, key=lambda visit: _apart(self._of(visit.points), points))


def _apart(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    gaps = (
        float(distance(x, y.reshape(x.shape)).square().sum()) for x, y in zip(a, b, strict=True)
    )
    return sum(gaps)
