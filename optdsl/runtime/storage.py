"""How parameters and states lie in memory: the table of codecs, and who has which.

Input: what a rule declares and what a user chose. Output: for each state and parameter a `Codec`,
which loads values from the tensors that are kept and saves values to them, with one rounding. A
codec is no part of a rule: a step computes with what `load` gives, and what it computed is `save`d
behind it.

Relies on: torch, program.py, cohorts.py. Does not do: making tensors (holdings.py), kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.cohorts import Member
from optdsl.runtime.program import STORAGES, Kernel, Library, Program, State, Variant

Parts = Sequence[Tensor]
"""What is kept of one state or parameter: its elements, then what lies beside them."""


def compute_dtype(parameter: torch.dtype) -> torch.dtype:
    """What values are computed in: float32, or float64 for float64 parameters."""
    return torch.float64 if parameter is torch.float64 else torch.float32


@dataclass(frozen=True)
class Part:
    """One of the tensors that are kept: what its key ends in, its dtype and its shape."""

    beside: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Codec:
    """One number an element, of `dtype`, rounded to nearest."""

    name: str
    dtype: torch.dtype

    def layout(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """What is kept of values of `shape`."""
        return (Part("", self.dtype, shape),)

    def load(self, parts: Parts) -> Tensor:
        """The values."""
        return parts[0]

    def save(self, values: Tensor, parts: Parts) -> None:
        """Writes `values`, of the shape that `load` gives."""
        parts[0].copy_(values)

    @property
    def plain(self) -> bool:
        """Whether an element's memory is its value, so that a kernel reads and writes it."""
        return True


CODECS = {
    each.name: each
    for each in (
        Codec("float64", torch.float64),
        Codec("float32", torch.float32),
        Codec("bf16", torch.bfloat16),
        Codec("fp16", torch.float16),
    )
}
PLAIN = {each.dtype: each for each in CODECS.values() if each.plain}
"""By dtype."""


@dataclass(frozen=True)
class Choice:
    """What the user of an optimizer chose. `states` gives storages by the states' names; the
    parameters in `exempt`, by themselves or by their names, keep their states as if nothing was
    chosen or declared."""

    states: Mapping[str, str] = field(default_factory=dict)
    exempt: tuple[Tensor | str, ...] = ()

    def of_state(self, state: State, member: Member) -> Codec:
        """How `state` of `member` is kept. What is smaller than p, or shared, is kept as it is
        computed."""
        real = compute_dtype(member.p.dtype)
        storage = self.states.get(state.name, state.storage)
        if state.domain != "full" or storage == "compute" or self.exempts(member):
            return PLAIN[real]
        return PLAIN[member.p.dtype] if storage == "param" else CODECS[storage]

    def exempts(self, member: Member) -> bool:
        return any(
            member.name == each if isinstance(each, str) else member.p is each
            for each in self.exempt
        )


def check_exempt(program: Program, choice: Choice, groups: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for an exempt parameter that is in none of `groups`."""
    names = {name for group in groups for name in group.get("param_names", ())}
    known = {id(p) for group in groups for p in group["params"]}
    for each in choice.exempt:
        if not (each in names if isinstance(each, str) else id(each) in known):
            shown = repr(each) if isinstance(each, str) else "a tensor that"
            raise ValueError(f"{program.name}: storage_exempt: {shown} is no parameter of it")


def reads_again(variant: Variant, name: str) -> bool:
    """Whether a step reads the buffer `name` after it has written it: then what it reads must be
    what was computed, not what is kept of that."""
    # A library pass runs behind the kernels of its stage.
    passes: list[tuple[tuple[int, int], Kernel | Library]] = []
    passes += [((each.stage, 0), each) for each in variant.kernels]
    passes += [((each.stage, 1), each) for each in variant.libraries]
    written = [at for at, each in passes if name in each.writes]
    return any(name in each.reads and at > min(written) for at, each in passes if written)


def choose(
    program: Program,
    storage: str | Mapping[str, str] | None,
    exempt: Collection[Tensor | str],
) -> Choice:
    """The choice for `program`: one storage for all states of p's size, or by name or key.

    Raises ValueError for a state or a storage that there is not, and for a state that is smaller
    than p or shared, which is kept as it is computed.
    """
    full = [state for state in program.states if state.domain == "full"]
    if storage is None:
        storage = {}
    elif isinstance(storage, str):
        storage = {state.key: storage for state in full}
    states = {}
    for name, each in storage.items():
        if each not in STORAGES:
            known = ", ".join(STORAGES)
            raise ValueError(f"storage {each!r} of {program.name}'s {name}: it is one of {known}")
        found = [state for state in program.states if name in (state.key, state.name)]
        if not found:
            known = ", ".join(dict.fromkeys(state.key for state in full)) or "none"
            raise ValueError(
                f"{program.name} has no state {name!r}; those that can be stored otherwise: {known}"
            )
        for state in found:
            if state.domain != "full":
                raise ValueError(
                    f"{program.name}'s state {name!r} is not of the parameter's size ("
                    f"{state.domain}): it is always stored as it is computed"
                )
            states[state.name] = each
    return Choice(states, tuple(exempt))
