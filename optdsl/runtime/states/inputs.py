"""What the caller supplies with a step: checked, in the matrix view, where kernels find it.

Input: `step(inputs={NAME: ...})`. An input of each parameter is given as a mapping from parameters
(or their names) to tensors, or as a sequence with one for each parameter, in the order of the
groups (None: not given); one over a group as a sequence with one for each group; one over all as it
is. A number stands for a tensor of one element. Numbers of the host become entries beside a group's
hyperparameters, `input NAME`, where host functions read them. Output: tensors in the dtype that
values are computed in, which stay at one address, so that a step that is repeated makes no plan
anew.

Relies on: program.py, cohorts.py. Does not do: gradients (gradients.py), the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.parameters.cohorts import Member
from optdsl.runtime.program import Input, Program
from optdsl.runtime.storage.choice import compute_dtype

Wanted = Iterable[tuple[Member, Mapping[str, int], frozenset[str]]]
"""Members of a step with their sizes and the inputs that they read in it."""


LIKE_P = (("rows", "cols"), ("batch", "rows", "cols"), ("numel", 1))
"""What p's shape is in the matrix view."""


class Inputs:
    """The inputs of a step. `axes` are the sizes of named axes, the same object in every step."""

    def __init__(self, program: Program) -> None:
        self.rule = program.name
        self.declared = {each.name: each for each in program.inputs if not each.number}
        self.numbers = {each.name: each for each in program.inputs if each.number}
        self.axes: dict[str, int] = {}
        self._kept: dict[tuple[int, str], Tensor] = {}
        temps = (temp for variant in program.variants for temp in variant.temps)
        self._of_temps = frozenset(dim for temp in temps for dim in temp.shape)

    def of(self, name: str, member: Member) -> Tensor:
        """The input `name` of a member, of its group or of the run."""
        return self._kept[self._owner(self.declared[name], member), name]

    def held(self, member: Member) -> dict[str, Tensor]:
        """All inputs of the member that this step or an earlier one was given."""
        keys = {name: (self._owner(each, member), name) for name, each in self.declared.items()}
        return {name: self._kept[key] for name, key in keys.items() if key in self._kept}

    def take(self, given: Mapping[str, Any] | None, wanted: Wanted) -> bool:
        """Takes what a step was given; whether temps have another size than they had, since a named
        axis has. Raises ValueError for a name that the rule has not, for what is missing and for
        what has another shape, with nothing changed."""
        given = {} if given is None else given
        for name in given:
            if name not in self.declared and name not in self.numbers:
                known = ", ".join((*self.declared, *self.numbers)) or "none"
                raise ValueError(f"{self.rule} has no input {name!r}; it has: {known}")
        found: dict[tuple[int, str], Tensor] = {}
        axes: dict[str, int] = {}
        for member, sizes, names in wanted:
            for name in sorted(names):
                each = self.declared[name]
                key = self._owner(each, member), name
                if key not in found:
                    found[key] = self._fitted(each, given.get(name), member, sizes, axes)
        for key, tensor in found.items():
            kept = self._kept.get(key)
            if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
                self._kept[key] = tensor.clone(memory_format=torch.contiguous_format)
            else:
                kept.copy_(tensor)
        measured = self._of_temps & self.axes.keys()
        resized = any(axes.get(str(axis)) != self.axes[str(axis)] for axis in measured)
        self.axes.clear()
        self.axes.update(axes)
        return resized

    def beside(
        self, hypers: Sequence[Mapping[str, Any]], given: Mapping[str, Any] | None
    ) -> list[Mapping[str, Any]]:
        """The hyperparameters of each group with the numbers that came with the step. Raises
        ValueError for one of another kind; for one that is missing, when it is read."""
        found: list[Mapping[str, Any]] = []
        for index, h in enumerate(hypers):
            numbers = {}
            for name, each in self.numbers.items():
                value = None if given is None else given.get(name)
                if each.over == "group" and value is not None:
                    value = value[index] if index < len(value) else None
                if value is not None:
                    numbers[f"input {name}"] = _number(value, each, self.rule)
            found.append(_Given(h, numbers, self.rule))
        return found

    @staticmethod
    def _owner(each: Input, member: Member) -> int:
        if each.over == "all":
            return -1
        return -2 - member.group_index if each.over == "group" else member.index

    def _fitted(
        self,
        each: Input,
        given: Any,
        member: Member,
        sizes: Mapping[str, int],
        axes: dict[str, int],
    ) -> Tensor:
        whose = {"all": "", "group": f" of group {member.group_index}"}.get(
            each.over, f" of parameter {member.name or member.index!r}"
        )
        what = f"{self.rule}: the input {each.name!r}{whose}"
        value = given if each.over == "all" else _entry(given, each, member)
        if value is None:
            raise ValueError(f"{what} is missing; call step(inputs={{{each.name!r}: ...}})")
        real = compute_dtype(member.p.dtype)
        tensor = torch.as_tensor(value, device=member.p.device).detach().to(real)
        lead = [dim for dim in each.shape[:-2] if isinstance(dim, str) and dim not in sizes]
        rest = [dim if isinstance(dim, int) else sizes[dim] for dim in each.shape[len(lead) :]]
        found, tail = list(tensor.shape), list(tensor.shape[len(lead) :])
        like_p = each.shape[len(lead) :] in LIKE_P and tail == list(member.p.shape)
        fits = like_p or tail == rest or (_dense(tail) == _dense(rest) and len(tail) <= len(rest))
        if len(found) < len(lead) or not fits:
            wanted = ", ".join([*map(str, lead), *map(str, rest)])
            raise ValueError(f"{what} is [{wanted}], not a tensor of {found}")
        for axis, size in zip(lead, tensor.shape, strict=False):
            if axes.setdefault(str(axis), size) != size:
                raise ValueError(f"{what} has {size} along {axis!r}, others have {axes[axis]}")
        return tensor.reshape(*tensor.shape[: len(lead)], *rest)


class _Given(dict[str, Any]):
    """Hyperparameters, and the numbers that came with a step, of which one may be missing."""

    def __init__(self, h: Mapping[str, Any], numbers: Mapping[str, Any], rule: str) -> None:
        super().__init__(numbers, seed=h.get("seed", 0))
        self._h, self._rule = h, rule

    def __missing__(self, name: str) -> Any:
        if name.startswith("input "):
            own = name.removeprefix("input ")
            raise ValueError(
                f"{self._rule}: the input {own!r} is missing; call step(inputs={{{own!r}: ...}})"
            )
        return self._h[name]


def _number(value: Any, each: Input, rule: str) -> float | int | bool:
    """`value` as the number of the host that is declared."""
    if hasattr(value, "item") and math.prod(value.shape) == 1:  # torch's and numpy's
        value = value.item()
    whole = isinstance(value, int | float) and float(value).is_integer()
    if each.number == "bool" and isinstance(value, bool):
        return value
    if each.number == "int" and whole and not isinstance(value, bool):
        return int(value)
    if each.number == "real" and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    kind = {"bool": "true or false", "int": "a whole number"}.get(each.number, "a number")
    raise ValueError(f"{rule}: the input {each.name!r} is {kind}, not {value!r}")


def _entry(given: Any, each: Input, member: Member) -> Any:
    """What belongs to the member or its group."""
    index = member.group_index if each.over == "group" else member.index
    if isinstance(given, Mapping):
        return given.get(member.own, given.get(member.name))
    if isinstance(given, Sequence) and not isinstance(given, str):
        return given[index] if index < len(given) else None
    return None


def _dense(shape: list[int]) -> list[int]:
    """The sizes that say something: a column of n is n numbers."""
    return [size for size in shape if size != 1] if math.prod(shape) else shape
