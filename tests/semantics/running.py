"""Rules given as text, stepped by the interpreter in float64.

Input: the text of a rule file, parameters, gradients. Output: parameters and states after each
step. Relies on: lowering, the check of typed rules, the interpreter. Does not do: expect anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optdsl.diagnostics import Diagnostic, Sink
from optdsl.frontend.check import check
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import make_scope
from optdsl.interpreter import Closure, Member, Outcome, run
from optdsl.ir.nodes import Rule
from optdsl.ir.verify import verify_rule
from optdsl.source import Source

Grad = Tensor | list[Any] | float | None


def rule_of(text: str, name: str = "X", directory: Path | None = None) -> Rule:
    """The typed rule `name` of a file, which must have no error."""
    sink = Sink()
    rule = lower_rule(name, make_scope(Source("x.opt", text), sink, directory), sink)
    sink.check()
    assert rule is not None
    verify_rule(rule, "lower")
    return rule


def diagnosed(text: str) -> list[Diagnostic]:
    """Everything that is said of a file."""
    return list(check(Source("x.opt", text)))


def codes(text: str) -> list[str]:
    """The codes of everything that is said of a file."""
    return [each.code for each in diagnosed(text)]


def body(text: str, signature: str = "lr = 1.0") -> str:
    """A file with one rule X whose body is `text`, given without indentation."""
    lines = "\n".join(f"    {line}" if line else "" for line in text.strip("\n").splitlines())
    return f"optimizer X({signature}):\n{lines}\n"


def double(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


@dataclass
class Run:
    """A rule with its parameters. `groups` gives the group of each, `hypers` what differs from the
    defaults in each group."""

    text: str
    params: Sequence[Any]
    name: str = "X"
    groups: Sequence[int] = ()
    hypers: Sequence[Mapping[str, Any]] = ({},)
    names: Sequence[str] = ()
    attributes: Sequence[Mapping[str, Any]] = ()
    rule: Rule = field(init=False)
    members: list[Member] = field(init=False)
    outcome: Outcome = field(init=False)

    def __post_init__(self) -> None:
        self.rule = rule_of(self.text, self.name)
        defaults = {hyper.name: hyper.default for hyper in self.rule.hypers}
        groups = [dict(defaults) | dict(given) for given in self.hypers]
        self.members = []
        for i, p in enumerate(self.params):
            group = self.groups[i] if self.groups else 0
            member = Member(double(p).clone(), None, groups[group], t=0, steps=0)
            member.group_index, member.index = group, i
            member.name = self.names[i] if self.names else ""
            member.attributes = dict(self.attributes[i]) if self.attributes else {}
            self.members.append(member)
        self.shared: dict[tuple[str, int | None], Tensor] = {}
        self.steps = 0

    def step(
        self,
        *grads: Grad,
        closure: Closure | None = None,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
        **hyper: Any,
    ) -> Run:
        """One step; a parameter whose gradient is None takes no part in it. `inputs` are the same
        for all parameters, or a list with those of each."""
        self.steps += 1
        taking = []
        each = [inputs] * len(grads) if isinstance(inputs, Mapping) else inputs or [{}] * len(grads)
        for member, grad, given in zip(self.members, grads, each, strict=True):
            member.group.update(hyper)
            if grad is None:
                continue
            member.g = double(grad).expand(member.p.shape).clone()
            member.t, member.steps = member.t + 1, self.steps
            member.shared = self.shared
            member.inputs = {name: double(value) for name, value in given.items()}
            taking.append(member)
        self.outcome = run(self.rule, taking, closure=closure)
        for member, update in zip(taking, self.outcome.updates, strict=True):
            member.p = member.p if update.p is None else update.p
            member.states |= update.states
        self.shared = self.shared | self.outcome.shared
        return self

    def p(self, i: int = 0) -> Any:
        """A parameter as nested lists."""
        return self.members[i].p.tolist()

    def state(self, key: str, i: int = 0) -> Any:
        """A state of a parameter, by its key in `state_dict()`."""
        (name,) = (
            state.name
            for state in self.rule.states
            if state.key == key and state.name in self.members[i].states
        )
        return self.members[i].states[name].tolist()

    def one(self, name: str, group: int | None = None) -> float:
        """A state that parameters share."""
        return self.shared[(name, group)].item()
