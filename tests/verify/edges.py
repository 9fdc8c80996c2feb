"""Trials where formulas have no answer, or nearly none: each kind of bad input, by a name.

Relies on: optdsl.verify. Does not do: choose rules, run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.optimizer import Optimizer
from optdsl.verify.surroundings import Task
from optdsl.verify.trial import Trial

SHAPES = ((4, 4), (1, 7), (40,), (7, 1), (3, 4), (2, 3, 2))
"""A vector with a body and a tail; one row, one column; sides below every default rank. The second
has no gradient in the third step."""
FEW = ((4, 4), (1, 7), (5,))
"""For a model that is evaluated many times, and for inputs of each sample."""
CLEAN = (0,)
"""The parameters whose gradients stay good where others are bad."""
BAD = {"NaN": torch.nan, "inf": torch.inf, "-inf": -torch.inf}
BEGIN = 1
"""The step from which gradients are bad; the next has good ones, and what is left of the bad."""


def spoil(tensor: Tensor, bad: float) -> None:
    """Puts a bad number where SIMD's body is, and another in the tail of the long vector."""
    flat = tensor.view(-1)
    flat[len(flat) // 3] = bad
    if len(flat) > 32:
        flat[-2] = bad


@dataclass
class Edge(Trial):
    """Bounds may say little: where nothing is known but NaN, or a step changes nothing."""

    steps: int = 3
    doubtful: float = 1.0


@dataclass
class BadGradients(Edge):
    """In the second step single elements of most gradients are `bad`, and of inputs of their own
    for each parameter."""

    bad: float = torch.nan

    def _give_gradients(
        self, params: Sequence[Tensor], step: int, generator: torch.Generator
    ) -> None:
        super()._give_gradients(params, step, generator)
        if step == BEGIN:
            self._spoil([p.grad for p in params])

    def _inputs(
        self,
        optimizer: Optimizer,
        params: Sequence[Tensor],
        step: int,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        inputs = super()._inputs(optimizer, params, step, generator)
        if step == BEGIN:
            for declared in optimizer.program.inputs:
                if not declared.over:
                    self._spoil(inputs[declared.name])
        return inputs

    def _task(self, params: Sequence[Tensor], step: int) -> Task:
        return BadTask(params, super()._task(params, step).without, bad=self.bad, now=step == BEGIN)

    def _spoil(self, tensors: Sequence[Tensor | None]) -> None:
        for i, tensor in enumerate(tensors):
            if tensor is not None and i not in CLEAN:
                spoil(tensor, self.bad)


@dataclass
class BadTask(Task):
    bad: float = torch.nan
    now: bool = True

    def slope(self, k: int, q: Tensor) -> Tensor:
        found = super().slope(k, q)
        if self.now and k not in CLEAN:
            spoil(found, self.bad)
        return found


class ZeroGradients(Edge):
    """Of a model and of all parameters; inputs are drawn."""

    def _give_gradients(
        self, params: Sequence[Tensor], step: int, generator: torch.Generator
    ) -> None:
        for p in params:
            p.grad = torch.zeros_like(p)

    def _task(self, params: Sequence[Tensor], step: int) -> Task:
        return FlatTask(params)


class FlatTask(Task):
    def slope(self, k: int, q: Tensor) -> Tensor:
        return torch.zeros_like(q)


class ZeroParameters(Edge):
    def _parameter(self, i: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.nn.Parameter(torch.zeros(shape, dtype=self.dtype, device=self.device))


class OneDirection(Edge):
    """Parameters and gradients are matrices of rank one, the gradients' the same in each step: what
    is made of their products is singular."""

    def _parameter(self, i: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        values = _of_one_direction(shape, generator).to(self.dtype)
        return torch.nn.Parameter(values.to(self.device))

    def _give_gradients(
        self, params: Sequence[Tensor], step: int, generator: torch.Generator
    ) -> None:
        again = torch.Generator().manual_seed(self.seed)
        for p in params:
            p.grad = _of_one_direction(p.shape, again).to(p.dtype).to(self.device)


def _of_one_direction(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Small whole numbers, so that their products and sums have no roundings."""
    rows, cols = shape[0], math.prod(shape[1:])
    column, row = (
        torch.randint(-3, 4, size, generator=generator) for size in ((rows, 1), (1, cols))
    )
    return (column * row).reshape(tuple(shape)).double()


def edges(kind: str) -> Any:
    """The trial of a kind: what makes one."""
    if kind in BAD:
        return lambda *args: BadGradients(*args, bad=BAD[kind])
    return OTHERS[kind]


OTHERS = {
    "zero gradients": ZeroGradients,
    "zero parameters": ZeroParameters,
    "one direction": OneDirection,
}
KINDS = (*BAD, *OTHERS)
