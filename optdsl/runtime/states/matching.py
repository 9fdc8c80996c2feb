"""Which saved parameter is which: by name where both sides have names, else by place.

Input: the groups of an optimizer, the `param_groups` of a checkpoint. Output: `param_groups` as if
saved from these groups. torch goes by place alone, also where the names say otherwise.

Relies on: holdings.py. Does not do: look at the states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.program import Program
from optdsl.runtime.states.holdings import Group, is_shared

STEPS = "steps"
"""Where a group keeps the count of its steps, if its rule reads it; hyperparameters cannot be
called so."""

Saved = Sequence[Mapping[str, Any]]


def matched(program: Program, groups: Sequence[Group], saved: Saved) -> Saved:
    """`saved` in the order and the groups of `groups`, where both have the same names.

    A group takes over an option in which all that its parameters were saved with agree; one in
    which they do not stays as it is here. Without names, or with none in common, `saved` itself.
    Raises ValueError where some names are the same and others are not, or where what several
    saved groups have counted or keep in common comes into one.
    """
    own, theirs = _names(groups), _names(saved)
    if own is None or theirs is None or own == theirs or not set(own) & set(theirs):
        return saved
    for name in own:
        if name not in theirs:
            raise ValueError(f"the checkpoint has no parameter {name!r}")
    for name in theirs:
        if name not in own:
            raise ValueError(f"the checkpoint has a parameter {name!r}, this optimizer has not")
    places = {
        name: (number, position)
        for number, group in enumerate(saved)
        for position, name in enumerate(group["param_names"])
    }
    kept = {STEPS, *(state.key for state in program.states if is_shared(state))}
    attributes = dict(program.attributes)
    result = []
    for number, group in enumerate(groups):
        found = [places[name] for name in group["param_names"]]
        sources = [saved[index] for index in dict.fromkeys(index for index, _ in found)]
        new = {"params": [saved[index]["params"][position] for index, position in found]}
        for key in dict.fromkeys(key for source in sources for key in source):
            if key in attributes and all(key in source for source in sources):
                new[key] = _attribute(key, attributes[key], saved, found)
            elif key in ("params", "param_names") or key in attributes:
                continue
            elif all(key in each and _equal(each[key], sources[0][key]) for each in sources):
                new[key] = sources[0][key]
            elif key in kept:
                raise ValueError(
                    f"group {number} has parameters of several groups of the checkpoint, which "
                    f"differ in {key!r}"
                )
        result.append(new)
    return result


def _names(groups: Saved) -> list[str] | None:
    """All names in order; None where some are missing or not unique."""
    names: list[str] = []
    for group in groups:
        given = group.get("param_names")
        if given is None or len(given) != len(group["params"]):
            return None
        names += given
    return names if len(set(names)) == len(names) else None


def _attribute(key: str, default: Any, saved: Saved, found: Sequence[tuple[int, int]]) -> Any:
    """What an attribute is for the parameters at the places `found`: one value, or by position."""
    values = []
    for index, position in found:
        value = saved[index][key]
        values.append(value.get(position, default) if isinstance(value, Mapping) else value)
    if all(_equal(value, values[0]) for value in values):
        return values[0]
    return dict(enumerate(values))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
