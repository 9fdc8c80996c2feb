"""Compiled rules keep the published values themselves, as a user calls them: C, in float64.

The interpreter keeps them, too (test_reference), and is what C is held to elsewhere; here nothing
stands between a published number and the generated code.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.rules import CORE, interpreted
from tests.runtime.test_rules import compiled
from tests.zoo.oracles import Case, Given, Quadratic, cases, check, drawing


@functools.cache
def by_library(name: str) -> Any:
    """The class of a rule all of whose draws library passes make, so that they can be given. What
    kernels draw is held to the interpreter, bit for bit, by test_draws."""
    with patch("optdsl.schedule.levels.drawn_in_kernels", lambda value, view: False):
        return compiled.__wrapped__(name)


class CompiledRun:
    """An optimizer of the compiled class; parameters with attributes have groups of their own."""

    def __init__(self, case: Case) -> None:
        self.params = [Parameter(p.clone()) for p in case.params]
        names = [name or f"p{i}" for i, name in enumerate(case.names)]
        named = list(zip(names, self.params, strict=True))
        groups: list[dict[str, Any]] = [{"params": named}]
        if any(case.attributes):
            given = zip(named, case.attributes, strict=True)
            groups = [{"params": [pair], **attributes} for pair, attributes in given]
        made = by_library(case.runs) if case.draws or case.stream else compiled(case.runs)
        self.optimizer = made(groups, backend="cpu", **case.hyper_at(1))
        if case.start:
            begun = self.optimizer.state_dict()
            for i, _ in enumerate(self.params):
                states = {key: values[i] for key, values in case.start.items()}
                begun["state"][i] = {"step": torch.tensor(0.0), **states}
            self.optimizer.load_state_dict(begun)

    def step(self, grads: Sequence[Tensor], hyper: dict[str, Any], given: Given) -> None:
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g
        for group in self.optimizer.param_groups:
            group.update(hyper)
        own = given.inputs[0] if given.inputs else {}
        inputs = {name: [each[name] for each in given.inputs] for name in own}
        closure = None if given.closure is None else self._closure(given.closure)
        with drawing(given):
            self.optimizer.step(closure, inputs=inputs)

    def _closure(self, model: Quadratic) -> Any:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            with torch.enable_grad():
                loss = model.loss(None)
                loss.backward()
            return loss

        return closure

    def evaluation(self) -> Sequence[Tensor]:
        raise AssertionError("TAKEN leaves cases with values for evaluation out")

    def state(self, key: str) -> Sequence[Tensor]:
        shared = self.optimizer.param_groups[0]
        return [shared[key] if key in shared else self.optimizer.state[p][key] for p in self.params]

    @property
    def reports(self) -> Mapping[str, Any]:
        return self.optimizer.reports


TAKEN = [
    pytest.param(case, marks=() if case.runs in CORE else pytest.mark.slow)
    for case in cases()
    if interpreted().get(case.runs, "the model") == "the model" and "eval" not in case.expected
]


@pytest.mark.parametrize("case", TAKEN, ids=str)
def test_generated_c_keeps_the_values(case: Case) -> None:
    with torch.no_grad():
        check(case, CompiledRun(case))
