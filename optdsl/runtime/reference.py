"""The reference target: a step by the interpreter that the compiler hands in, slow and exact.

Input: the members that take part and an interpreter (a function of them and of a dtype, see
`Interpreter`). Output: parameters and states, stored with one rounding.

Relies on: holdings.py. Does not do: the meaning of a rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from optdsl.runtime.model import Model, Part
from optdsl.runtime.parameters.cohorts import Cohort, Member
from optdsl.runtime.program import State
from optdsl.runtime.states.holdings import Holdings, is_shared
from optdsl.runtime.storage.choice import compute_dtype
from optdsl.runtime.storage.rounding import rounding_keys


@dataclass
class Participant:
    """What the interpreter sees of a parameter. `states` are those that exist, by name; `shared`
    those of the group or the run, and the numbers that the host keeps, by name and group (None for
    the run); `t` is this update's."""

    p: Tensor
    g: Tensor | None
    group: Mapping[str, Any]
    t: int
    steps: int
    group_index: int
    index: int
    name: str
    attributes: Mapping[str, Any]
    states: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[tuple[str, int | None], Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


class Update(Protocol):
    """The new p (None: unchanged) and the states that changed."""

    p: Tensor | None
    states: Mapping[str, Tensor]


class Outcome(Protocol):
    """An update for each participant, and the shared states that changed."""

    updates: Sequence[Update]
    shared: Mapping[tuple[str, int | None], Any]
    reports: Mapping[str, Tensor | float]


class Run(Protocol):
    """Works something out for all that take part, with values of `dtype`."""

    def __call__(
        self, members: Sequence[Participant], dtype: torch.dtype, closure: Part | None = None
    ) -> Outcome: ...


class Interpreter(Run, Protocol):
    """Runs one step; `evaluate` gives p its value for evaluation."""

    @property
    def evaluate(self) -> Run: ...


def reference_step(
    interpreter: Run,
    holdings: Holdings,
    cohorts: Sequence[Cohort],
    hypers: Sequence[Mapping[str, Any]],
    gradients: Sequence[Tensor | None],
    model: Model | None = None,
) -> dict[str, Tensor]:
    """Runs one step of the members of `cohorts`, in the order of the optimizer."""
    chosen = sorted(
        ((member, cohort) for cohort in cohorts for member in cohort.members),
        key=lambda pair: pair[0].index,
    )
    if not chosen:
        return {}
    members = [_participant(m, c, holdings, hypers, gradients) for m, c in chosen]
    wide = any(compute_dtype(m.p.dtype) is torch.float64 for m, _ in chosen)
    with torch.no_grad():
        dtype = torch.float64 if wide else torch.float32
        if model is None:
            outcome = interpreter(members, dtype)
        else:
            part = model.among([member.index for member, _ in chosen])
            outcome = interpreter(members, dtype, part)
        holdings.commit()
        keys = _keys(holdings, chosen)
        for (member, cohort), update, key in zip(chosen, outcome.updates, keys, strict=True):
            h = hypers[member.group_index]
            if update.p is not None:
                codec, parts = holdings.parameter(member)
                codec.save(update.p.reshape(member.p.shape), parts, key)
            for name, value in update.states.items():
                _store(holdings, holdings.states[name], member, cohort, h, value)
        kept = dict(holdings.program.host_states)
        for (name, group), value in outcome.shared.items():
            if name in kept:
                assert group is not None
                holdings.groups[group][kept[name]] = value
                continue
            owner = next(p for p in chosen if group is None or p[0].group_index == group)
            h = hypers[owner[0].group_index]
            _store(holdings, holdings.states[name], *owner, h, value)
    found = outcome.reports.items()
    return {name: torch.as_tensor(each, dtype=dtype).reshape(()) for name, each in found}


def _keys(holdings: Holdings, chosen: Sequence[tuple[Member, Cohort]]) -> list[int]:
    """Those of the members' random roundings in this step."""
    facts = [(holdings.seed(member), member.index, cohort.e.t) for member, cohort in chosen]
    found: list[int] = rounding_keys(*np.array(facts, np.int64).T).tolist()
    return found


def _participant(
    member: Member,
    cohort: Cohort,
    holdings: Holdings,
    hypers: Sequence[Mapping[str, Any]],
    gradients: Sequence[Tensor | None],
) -> Participant:
    codec, parts = holdings.parameter(member)
    participant = Participant(
        codec.load(parts, tuple(member.p.shape)),
        _scaled(gradients[member.index], cohort.e.g_scale),
        hypers[member.group_index],
        cohort.e.t,
        cohort.e.steps,
        member.group_index,
        member.index,
        member.name or "",
        member.attributes,
    )
    participant.inputs = holdings.inputs.held(member)
    for name in holdings.inputs.numbers:
        if (number := f"input {name}") in participant.group:
            participant.inputs[name] = participant.group[number]
    for name, key in holdings.program.host_states:
        participant.shared[name, member.group_index] = participant.group[key]
    for name in holdings.existing(member):
        state = holdings.states[name]
        tensor = holdings.value(state, member, participant.group, cohort.e)
        if is_shared(state):
            group = member.group_index if state.domain == "group" else None
            participant.shared[name, group] = tensor
        else:
            participant.states[name] = tensor
    return participant


def _scaled(g: Tensor | None, factor: float) -> Tensor | None:
    """The gradient as the rule sees it, in the dtype that values are computed in."""
    return g if g is None or factor == 1 else g.to(compute_dtype(g.dtype)) * factor


def _store(
    holdings: Holdings,
    state: State,
    member: Member,
    cohort: Cohort,
    h: Mapping[str, Any],
    value: Tensor,
) -> None:
    """Writes a state in place, or makes it, as it is kept elsewhere."""
    if state.name not in holdings.existing(member):
        holdings.put(state, member, value, h, cohort.e)
        return
    parts = holdings.parts(state, member, h, cohort.e)
    shape = holdings.shape(state, member, h, cohort.e)
    holdings.codec(state, member).save(value.reshape(shape), parts)
