"""Library passes whose loops ask something of all parameters: run by all of them in lockstep.

Input: the batches of a stage, the model. Output: their results, written when all are done, so that
a closure that raises changes nothing. The function of such a pass is a generator: it yields

    place, asked, operand

place: ranks of loops with the number of the pass, and the rank of the statement, in order of
execution; two parameters at one place execute one statement. asked: "loss_at" or "grad_at", with
the parameters of the batch at the operand, or "sum over all" and so on, with what is to be reduced
of each parameter. Who is behind the others waits: what comes first is answered first, for all that
ask for it.

Relies on: library.py, model.py. Does not do: evaluations outside of loops (evaluations.py).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.model import Model
from optdsl.runtime.program import EVALUATIONS
from optdsl.runtime.stages.joins import total
from optdsl.runtime.stages.library import Batch

Asked = tuple[tuple[int, ...], str, Tensor]


class Walk:
    """One call of a pass, for members [lo, hi) of `batch`, on its way: `asked` is what it waits
    for, None once there is `made`."""

    def __init__(self, batch: Batch, lo: int, hi: int, results: Tensor) -> None:
        self.batch, self.lo, self.hi = batch, lo, hi
        self.indices = [index for _, index in batch.keys[lo:hi]]
        self.made: Sequence[Tensor] = ()
        self.asked: Asked | None = None
        self._steps: Generator[Asked, Tensor | None, Any] = batch.call(lo, hi, results)
        self.go_on(None)

    def go_on(self, answer: Tensor | None) -> None:
        """Takes an answer, in the dtype that values are computed in."""
        given = None if answer is None else answer.to(self.batch.dtype)
        try:
            self.asked = self._steps.send(given)
        except StopIteration as done:
            self.asked, self.made = None, done.value

    @property
    def operand(self) -> Tensor:
        """What it asks about, one for each member."""
        assert self.asked is not None
        return self.asked[2]


def run_batches(batches: Sequence[Batch], results: Tensor, model: Model | None) -> int:
    """Runs the library passes of a stage. How often the model was evaluated."""
    for batch in batches:
        if not batch.library.asks:
            batch.run(results)
    with torch.no_grad():
        tied = [batch for batch in batches if batch.library.asks]
        walks = [Walk(batch, *part, results) for batch in tied for part in batch.parts()]
        evaluations = 0
        while waiting := [walk.asked for walk in walks if walk.asked is not None]:
            place, asked, _ = min(waiting, key=lambda each: each[0])
            now = [walk for walk in walks if walk.asked is not None and walk.asked[0] == place]
            if asked in EVALUATIONS:
                assert model is not None
                _evaluate(asked, now, model)
                evaluations += 1
            else:
                _reduce(asked, now)
        for walk in walks:
            walk.batch.write(walk.lo, walk.hi, walk.made)
    return evaluations


def _evaluate(asked: str, walks: Sequence[Walk], model: Model) -> None:
    """Evaluates the model with all that ask for it at their points."""
    points: list[Tensor | None] = [None] * len(model.params)
    for walk in walks:
        for index, point in zip(walk.indices, walk.operand, strict=True):
            points[index] = point
    if asked == "loss_at":
        loss = model.loss(points)
        for walk in walks:
            walk.go_on(loss)
        return
    grads = model.grad(points)
    for walk in walks:
        own = [grads[index].reshape(walk.operand.shape[1:]) for index in walk.indices]
        walk.go_on(torch.stack(own))


def _reduce(asked: str, walks: Sequence[Walk]) -> None:
    """Reduces over the parameters of all that ask for it, or of each group."""
    op, over = asked.split(" over ")
    parts: dict[int, dict[int, Tensor]] = {}
    for walk in walks:
        group = parts.setdefault(walk.batch.group if over == "group" else 0, {})
        group |= zip(walk.indices, walk.operand.reshape(len(walk.indices)), strict=True)
    found = {group: total(op, (each[i] for i in sorted(each))) for group, each in parts.items()}
    for walk in walks:
        walk.go_on(found[walk.batch.group if over == "group" else 0])
