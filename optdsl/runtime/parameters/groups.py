"""What stands in a parameter group: hyperparameters, attributes, what may not change.

Input: an entry of `param_groups`. Output: hyperparameters as plain numbers, attributes for each
parameter, or a ValueError that names the group's entry.

Relies on: program.py, cohorts.py. Does not do: the meaning of a hyperparameter (`Program.check`).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.parameters.cohorts import Member, matrix_view
from optdsl.runtime.parameters.pairs import COMPLEX, as_real, fits
from optdsl.runtime.parameters.shards import check_cut, local
from optdsl.runtime.parameters.state import PARAMETER_DTYPES
from optdsl.runtime.program import Program

PLAIN = frozenset((float, int, bool, str, type(None)))
UNSUPPORTED = ("differentiable",)
"""torch's options that ask for something that is not there yet."""


def plain(value: Any) -> Any:
    """A hyperparameter's value as numbers: tensors, as lr may be, are read."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(plain, value))
    if isinstance(value, Tensor):
        return value.item()
    return float(value) if hasattr(value, "__float__") else value


def plain_hypers(group: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """The hyperparameters of `group`; the group itself where all are plain numbers already."""
    for name in names:
        value = group[name]
        if type(value) not in PLAIN and not (
            type(value) is tuple and PLAIN.issuperset(map(type, value))
        ):
            return _Read(group)
    return group


class _Read(dict[str, Any]):
    """Hyperparameters as numbers, each read when it is asked for: one that is a tensor on a device
    makes the host wait."""

    def __init__(self, group: Mapping[str, Any]) -> None:
        super().__init__(seed=group.get("seed", 0))
        self._group = group

    def __missing__(self, name: str) -> Any:
        value = self[name] = plain(self._group[name])
        return value


def check_hypers(program: Program, group: Mapping[str, Any]) -> None:
    """Raises ValueError for a hyperparameter that `check_kinds` or the rule's own `require`
    refuses."""
    check_kinds(program, group)
    program.check(plain_hypers(group, [name for name, _ in program.hypers]))


def check_kinds(program: Program, group: Mapping[str, Any]) -> None:
    """Raises ValueError for a hyperparameter that is no number (text, tuple) where its default is
    one."""
    for name, default in program.hypers:
        if not _fits(plain(group[name]), default):
            raise ValueError(
                f"{program.name}: {name} is {group[name]!r}, which is not of the kind of its "
                f"default, {default!r}"
            )


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return (
            isinstance(value, tuple)
            and len(value) == len(default)
            and all(map(_fits, value, default))
        )
    if isinstance(default, str):
        return isinstance(value, str)
    return isinstance(value, (int, float)) or (default is None and not isinstance(value, tuple))


def without_none(value: Any, default: Any) -> Any:
    """`value`, or the default where it is None, which torch's Adafactor saves for "the usual"."""
    if isinstance(default, tuple) and isinstance(value, (tuple, list)):
        return tuple(map(without_none, value, default)) if len(value) == len(default) else value
    return default if value is None else value


def begin_host_states(program: Program, group: dict[str, Any]) -> None:
    """Puts the numbers that the rule keeps on the host into a group that lacks them."""
    h = plain_hypers(group, [name for name, _ in program.hypers])
    for name, key in program.host_states:
        if key not in group:
            group[key] = program.fill(name, h, None)


def check_names(program: Program, group: Mapping[str, Any]) -> None:
    """Raises ValueError for an entry that looks like a misspelt hyperparameter or attribute.

    Others are the caller's own business, as in torch: schedulers and libraries keep theirs there.
    """
    known = [name for name, _ in (*program.hypers, *program.attributes)]
    for key in group:
        near = [] if key in known else difflib.get_close_matches(key, known, 1, 0.8)
        if near and key not in ("params", "param_names", "maximize", "seed"):
            raise ValueError(f"{program.name} has no {key!r} in a group; did you mean {near[0]!r}?")


def check_options(program: Program, group: Mapping[str, Any]) -> None:
    """Raises ValueError for an option of torch's optimizers that is not supported."""
    for name in UNSUPPORTED:
        if group.get(name):
            raise ValueError(f"{program.name}: {name}=True is not supported yet")


def check_parameters(program: Program, group: Mapping[str, Any]) -> None:
    """Raises ValueError for a parameter that cannot be optimized, or lacks a name that is read."""
    names = group.get("param_names")
    if "name" in program.reads and names is None:
        raise ValueError(
            f"{program.name} asks for parameters' names: pass model.named_parameters() or a group "
            "whose params are such pairs"
        )
    for position, p in enumerate(group["params"]):
        what = f"parameter {names[position]!r}" if names else f"parameter {position} of the group"
        if p.dtype in COMPLEX:
            _check_complex(program, what, p)
        elif p.dtype not in PARAMETER_DTYPES:
            kinds = (*PARAMETER_DTYPES, *COMPLEX)
            known = ", ".join(str(each).removeprefix("torch.") for each in kinds)
            raise ValueError(f"{program.name}: {what} is {p.dtype}; supported are {known}")
        if p.layout is not torch.strided:
            raise ValueError(f"{program.name}: {what} has layout {p.layout}; it must be dense")
        check_cut(program, what, p)


def _check_complex(program: Program, what: str, p: Tensor) -> None:
    if program.unpaired:
        raise ValueError(
            f"{program.name}: {what} is complex, which the rule cannot take as pairs of reals: "
            f"{program.unpaired}"
        )
    if not fits(p):
        raise ValueError(
            f"{program.name}: {what} is a complex view that is conjugated, or strided along its "
            "last dimension; make it of `.resolve_conj().contiguous()`"
        )


def normalize_attributes(program: Program, group: dict[str, Any], given: Set[str]) -> None:
    """Turns an attribute given per parameter (by name or by the parameter itself) into a dict by
    position in the group, which a checkpoint can hold.

    Raises ValueError for a parameter that is not in the group; in attributes that are not `given`
    with the group, parameters of other groups are passed over.
    """
    positions = _positions(group)
    for name, _ in program.attributes:
        value = group[name]
        if not isinstance(value, Mapping):
            continue
        unknown = [key for key in value if key not in positions]
        if unknown and name in given:
            raise ValueError(
                f"attribute {name}: {_shown(unknown[0])} is no parameter of this group"
            )
        known = {key: each for key, each in value.items() if key in positions}
        group[name] = {positions[key]: plain(each) for key, each in known.items()}


def check_found(
    program: Program, attributes: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> None:
    """Raises ValueError for a parameter in `attributes` that is in none of `groups`."""
    known = set().union(*(_positions(group) for group in groups))
    for name, value in attributes.items():
        for key in value if isinstance(value, Mapping) else ():
            if key not in known:
                raise ValueError(
                    f"{program.name}: attribute {name}: {_shown(key)} is no parameter of it"
                )


def _positions(group: Mapping[str, Any]) -> dict[Any, int]:
    """Where in the group each parameter stands, by itself and by its name."""
    positions: dict[Any, int] = {p: i for i, p in enumerate(group["params"])}
    return positions | {name: i for i, name in enumerate(group.get("param_names", ()))}


def _shown(key: Any) -> str:
    return "a tensor" if isinstance(key, Tensor) else repr(key)


def attributes_of(program: Program, group: Mapping[str, Any], position: int) -> Mapping[str, Any]:
    """The attributes of one parameter: its own, its group's, else the declared default."""
    result = {}
    for name, default in program.attributes:
        value = group[name]
        result[name] = value.get(position, default) if isinstance(value, Mapping) else plain(value)
    return result


def flat(groups: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """All parameters of `groups`, in order."""
    return list(itertools.chain.from_iterable([group["params"] for group in groups]))


def make_members(program: Program, groups: Sequence[Mapping[str, Any]]) -> list[Member]:
    """All parameters of `groups` in order; one that appears twice counts once."""
    members: list[Member] = []
    known: set[Tensor] = set()
    for group_index, group in enumerate(groups):
        names = group.get("param_names")
        for position, p in enumerate(group["params"]):
            if p in known:
                continue
            known.add(p)
            seen = as_real(local(p))
            members.append(
                Member(
                    p,
                    seen,
                    len(members),
                    group_index,
                    position,
                    names[position] if names else None,
                    attributes_of(program, group, position),
                    matrix_view(seen.shape, program.view),
                )
            )
    return members


def static_values(program: Program, group: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What decides shapes, storage and branches, and may not change later."""
    names = (*program.static_hypers, *(name for name, _ in program.attributes))
    return tuple((name, plain(group[name])) for name in names)


def check_static(
    program: Program, group: Mapping[str, Any], recorded: tuple[tuple[str, Any], ...]
) -> None:
    """Raises ValueError naming a static entry of `group` that changed since it was recorded."""
    for name, value in recorded:
        if group[name] is not value and plain(group[name]) != value:
            raise ValueError(
                f"{program.name}: {name} was {value!r} when the parameters were added and cannot "
                f"change to {group[name]!r}: it decides which states and branches there are"
            )
