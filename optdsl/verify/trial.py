"""A few steps of one target on random tensors.

Input: a compiled rule, its class, a target, a dtype, a setting. Output: an `Outcome`.

Each step starts from what the target itself holds, so that every difference is of one step. The
hyperparameters change from step to step, one parameter lacks a gradient once, and in the middle
the state is saved, and loaded by a second optimizer, which goes on.

Relies on: judge, settings, runtime. Does not do: say what is right (judge.py), choose what to try
(`verify`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optdsl.interpreter import Member
from optdsl.ir.nodes import Rule
from optdsl.passes.variants import Straight
from optdsl.runtime.native import NativeError
from optdsl.runtime.optimizer import Optimizer
from optdsl.runtime.program import Input
from optdsl.runtime.states.holdings import is_shared
from optdsl.runtime.states.transfer import loaded
from optdsl.schedule.plan import Plan
from optdsl.verify.judge import DOUBTFUL, Judge, Outcome, Place
from optdsl.verify.settings import Setting, later
from optdsl.verify.surroundings import Task, draw_inputs

STEPS = 6
"""The fifth is that of `every 5`, Lookahead's default."""
KINDS = ("weight", "bias", "embed.weight", "norm.weight", "head.weight")
"""Ends of parameters' names, by which rules tell them apart."""
Shared = dict[tuple[str, int | None], Any]
ZEROS = 0.02  # of a gradient's elements


@dataclass(frozen=True)
class Subject:
    """A rule, its plan, the straight variants after the last rewriting, and its class."""

    rule: Rule
    plan: Plan
    variants: Sequence[Straight]
    optimizer: Callable[..., Optimizer]


@dataclass
class Trial:
    subject: Subject
    target: str
    dtype: torch.dtype
    setting: Setting
    shapes: Sequence[tuple[int, ...]]
    device: str = "cpu"
    seed: int = 0
    steps: int = STEPS
    doubtful: float = DOUBTFUL
    updates: dict[str, int] = field(default_factory=dict)

    def run(self) -> Outcome:
        """The outcome; what the target raises is a failure of it."""
        subject, rule = self.subject, self.subject.rule
        outcome = Outcome(rule.name, self.target, self.dtype, self.setting.label)
        try:
            self._steps(Judge(rule, subject.plan, subject.variants, outcome))
        except NativeError:  # no fault of the rule's
            raise
        except Exception as error:
            outcome.failure = f"{type(error).__name__}: {error}".splitlines()[0]
        outcome.failure = outcome.failure or outcome.doubt(self.doubtful)
        return outcome

    def _steps(self, judge: Judge) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        params = [self._parameter(i, shape, generator) for i, shape in enumerate(self.shapes)]
        optimizer = self._optimizer(params)
        fixed = frozenset(optimizer.program.static_hypers)
        for step in range(self.steps):
            for group in optimizer.param_groups:
                now = {name: group[name] for name in self.setting.hypers}
                group.update(later(self.subject.rule, now, fixed, step))
            task = self._task(params, step) if self._evaluates else None
            inputs = self._inputs(optimizer, params, step, generator)
            if task is None:
                self._give_gradients(params, step, generator)
            else:
                task()  # the gradients that the step will find
                task.visits.clear()
            members, places = self._members(optimizer, step, inputs)
            optimizer.step(task, **({"inputs": inputs} if inputs else {}))
            expected = judge.expect(members, None if task is None else task.recorded(members))
            judge.compare(f"step {step + 1}", expected, places)
            if step == self.steps // 2:
                params, optimizer = self._reloaded(params, optimizer)

    # ------------------------------------------------------------ optimizers and tensors

    def _parameter(self, i: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0 ** (i % 3 - 2)
        return torch.nn.Parameter(values.to(self.dtype).to(self.device))

    def _optimizer(self, params: Sequence[Tensor]) -> Optimizer:
        """Two groups, the second with other attributes."""
        named = [(f"layer{i}.{KINDS[i % len(KINDS)]}", p) for i, p in enumerate(params)]
        half = (len(named) + 1) // 2
        parts = [(named[:half], {}), (named[half:], self._attributes())]
        groups = [{"params": p, **self.setting.hypers, **own} for p, own in parts if p]
        # A generated class takes its hyperparameters by name; here the groups hold them.
        return self.subject.optimizer(groups, backend=self.target)

    def _attributes(self) -> dict[str, Any]:
        """Every attribute other than its default."""
        changed: dict[str, Any] = {}
        for each in self.subject.rule.attributes:
            if isinstance(each.default, bool):
                changed[each.name] = not each.default
            elif not isinstance(each.default, str):
                changed[each.name] = each.default + 1
        return changed

    @property
    def _evaluates(self) -> bool:
        """Whether the rule evaluates the model."""
        return any(variant.evaluates for variant in self.subject.plan.variants)

    def _task(self, params: Sequence[Tensor], step: int) -> Task:
        return Task(params, frozenset({1} if step == 2 else ()))

    def _give_gradients(
        self, params: Sequence[Tensor], step: int, generator: torch.Generator
    ) -> None:
        for i, p in enumerate(params):
            values = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            zero = torch.rand(p.shape, generator=generator) < ZEROS
            values = values.masked_fill(zero, 0.0) * 10.0 ** (i % 4 - 3)
            p.grad = None if (i, step) == (1, 2) else values.to(self.dtype).to(self.device)

    def _inputs(
        self,
        optimizer: Optimizer,
        params: Sequence[Tensor],
        step: int,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        return draw_inputs(optimizer.program, params, len(optimizer.param_groups), generator)

    def _reloaded(
        self, params: Sequence[Tensor], optimizer: Optimizer
    ) -> tuple[list[Tensor], Optimizer]:
        copies: list[Tensor] = [torch.nn.Parameter(p.detach().clone()) for p in params]
        other = self._optimizer(copies)
        other.load_state_dict(optimizer.state_dict())
        return copies, other

    # ------------------------------------------------------------ what the interpreter is given

    def _members(
        self, optimizer: Optimizer, step: int, inputs: Mapping[str, Any]
    ) -> tuple[list[Member], list[Place]]:
        """The parameters that take part, as they are now, and where the target keeps them."""
        members, places = [], []
        index = -1
        for number, group in enumerate(optimizer.param_groups):
            for p, name in zip(group["params"], group["param_names"], strict=True):
                index += 1
                if p.grad is None and self.subject.rule.reads_gradient:
                    continue
                self.updates[name] = self.updates.get(name, 0) + 1
                member = Member(
                    p=_exact(p),
                    g=None if p.grad is None else _exact(p.grad),
                    group={hyper: group[hyper] for hyper in self.setting.hypers},
                    t=self.updates[name],
                    steps=step + 1,
                    group_index=number,
                    index=index,
                    name=name,
                    states=self._held(optimizer, p),
                    shared=self._shared(optimizer, group, number),
                    attributes=self._attributes_of(number),
                    inputs={
                        each.name: _own(each, inputs[each.name], index, number)
                        for each in optimizer.program.inputs
                    },
                )
                members.append(member)
                places.append(Place(p, optimizer, group))
        return members, places

    def _attributes_of(self, group: int) -> dict[str, Any]:
        declared = {each.name: each.default for each in self.subject.rule.attributes}
        return declared | (self._attributes() if group else {})

    def _held(self, optimizer: Optimizer, p: Tensor) -> dict[str, Tensor]:
        """The values of the states that exist, by the rule's names for them."""
        held = optimizer.state.get(p, {})
        return {
            state.name: _exact(loaded(state, tuple(p.shape), held)[0])
            for state in optimizer.program.states
            if not is_shared(state) and isinstance(held.get(state.key), Tensor)
        }

    def _shared(self, optimizer: Optimizer, group: Mapping[str, Any], number: int) -> Shared:
        """The same of a group and of the run, and what the host keeps of the group."""
        kept: Shared = {(name, number): group[key] for name, key in optimizer.program.host_states}
        return kept | {
            (state.name, number if state.domain == "group" else None): _exact(group[state.key])
            for state in optimizer.program.states
            if is_shared(state) and isinstance(group.get(state.key), Tensor)
        }


def _exact(tensor: Tensor) -> Tensor:
    """A float64 copy."""
    return tensor.detach().to("cpu", torch.float64, copy=True)


def _own(declared: Input, given: Any, index: int, group: int) -> Any:
    """What of an input belongs to one parameter."""
    own = given if declared.over == "all" else given[group if declared.over else index]
    return own if declared.number else own.double()
