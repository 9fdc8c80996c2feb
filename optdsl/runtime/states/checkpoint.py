"""Checkpoints in torch's layout, out and in.

Out: `{"state": {i: {"step": 0-d float32, key: tensor, ...}}, "param_groups": [...]}`, shared
states in the groups. In: the same, from this or from torch's own optimizer of the same rule.
Everything is checked and copied before anything is replaced, so that a refused checkpoint
changes nothing.

A state gets the dtype that it has here (float32 by default), whatever the checkpoint's or the
parameter's: torch would cast it to the parameter's and so lose most of its bits in bfloat16.

Relies on: matching.py, holdings.py, groups.py. Does not do: hooks (optimizer.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.parameters.cohorts import Environment, Member
from optdsl.runtime.parameters.groups import (
    check_hypers,
    check_options,
    make_members,
    plain_hypers,
    without_none,
)
from optdsl.runtime.parameters.state import STEP
from optdsl.runtime.program import Program
from optdsl.runtime.states.holdings import Group, Holdings, describe, is_shared
from optdsl.runtime.states.matching import STEPS, Saved, matched
from optdsl.runtime.states.transfer import fitted, main_keys, parameter_parts
from optdsl.runtime.storage.choice import Choice


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint says, ready to be put in place."""

    groups: list[Group]
    states: dict[Tensor, dict[str, Any]]


def read(
    program: Program, groups: Sequence[Group], choice: Choice, saved: Mapping[str, Any]
) -> Loaded:
    """Checks `saved` against the parameters of `groups` and copies it, stored as `choice` says.

    Raises ValueError for other groups, a state of another shape, one that is unknown or missing.
    """
    _check_form(saved)
    old_groups = matched(program, groups, saved["param_groups"])
    new_groups = _groups(program, groups, old_groups)
    states = {state.name: state for state in program.states}
    members = make_members(program, new_groups)
    by_param = {member.own: member for member in members}
    keys = [key for group in old_groups for key in group["params"]]
    known = set(keys)
    for key, entry in saved["state"].items():
        if key not in known:
            raise ValueError(f"the checkpoint has states of parameter {key!r}, but no group has it")
        if not isinstance(entry, Mapping):
            raise ValueError(f"the checkpoint's states of parameter {key!r} are no dict")
    params = [p for group in new_groups for p in group["params"]]
    loaded: dict[Tensor, dict[str, Any]] = {}
    table: dict[Tensor, dict[str, Any]] = {}
    holdings = Holdings(program, states, table, new_groups, choice)
    for key, p in zip(keys, params, strict=True):
        entry = saved["state"].get(key)
        if not entry:
            continue
        member = by_param[p]
        t = _count(entry.get(STEP, 0), member)
        step = torch.tensor(float(t), dtype=torch.float32)
        loaded[p] = {STEP: step, **_states(program, holdings, member, entry, t, new_groups)}
    _shared(holdings, members, new_groups)
    return Loaded(new_groups, loaded)


def _check_form(saved: Mapping[str, Any]) -> None:
    """Raises ValueError for what is no checkpoint, or only a part of one."""
    for key, kind in (("state", Mapping), ("param_groups", (list, tuple))):
        if not isinstance(saved.get(key), kind):
            raise ValueError(f"this is no checkpoint of an optimizer: it has no {key!r}")
    for index, group in enumerate(saved["param_groups"]):
        if not isinstance(group, Mapping) or "params" not in group:
            raise ValueError(f"group {index} of the checkpoint has no 'params'")


def copy_in_place(
    loaded: Loaded, table: Mapping[Tensor, dict[str, Any]], groups: Sequence[Group]
) -> None:
    """Copies the tensors of `loaded` into those of `table` and `groups`, and the other entries of
    its groups. Raises ValueError, with nothing changed, where they do not correspond."""
    pairs: list[tuple[Tensor, Tensor]] = []
    places = [(own, loaded.states.get(p, {})) for p, own in table.items()]
    for own, new in [*places, *zip(groups, loaded.groups, strict=True)]:
        for key, old in own.items():
            if not isinstance(old, Tensor):
                continue
            value = new.get(key)
            value = torch.tensor(value).to(old) if isinstance(value, float) else value
            if not isinstance(value, Tensor) or (value.shape, value.dtype) != (
                (old.shape, old.dtype)
            ):
                raise ValueError(
                    f"the checkpoint has no {key!r} to go on with where a CUDA graph holds one; "
                    "make the optimizer anew, load, and capture again"
                )
            pairs.append((old, value))
    for old, value in pairs:
        old.detach().copy_(value)
    for group, new in zip(groups, loaded.groups, strict=True):
        kept = {key for key, value in group.items() if isinstance(value, Tensor)}
        group.update({key: value for key, value in new.items() if key not in kept})


def _groups(program: Program, groups: Sequence[Group], saved: Saved) -> list[Group]:
    """The saved entries over the present parameters; what a saved group lacks stays as it is."""
    if len(groups) != len(saved):
        raise ValueError(
            f"the checkpoint has {len(saved)} parameter groups, this optimizer has {len(groups)}"
        )
    forgotten = {"params", STEPS, *(s.key for s in program.states if is_shared(s))}
    result = []
    for index, (group, old) in enumerate(zip(groups, saved, strict=True)):
        if len(group["params"]) != len(old["params"]):
            raise ValueError(
                f"group {index} of the checkpoint has {len(old['params'])} parameters, this "
                f"optimizer's has {len(group['params'])}"
            )
        kept = {key: value for key, value in group.items() if key not in forgotten}
        rest = {key: deepcopy(value) for key, value in old.items() if key != "params"}
        new: Group = {**kept, **rest, "params": group["params"]}
        for name, default in program.hypers:
            new[name] = without_none(new[name], default)
        check_options(program, new)
        check_hypers(program, new)
        result.append(new)
    return result


def _count(step: Any, member: Member) -> int:
    count = float(step.item() if isinstance(step, Tensor) else step)
    if count < 0 or count != int(count):
        raise ValueError(f"the checkpoint's step of {describe(member)} is {count}")
    return int(count)


def _states(
    program: Program,
    holdings: Holdings,
    member: Member,
    entry: Mapping[str, Any],
    t: int,
    groups: Sequence[Group],
) -> dict[str, Any]:
    """One parameter's states, checked and copied."""
    own = {
        state.key: state
        for state in program.states
        if not is_shared(state) and holdings.belongs(state, member)
    }
    # torch.optim.SGD writes `momentum_buffer: None` where it has none.
    counted = STEP in entry
    entry = {k: value for k, value in entry.items() if k != STEP and value is not None}
    given = main_keys(entry, own)
    for key in given:
        if key not in own or key not in entry:
            known = ", ".join(own) or "none"
            raise ValueError(
                f"the checkpoint has a state {key!r} of {describe(member)}; those of "
                f"{program.name} are: {known}"
            )
    born = {own[key].birth for key in given}
    always = set.intersection(*(set(variant.states) for variant in program.variants)) if t else ()
    missing = [
        key
        for key, state in own.items()
        if key not in given and (state.birth in born or state.name in always)
    ]
    if missing:
        raise ValueError(f"the checkpoint lacks the state {missing[0]!r} of {describe(member)}")
    h = plain_hypers(groups[member.group_index], [name for name, _ in program.hypers])
    exist = frozenset(own[key].name for key in given)
    if given and not counted and "t" in program.reads and _counts(program, member, h, exist):
        raise ValueError(f"the checkpoint lacks {STEP!r} of {describe(member)}")
    e = Environment(member, max(t, 1), exist)
    kept = parameter_parts(holdings, member, entry)
    for key in given:
        kept |= fitted(holdings, own[key], member, h, e, entry)
    return kept


class _Unknown(Exception):
    """The number of an update was asked for."""


class _Uncounted(Environment):
    """One of a parameter whose updates nobody counted."""

    __slots__ = ()

    @property
    def t(self) -> int:
        raise _Unknown

    @t.setter
    def t(self, number: int) -> None:
        pass


def _counts(program: Program, member: Member, h: Mapping[str, Any], exist: frozenset[str]) -> bool:
    """Whether the steps of `member` depend on their number: torch.optim.Muon counts none, and of a
    rule for all parameters the part for matrices may do without."""
    e = _Uncounted(member, 1, exist)
    try:
        variant = program.variants[program.decide(h, e)]
        variant.scalars(h, e)
    except _Unknown:
        return True
    return variant.draws or any(library.draws for library in variant.libraries)


def _shared(holdings: Holdings, members: Sequence[Member], groups: Sequence[Group]) -> None:
    """Copies the states of groups and of the run, which are one tensor for all groups."""
    names = [name for name, _ in holdings.program.hypers]
    first = {member.group_index: member for member in reversed(members)}
    for state in holdings.states.values():
        if not is_shared(state):
            continue
        for index, group in enumerate(groups):
            if group.get(state.key) is None or index not in first:
                group.pop(state.key, None)
            elif state.domain == "all" and index and state.key in groups[0]:
                group[state.key] = groups[0][state.key]
            else:
                e = Environment(first[index], 1, frozenset())
                h = plain_hypers(group, names)
                group |= fitted(holdings, state, first[index], h, e, group)
