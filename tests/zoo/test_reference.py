"""The reference meaning of each shipped rule, and of the variants, keeps the published values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from optdsl import interpreter
from optdsl.frontend.scope import shipped_index
from optdsl.ir.nodes import Rule
from optdsl.types import Instances
from tests.rules import rules_of, shipped_rules
from tests.zoo.oracles import VARIANTS, Case, Given, cases, check, drawing


@cache
def rules() -> dict[str, Rule]:
    """Every rule of the shipped files and of the variants, by name."""
    return shipped_rules() | rules_of(VARIANTS)


class ReferenceRun:
    """A rule under the interpreter, its parameters in one group."""

    def __init__(self, case: Case, rule: Rule) -> None:
        self.rule = rule
        defaults = {hyper.name: hyper.default for hyper in rule.hypers}
        self.members = [
            interpreter.Member(
                p=p.clone(), g=None, group=dict(defaults), t=0, steps=0, index=i, attributes=given
            )
            for i, (p, given) in enumerate(zip(case.params, case.attributes, strict=True))
        ]
        for member, name in zip(self.members, case.names, strict=True):
            member.name = name
        declared = {each.name: each.default for each in rule.attributes}
        for member in self.members:
            member.attributes = declared | member.attributes
        self.start = case.start
        self.averages: list[Tensor] = []
        self.reports: Mapping[str, Any] = {}

    @property
    def params(self) -> Sequence[Tensor]:
        return [member.p for member in self.members]

    def step(self, grads: Sequence[Tensor], hyper: dict[str, Any], given: Given) -> None:
        with drawing(given):
            self._step(grads, hyper, given)

    def _step(self, grads: Sequence[Tensor], hyper: dict[str, Any], given: Given) -> None:
        for member, inputs in zip(self.members, given.inputs, strict=True):
            member.inputs = inputs
        for member, grad in zip(self.members, grads, strict=True):
            assert hyper.keys() <= member.group.keys(), "the rule lacks a hyperparameter"
            member.g, member.t, member.steps = grad, member.t + 1, member.steps + 1
            member.group.update(hyper)
        if self.start and self.members[0].t == 1:
            self._begin(given)
        if self.rule.evaluated is not None:
            shown = dataclasses.replace(self.rule, param=self.rule.evaluated, updates={})
            updates = interpreter.run(shown, self.members, closure=given.closure).updates
            self.averages = [update.p for update in updates if update.p is not None]
        outcome = interpreter.run(self.rule, self.members, closure=given.closure)
        self.reports = outcome.reports
        for member, update in zip(self.members, outcome.updates, strict=True):
            member.p = member.p if update.p is None else update.p
            member.states |= update.states
            member.shared |= outcome.shared

    def _begin(self, given: Given) -> None:
        """Put in the states of the case: of several with one key, that which a step would make."""
        made = interpreter.run(self.rule, self.members, closure=given.closure)
        for i, (member, update) in enumerate(zip(self.members, made.updates, strict=True)):
            for name in update.states:
                if (key := self.rule.state(name).key) in self.start:
                    member.states[name] = self.start[key][i]

    def evaluation(self) -> Sequence[Tensor]:
        return self.averages

    def state(self, key: str) -> Sequence[Tensor]:
        states = [each for each in self.rule.states if each.key == key]
        if states[0].type.instances is Instances.RUN:
            return [member.shared[states[0].name, None] for member in self.members]
        names = [state.name for state in states]
        return [next(m.states[name] for name in names if name in m.states) for m in self.members]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_reference_keeps_the_values(case: Case, record_property: Any) -> None:
    error = check(case, ReferenceRun(case, rules()[case.runs]))
    for name in kept_by(case):
        record_property("checked", ("oracle", name, case.source, error))


def kept_by(case: Case) -> list[str]:
    """The shipped rules that a case speaks of: the one that it runs, and those of its file that no
    case runs by name, which are within others."""
    run = {each.runs for each in cases()} - {case.runs}
    own = [n for n, path in shipped_index().items() if path.stem == case.stem and n not in run]
    return list(dict.fromkeys([*({case.runs} & shipped_index().keys()), *own]))


@pytest.mark.parametrize("case", cases(), ids=str)
def test_values_do_not_hold_by_accident(case: Case) -> None:
    """A parameter that starts a millionth away ends outside the tolerance."""
    moved = [p + 1e-6 * torch.ones_like(p) for p in case.params]
    if set(case.expected) == {"update"}:
        moved = case.params  # an update need not depend on where it starts: see the variants
        case = dataclasses.replace(
            case, expected={"update": [[u + 1e-6 for u in us] for us in case.expected["update"]]}
        )
    with pytest.raises(AssertionError, match="off by"):
        check(case, ReferenceRun(dataclasses.replace(case, params=moved), rules()[case.runs]))
