"""The states of parameters: their shapes, and the dicts they lie in.

Input: a program's states, a parameter's sizes. Output: tensors.

`Optimizer.state` is made of dicts that count the changes made to them by others, since a step
holds the addresses of what lies in them: after a change by hand, the next step looks anew.

Relies on: program.py, cohorts.py. Does not do: checkpoints (checkpoint.py).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.parameters.cohorts import Sizes
from optdsl.runtime.program import State

PARAMETER_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

STEP = "step"
"""The key under which torch keeps the number of updates; no state can be called so."""


def state_shape(state: State, p: Tensor, view: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of `state`'s tensor for parameter `p`: p's own, or with the sizes 1 that its type
    has. `sizes` gives the numbers of the texts in `State.shape`."""
    shape = tuple(p.shape)
    last = view == "last" and len(shape) > 1
    match state.domain:
        case "full":
            return shape
        case "row":
            return (*shape[:-1], 1) if last else (sizes["rows"], 1)
        case "col":
            return (*shape[:-2], 1, shape[-1]) if last else (1, sizes["cols"])
        case "matrix":
            return (*shape[:-2], 1, 1) if last else (1, 1)
        case "tensor" | "group" | "all":
            return ()
    return tuple(each if isinstance(each, int) else sizes[each] for each in state.shape)


def all_sizes(
    dims: Callable[[Any, Any], dict[str, int]], h: Mapping[str, Any], e: Any, sizes: Sizes
) -> dict[str, int]:
    """The number of every size text of a parameter."""
    return {**sizes.as_dict(), **dims(h, e)}


class Changes:
    """A count of changes, shared by an optimizer's dicts. `refresh` brings their `t` up to date."""

    __slots__ = ("count", "refresh")

    def __init__(self, refresh: Callable[[], None]) -> None:
        self.count = 0
        self.refresh = refresh


def _counted(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    @functools.wraps(method)
    def change(self: Any, *args: Any, **keywords: Any) -> Any:
        self.changes.count += 1
        return method(self, *args, **keywords)

    return change


CHANGING = ("__setitem__", "__delitem__", "__ior__", "update", "setdefault", "pop", "popitem")


class ParameterState(dict[str, Any]):
    """One parameter's states by key, and `t`, the number of its updates. It reads as `step`, a
    tensor made when it is asked for; `t` is None where `clear` asked for a new start. Copies and
    pickles are plain dicts with a `step`."""

    __slots__ = ("changes", "t")

    def __init__(self, changes: Changes, content: Mapping[str, Any] | None = None) -> None:
        super().__init__(content or {})
        self.changes = changes
        self.t: int | None = 0
        self.take_step()

    def take_step(self) -> None:
        """Takes a `step` that was put in by hand, as from a copy, for `t`."""
        if STEP in self:
            self.t = int(dict.pop(self, STEP))

    def plain(self, *, refreshed: bool = False) -> dict[str, Any]:
        """A dict as torch has it: empty before the first update of a parameter without states."""
        if not refreshed:
            self.changes.refresh()
        step = (
            {STEP: torch.tensor(float(self.t or 0), dtype=torch.float32)} if self.t or self else {}
        )
        return {**step, **self}

    def clear(self) -> None:
        self.changes.count += 1
        self.t = None
        super().clear()

    def copy(self) -> dict[str, Any]:
        return self.plain()

    def __missing__(self, key: str) -> Any:
        if key == STEP:
            self.changes.refresh()
            return torch.tensor(float(self.t or 0), dtype=torch.float32)
        raise KeyError(key)

    def __reduce__(self) -> Any:
        return dict, (self.plain(),)


class StateTable(defaultdict[Any, Any]):
    """`Optimizer.state`: a ParameterState for each parameter. Copies and pickles are plain."""

    def __init__(self, changes: Changes, content: Mapping[Any, Any]) -> None:
        super().__init__(functools.partial(ParameterState, changes), content)
        self.changes = changes

    def adopt(self) -> None:
        """Turns dicts that were put in by others into ParameterStates."""
        for key, own in self.items():
            if isinstance(own, ParameterState) and own.changes is self.changes:
                own.take_step()
            elif isinstance(own, dict):
                states = own.plain() if isinstance(own, ParameterState) else own
                dict.__setitem__(self, key, ParameterState(self.changes, states))

    def clear(self) -> None:
        self.changes.count += 1
        super().clear()

    def __reduce__(self) -> Any:
        return defaultdict, (dict, plain_table(self))


def plain_table(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """`table` as torch has it, without parameters that have neither states nor updates."""
    if isinstance(table, StateTable):
        table.changes.refresh()
    plain = {}
    for key, own in table.items():
        states = own.plain(refreshed=True) if isinstance(own, ParameterState) else own
        if states or not isinstance(states, dict):
            plain[key] = states
    return plain


for _name in CHANGING:
    setattr(ParameterState, _name, _counted(_name))
    setattr(StateTable, _name, _counted(_name))
