"""Who stores what in which way: what a rule declares, and what the user of an optimizer chose.

Input: a program, the arguments of its class. Output: a `Choice`, which gives each state and each
parameter its `Codec`. A codec is no part of a rule: a step computes with what `load` gives, and
what it computed is saved behind it.

Relies on: stored.py, rounding.py, cohorts.py. Does not do: making tensors (holdings.py), kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from optdsl.runtime.parameters.cohorts import Member
from optdsl.runtime.program import STORAGES, Program, State
from optdsl.runtime.storage import codecs
from optdsl.runtime.storage.rounding import HALVES, of_half
from optdsl.runtime.storage.stored import BF16, FLOAT32, FP16, PLAIN, BlockCodec, Codec

ELEMENTS = {each.name: each for each in (FLOAT32, BF16, FP16)}
"""Storages of one rounded number an element."""
BLOCKS = {
    (name, signed): BlockCodec(f"{'' if form.signed else 'u'}{form.name}", dtype, form)
    for name, dtype in (("int8", torch.uint8), ("int4", torch.uint8), ("fp8", torch.float8_e4m3fn))
    for signed in (True, False)
    for form in [codecs.codec(name, signed=signed)]
}
"""Storages of a few bits an element, by name and whether there is a sign."""
LEAST_ELEMENTS = 4096
"""Smaller parameters are stored without blocks: there is little to save, and they are those whose
noise shows first (as in bitsandbytes and torchao)."""


def compute_dtype(parameter: torch.dtype) -> torch.dtype:
    """What values are computed in: float32, or float64 for float64 parameters."""
    return torch.float64 if parameter is torch.float64 else torch.float32


@dataclass(frozen=True)
class Choice:
    """What the user of an optimizer chose. `states` gives storages by the states' names; the
    parameters in `exempt`, by themselves or by their names, keep their states as they are computed,
    whatever was chosen or declared; `parameters` says how parameters of 16 bits are rounded, as
    `of_half` takes it; `products` is the dtype of matrix products, None: that of all else."""

    states: Mapping[str, str] = field(default_factory=dict)
    exempt: tuple[Tensor | str, ...] = ()
    parameters: str = "nearest"
    products: torch.dtype | None = None

    def of_state(self, state: State, member: Member) -> Codec:
        """How `state` of `member` is kept. What is smaller than p, or shared, is kept as it is
        computed; so are, instead of in blocks, states of small and of float64 parameters."""
        real = compute_dtype(member.p.dtype)
        storage = self.states.get(state.name, state.storage)
        if state.domain != "full" or storage == "compute" or self.exempts(member):
            return PLAIN[real]
        if storage == "param":
            return PLAIN[member.p.dtype]
        if storage in ELEMENTS:
            return ELEMENTS[storage]
        if real is torch.float64 or member.sizes.numel < LEAST_ELEMENTS:
            return PLAIN[real]
        return BLOCKS[storage, not state.nonnegative]

    def of_parameter(self, dtype: torch.dtype) -> Codec:
        """How a parameter of `dtype` is kept."""
        plain = PLAIN[dtype]
        return of_half(self.parameters, plain) if dtype in HALVES else plain

    def exempts(self, member: Member) -> bool:
        return any(
            member.name == each if isinstance(each, str) else member.own is each
            for each in self.exempt
        )


def choose_rounding(rounding: str, master: str | None, compensation: str | None) -> str:
    """How parameters of 16 bits are kept, from the three arguments of an optimizer's class.

    Raises ValueError for a word that there is not, and for two ways at once.
    """
    known: dict[str, tuple[object, Collection[object]]] = {
        "rounding": (rounding, ("nearest", "stochastic")),
        "master": (master, (None, "float32")),
        "compensation": (compensation, (None, "kahan", "split")),
    }
    for name, (value, allowed) in known.items():
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; it is one of {', '.join(map(repr, allowed))}")
    ways = [compensation, "master" if master else None, None if rounding == "nearest" else rounding]
    found = [each for each in ways if each]
    if len(found) > 1:
        raise ValueError(f"choose one of {' and '.join(found)}: each keeps all of a small change")
    return found[0] if found else "nearest"


def check_halves(program: Program, choice: Choice, params: Sequence[Tensor]) -> None:
    """Raises ValueError for a parameter that cannot be kept as was chosen."""
    if choice.parameters == "split" and any(p.dtype is torch.float16 for p in params):
        raise ValueError(
            f'{program.name}: compensation="split" is for bfloat16, the upper half of a float32; '
            'float16 parameters can have "kahan"'
        )


def check_exempt(program: Program, choice: Choice, groups: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for an exempt parameter that is in none of `groups`."""
    names = {name for group in groups for name in group.get("param_names", ())}
    known = {id(p) for group in groups for p in group["params"]}
    for each in choice.exempt:
        if not (each in names if isinstance(each, str) else id(each) in known):
            shown = repr(each) if isinstance(each, str) else "a tensor that"
            raise ValueError(f"{program.name}: storage_exempt: {shown} is no parameter of it")


class Declared(Protocol):
    """What a choice is made for: a program, or as much of it as is known of a rule."""

    @property
    def name(self) -> str: ...

    @property
    def states(self) -> tuple[State, ...]: ...


def choose(
    program: Declared,
    storage: str | Mapping[str, str] | None,
    exempt: Collection[Tensor | str],
    parameters: str = "nearest",
    products: str | None = None,
) -> Choice:
    """The choice for `program`: one storage for all states of p's size, or by name or key.

    Raises ValueError for a state or a storage that there is not, for a state that is smaller
    than p or shared, which is kept as it is computed, and for other products than in bfloat16.
    """
    if products not in (None, "bfloat16"):
        raise ValueError(f"products is {products!r}; it is one of None, 'bfloat16'")
    full = [state for state in program.states if state.domain == "full"]
    if storage is None:
        storage = {}
    elif isinstance(storage, str):
        storage = {state.key: storage for state in full}
    states: dict[str, str] = {}
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
        # States of one key, in branches, may differ in size.
        if not any(state.domain == "full" for state in found):
            raise ValueError(
                f"{program.name}'s state {name!r} is not of the parameter's size ("
                f"{found[0].domain}): it is always stored as it is computed"
            )
        states |= {state.name: each for state in found if state.domain == "full"}
    dtype = None if products is None else torch.bfloat16
    return Choice(states, tuple(exempt), parameters, dtype)
