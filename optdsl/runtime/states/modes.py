"""Train and evaluation values of the parameters: `eval()`, `train()` and `evaluating()`.

Input: an optimizer whose rule says `eval VALUE`. Output: parameters that hold that value, and back.
What they hold in training lies in the meantime under `p.train` in their states, so that copies,
pickles and checkpoints made in evaluation lose nothing: loaded, they are in evaluation, too.

Relies on: cohorts.py, transfer.py. Does not do: work the value out (the engine does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.parameters.cohorts import Cohort
from optdsl.runtime.program import Program
from optdsl.runtime.states.decisions import INACTIVE
from optdsl.runtime.states.holdings import Group
from optdsl.runtime.states.matching import STEPS
from optdsl.runtime.states.transfer import OF_ROUNDING, TRAIN


@contextmanager
def evaluation(
    program: Program,
    cohorts: Sequence[Cohort],
    groups: Sequence[Group],
    hypers: Sequence[Mapping[str, Any]],
    born: Sequence[frozenset[str]],
) -> Iterator[tuple[int, ...]]:
    """The variant that evaluates each cohort, INACTIVE where the states that it needs are not
    there; `t` and `steps` are those of the last step. `born` gives the states of each variant."""
    decisions = []
    for cohort in cohorts:
        e, group = cohort.e, cohort.group_index
        e.t, e.steps = cohort.t, groups[group].get(STEPS, 0)
        e.evaluating, e.g_scale = True, 1.0
        variant = program.decide(hypers[group], e) if cohort.t else INACTIVE
        there = variant != INACTIVE and born[variant] <= e.born
        decisions.append(variant if there else INACTIVE)
    try:
        yield tuple(decisions)
    finally:
        for cohort in cohorts:
            cohort.e.evaluating = False


class Evaluating:
    """The part of an optimizer that switches between the two values."""

    program: Program
    state: Any
    param_groups: list[dict[str, Any]]
    _engine: Any
    _is_evaluating = False

    def eval(self) -> None:
        """Gives each parameter the value that the rule evaluates with; `train` takes it back.

        Parameters that were never stepped keep their value. Does nothing in evaluation, and for
        rules without `eval`. A step in evaluation is an error.
        """
        if self._is_evaluating or "evaluating" not in self.program.reads:
            return
        params = [p for group in self.param_groups for p in group["params"]]
        stepped = {p: own for p in params if (own := self.state.get(p)) and int(own["step"])}
        kept = {p: p.detach().clone() for p in stepped}
        beside = [own[key] for own in stepped.values() for key in OF_ROUNDING & own.keys()]
        before = [tensor.clone() for tensor in beside]
        with torch.no_grad():
            self._engine.evaluate()
            # What lies beside a rounded parameter belongs to its value in training.
            for tensor, value in zip(beside, before, strict=True):
                tensor.copy_(value)
        for p, value in kept.items():
            self.state[p][TRAIN] = value
        self._is_evaluating = bool(kept)

    def train(self) -> None:
        """Gives each parameter what it held in training, bit for bit. Does nothing in training."""
        if not self._is_evaluating:
            return
        with torch.no_grad():
            for p, own in list(self.state.items()):
                if TRAIN in own:
                    p.copy_(own.pop(TRAIN))
        self._is_evaluating = False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """`with optimizer.evaluating(): ...`; leaves the mode that it found."""
        before = self._is_evaluating
        self.eval()
        try:
            yield
        finally:
            if not before:
                self.train()

    def _find_mode(self) -> None:
        """Takes the mode from the states, after they were replaced."""
        self._is_evaluating = any(isinstance(own.get(TRAIN), Tensor) for own in self.state.values())
