"""The state tensors of an optimizer: found where torch keeps them, or made for a step to come.

States of a parameter lie in `Optimizer.state[p]`, those of a group or of the run in the entries of
`param_groups` (a state of the run in each of them, one tensor), which is all that torch's
checkpoints carry. What a plan needs and does not find is made, and handed over by `commit` when
the plan is about to run: a plan that fails leaves nothing behind.

Relies on: state.py, cohorts.py. Does not do: checkpoints (checkpoint.py), temps (stages.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from optdsl.runtime.cohorts import Environment, Member, Sizes
from optdsl.runtime.program import Program, State
from optdsl.runtime.state import all_sizes, make_state, state_dtype, state_shape

Group = dict[str, Any]


class Holdings:
    """`table` is `Optimizer.state`, `groups` are `param_groups`, `states` those of the program with
    the storage that this optimizer gives them."""

    def __init__(
        self,
        program: Program,
        states: Mapping[str, State],
        table: dict[Tensor, dict[str, Any]],
        groups: Sequence[Group],
    ) -> None:
        self.program = program
        self.states = states
        self.table = table
        self.groups = groups
        self._made: dict[tuple[int, str], tuple[dict[str, Any], str, Tensor]] = {}
        self._checked: dict[tuple[int, str], Tensor] = {}
        self._sizes: dict[tuple[int, Sizes], dict[str, int]] = {}

    def sizes(self, member: Member, h: Mapping[str, Any], e: Environment) -> dict[str, int]:
        """The number of every size text of `member`."""
        key = member.group_index, member.sizes
        if key not in self._sizes:
            own = Environment(member, e.t, e.born)
            self._sizes[key] = all_sizes(self.program.dims, h, own, member.sizes)
        return self._sizes[key]

    def seed(self, member: Member) -> int:
        """The key of the member's random draws."""
        return int(self.groups[member.group_index].get("seed", 0))

    def existing(self, member: Member) -> frozenset[str]:
        """The names of the states that `member` has, its group's and the run's included."""
        own = self.table.get(member.p, {})
        group = self.groups[member.group_index]
        return frozenset(
            name
            for name, state in self.states.items()
            if isinstance((group if is_shared(state) else own).get(state.key), Tensor)
        )

    def tensor(self, state: State, member: Member, h: Mapping[str, Any], e: Environment) -> Tensor:
        """The tensor of `state` for `member`, contiguous and of the right dtype, made if need be.

        Raises ValueError where what lies there has another shape, dtype or device.
        """
        # Who changes a state by hand makes the engine look anew, with holdings of their own.
        known = self._checked.get((member.index, state.key))
        if known is not None:
            return known
        holder = self._holder(state, member)
        found = holder.get(state.key)
        if not isinstance(found, Tensor):
            made = self._made.get((id(holder), state.key))
            found = made[2] if made else self._make(state, member, h, e)
        self._check(state, found, member, h, e)
        self._checked[member.index, state.key] = found
        return found

    def put(self, state: State, member: Member, tensor: Tensor) -> None:
        """Makes `tensor` the state of `member`, its group or the run."""
        holders = self.groups if state.domain == "all" else [self._holder(state, member)]
        for holder in holders:
            dict.__setitem__(holder, state.key, tensor)
        self._checked.clear()

    def commit(self) -> None:
        """Hands the tensors that were made to their owners. Their dicts need not count this."""
        for holder, key, tensor in self._made.values():
            dict.__setitem__(holder, key, tensor)
        self._made.clear()

    def drop(self) -> None:
        """Forgets the tensors that were made, after a plan that failed."""
        self._made.clear()
        self._checked.clear()

    def _holder(self, state: State, member: Member) -> dict[str, Any]:
        if is_shared(state):
            return self.groups[0 if state.domain == "all" else member.group_index]
        return self.table[member.p]

    def _make(self, state: State, member: Member, h: Mapping[str, Any], e: Environment) -> Tensor:
        shape = state_shape(state, member.p, self.program.view, self.sizes(member, h, e))
        own = Environment(member, e.t, e.born)
        own.steps = e.steps
        first = float(self.program.fill(state.name, h, own)) if state.fill else 0.0
        tensor = make_state(state, shape, member.p, first)
        holders = self.groups if state.domain == "all" else [self._holder(state, member)]
        for holder in holders:
            self._made[id(holder), state.key] = holder, state.key, tensor
        return tensor

    def _check(
        self, state: State, found: Tensor, member: Member, h: Mapping[str, Any], e: Environment
    ) -> None:
        shape = state_shape(state, member.p, self.program.view, self.sizes(member, h, e))
        dtype = state_dtype(state, member.p.dtype)
        device = member.p.device
        if (tuple(found.shape), found.dtype, found.device) != (shape, dtype, device):
            raise ValueError(
                f"state {state.key!r} of {describe(member)} is {found.dtype} {list(found.shape)} "
                f"on {found.device}; {self.program.name} needs {dtype} {list(shape)} on {device}"
            )
        if not found.is_contiguous():
            raise ValueError(f"state {state.key!r} of {describe(member)} is not contiguous")


def is_shared(state: State) -> bool:
    """Whether one tensor serves a group or the run."""
    return state.domain in ("group", "all")


def describe(member: Member) -> str:
    """A parameter as an error names it."""
    if member.name is not None:
        return f"parameter {member.name!r}"
    return f"parameter {member.position} of group {member.group_index}"
