"""The state tensors of an optimizer: found where torch keeps them, or made for a step to come.

States of a parameter lie in `Optimizer.state[p]`, those of a group or of the run in the entries of
`param_groups` (a state of the run in each of them, one tensor), which is all that torch's
checkpoints carry. What a plan needs and does not find is made, and handed over by `commit` when
the plan is about to run: a plan that fails leaves nothing behind.

Relies on: parameters/, storage/. Does not do: checkpoints (checkpoint.py), temps (stages/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.parameters.cohorts import Cohort, Environment, Member, Sizes
from optdsl.runtime.parameters.pairs import COMPLEX, as_complex, as_real, fits
from optdsl.runtime.parameters.shards import alike, is_dtensor, local
from optdsl.runtime.parameters.state import all_sizes, state_shape
from optdsl.runtime.program import Program, State, Variant
from optdsl.runtime.states.inputs import Inputs
from optdsl.runtime.storage.choice import Choice, compute_dtype
from optdsl.runtime.storage.stored import Codec, Part, Parts

Group = dict[str, Any]


class Holdings:
    """`table` is `Optimizer.state`, `groups` are `param_groups`, `states` those of the program, to
    which `choice` gives their storage."""

    def __init__(
        self,
        program: Program,
        states: Mapping[str, State],
        table: dict[Tensor, dict[str, Any]],
        groups: Sequence[Group],
        choice: Choice,
    ) -> None:
        self.program = program
        self.states = states
        self.table = table
        self.groups = groups
        self.choice = choice
        self.inputs = Inputs(program)
        self._made: dict[tuple[int, str], tuple[dict[str, Any], str, Tensor]] = {}
        self._checked: dict[tuple[int, str], Parts] = {}
        self._unpacked: dict[tuple[int, str], Tensor] = {}
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
        own = self.table.get(member.own, {})
        group = self.groups[member.group_index]
        return frozenset(
            name
            for name, state in self.states.items()
            if isinstance((group if is_shared(state) else own).get(state.key), Tensor)
            and self.belongs(state, member)
        )

    def belongs(self, state: State, member: Member) -> bool:
        """Whether `state` is the one that `member` can have, of several with its key."""
        e = Environment(member, 1, frozenset())
        return self.program.belongs(state.name, self.groups[member.group_index], e)

    def take_inputs(
        self,
        given: Mapping[str, Any] | None,
        running: Iterable[tuple[Cohort, Variant]],
        hypers: Sequence[Mapping[str, Any]],
    ) -> bool:
        """Takes the inputs of a step for the cohorts whose variants read them; whether that gives
        temps another size."""

        def readers() -> Iterator[tuple[Member, Mapping[str, int], frozenset[str]]]:
            for cohort, variant in running:
                cohort.e.axes = self.inputs.axes
                names = frozenset(self.inputs.declared).intersection(variant.buffers)
                for member in cohort.members:
                    yield member, self.sizes(member, hypers[member.group_index], cohort.e), names

        return self.inputs.take(given, readers())

    def codec(self, state: State, member: Member) -> Codec:
        """How `state` of `member` is kept."""
        return self.choice.of_state(state, member)

    def parts(self, state: State, member: Member, h: Mapping[str, Any], e: Environment) -> Parts:
        """The tensors of `state` for `member`, contiguous and of the right dtypes, made if need be.

        Raises ValueError where what lies there has another shape, dtype or device.
        """
        # Who changes a state by hand makes the engine look anew, with holdings of their own.
        known = self._checked.get((member.index, state.key))
        if known is not None:
            return known
        holder = self._holder(state, member)
        layout = self._layout(state, member, h, e)
        if not any(self._found(holder, key) is not None for key in layout):
            self._make(state, member, h, e)
        found = [self._found(holder, key) for key in layout]
        parts = [
            self._checked_part(member, key, part, tensor)
            for (key, part), tensor in zip(layout.items(), found, strict=True)
        ]
        self._checked[member.index, state.key] = parts
        return parts

    def value(self, state: State, member: Member, h: Mapping[str, Any], e: Environment) -> Tensor:
        """The values of `state`; its own tensor where that holds them as they are."""
        shape = self.shape(state, member, h, e)
        return self.codec(state, member).load(self.parts(state, member, h, e), shape)

    def parameter(self, member: Member) -> tuple[Codec, Parts]:
        """How p of `member` is kept, and its tensors, made if need be."""
        own, codec = member.p.detach(), self.choice.of_parameter(member.p.dtype)
        holder, (_, *rest) = self.table[member.own], codec.layout(tuple(own.shape))
        if rest and is_dtensor(member.own):
            self._check_numbers(member, "the rounding", 1 + len(rest), own)
        if rest and not any(self._found(holder, part.beside) is not None for part in rest):
            beside = [torch.empty(e.shape, dtype=e.dtype, device=own.device) for e in rest]
            codec.save(own.to(torch.float32), [own.clone(), *beside])
            for part, tensor in zip(rest, beside, strict=True):
                self._made[id(holder), part.beside] = holder, part.beside, tensor
        found = [
            self._checked_part(member, part.beside, part, self._found(holder, part.beside))
            for part in rest
        ]
        return codec, [own, *found]

    def unpacked(self, member: Member, name: str, dtype: torch.dtype) -> Tensor:
        """Memory for the values of a state of p's size, or of p, while a step works on them."""
        key = member.index, name
        if key not in self._unpacked:
            shape, device = member.p.shape, member.p.device
            self._unpacked[key] = torch.empty(shape, dtype=dtype, device=device)
        return self._unpacked[key]

    def put(
        self, state: State, member: Member, values: Tensor, h: Mapping[str, Any], e: Environment
    ) -> None:
        """Makes `values` the state of `member`, its group or the run."""
        packed = self.packed(state, member, values, h, e)
        for holder in self._holders(state, member):
            for key, tensor in packed.items():
                dict.__setitem__(holder, key, tensor)
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
        return self.table[member.own]

    def _holders(self, state: State, member: Member) -> Sequence[dict[str, Any]]:
        """All that hold the state: one of the run stands in every group."""
        return self.groups if state.domain == "all" else [self._holder(state, member)]

    def _found(self, holder: dict[str, Any], key: str) -> Tensor | None:
        """What lies there, of a complex tensor its parts."""
        found = holder.get(key)
        if not isinstance(found, Tensor):
            made = self._made.get((id(holder), key))
            found = made[2] if made else None
        found = None if found is None else local(found)
        return as_real(found) if found is not None and fits(found) else found

    def shape(
        self, state: State, member: Member, h: Mapping[str, Any], e: Environment
    ) -> tuple[int, ...]:
        """The shape of the values of `state`."""
        return state_shape(state, member.p, self.program.view, self.sizes(member, h, e))

    def _layout(
        self, state: State, member: Member, h: Mapping[str, Any], e: Environment
    ) -> dict[str, Part]:
        """The keys under which the state lies, and what lies there."""
        layout = self.codec(state, member).layout(self.shape(state, member, h, e))
        return {f"{state.key}{part.beside}": part for part in layout}

    def _make(self, state: State, member: Member, h: Mapping[str, Any], e: Environment) -> None:
        own = Environment(member, e.t, e.born)
        own.steps = e.steps
        first = float(self.program.fill(state.name, h, own)) if state.fill else 0.0
        real = compute_dtype(member.p.dtype)
        shape = self.shape(state, member, h, e)
        if first:
            values = torch.full(shape, first, dtype=real, device=member.p.device)
            packed = self.packed(state, member, values, h, e)
        else:  # memory that nobody has touched; codes that have no zero have a scale that can be
            packed = self._fitted(state, member, self._allocated(torch.zeros, state, member, h, e))
        for holder in self._holders(state, member):
            for key, tensor in packed.items():
                self._made[id(holder), key] = holder, key, tensor

    def packed(
        self, state: State, member: Member, values: Tensor, h: Mapping[str, Any], e: Environment
    ) -> dict[str, Tensor]:
        """New tensors that hold `values` as `state` is kept, by their keys: numbers of a complex
        parameter's size as complex ones, codes as those of the parts."""
        made = self._allocated(torch.empty, state, member, h, e)
        values = values.reshape(self.shape(state, member, h, e))
        self.codec(state, member).save(values, list(made.values()))
        return self._fitted(state, member, made)

    def _allocated(
        self,
        new: Callable[..., Tensor],
        state: State,
        member: Member,
        h: Mapping[str, Any],
        e: Environment,
    ) -> dict[str, Tensor]:
        """The tensors that keep the state, made by `new`."""
        return {
            key: new(part.shape, dtype=part.dtype, device=member.p.device)
            for key, part in self._layout(state, member, h, e).items()
        }

    def _fitted(self, state: State, member: Member, made: dict[str, Tensor]) -> dict[str, Tensor]:
        """What was made, as it stands beside a complex or a sharded parameter."""
        main = made[state.key]
        if member.own.is_complex() and state.domain == "full" and main.dtype in COMPLEX.values():
            made[state.key] = as_complex(main, local(member.own).shape)
        if state.domain == "full" and is_dtensor(member.own):
            self._check_numbers(member, f"state {state.key!r}", len(made), main)
            made[state.key] = alike(member.own, made[state.key])
        return made

    def _check_numbers(self, member: Member, what: str, tensors: int, main: Tensor) -> None:
        """Raises ValueError for what is not kept as a number an element."""
        if tensors > 1 or main.shape != member.p.shape:
            raise ValueError(
                f"{self.program.name}: {what} of {describe(member)} cannot be kept so: it is a "
                "DTensor, of which each element is kept as one number"
            )

    def _checked_part(self, member: Member, key: str, part: Part, found: Tensor | None) -> Tensor:
        needed = f"{self.program.name} needs {part.dtype} {list(part.shape)} on {member.p.device}"
        if found is None:
            raise ValueError(f"{describe(member)} lacks {key!r}; {needed}")
        if (tuple(found.shape), found.dtype, found.device) != (
            part.shape,
            part.dtype,
            member.p.device,
        ):
            raise ValueError(
                f"state {key!r} of {describe(member)} is {found.dtype} {list(found.shape)} "
                f"on {found.device}; {needed}"
            )
        if not found.is_contiguous():
            raise ValueError(f"state {key!r} of {describe(member)} is not contiguous")
        return found


def is_shared(state: State) -> bool:
    """Whether one tensor serves a group or the run."""
    return state.domain in ("group", "all")


def describe(member: Member) -> str:
    """A parameter as an error names it."""
    if member.name is not None:
        return f"parameter {member.name!r}"
    return f"parameter {member.position} of group {member.group_index}"
