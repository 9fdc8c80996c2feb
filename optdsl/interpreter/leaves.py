"""What a step is given, as values: p, g, states, inputs, hyperparameters, sizes, counters, draws.

Input: a leaf of the rule and a member's number. Output: a Python number, or a tensor with all axes
of the leaf's type. Relies on: members, draws. Does not do: operations (evaluate.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optdsl import draws
from optdsl.axes import axis_sizes
from optdsl.hostmath import site_in_pass, whole
from optdsl.interpreter.members import Closure, Member, matrix_sizes
from optdsl.ir.nodes import Rule, StateDecl, Value
from optdsl.types import BATCH, Dim, Instances, Place, Shape


@dataclass
class Leaves:
    rule: Rule
    members: list[Member]
    dtype: torch.dtype
    closure: Closure | None

    def get(self, value: Value, i: int) -> Any:
        raise AssertionError("evaluate.py defines it")

    # ------------------------------------------------------------ sizes

    def sizes(self, p: Tensor) -> tuple[int, ...]:
        """The shape that p's own shape is seen as."""
        batch, rows, cols = matrix_sizes(p.shape, self.rule.view)
        return (batch, rows, cols) if self.rule.view == "last" else (rows, cols)

    def dim(self, dim: Dim, i: int) -> int:
        """A dimension as a number."""
        if isinstance(dim, int):
            return dim
        p = self.members[i].p
        batch, rows, cols = matrix_sizes(p.shape, self.rule.view)
        sizes = {
            "rows": rows,
            "cols": cols,
            "short": min(rows, cols),
            "long": max(rows, cols),
            "numel": p.numel(),
            "ndim": p.dim(),
            BATCH: batch,
            **axis_sizes(p.shape),
        }
        if dim in sizes:
            return sizes[dim]
        if dim in self.rule.dims:
            return whole(self.get(self.rule.dims[dim], i))
        return 1 if dim == "workers" else self._axis_size(dim, i)

    def shape(self, shape: Shape, i: int) -> tuple[int, ...]:
        return tuple(self.dim(dim, i) for dim in shape.dims)

    def _op_size(self, value: Value, i: int) -> int:
        return self.dim(value.attr("name"), i)

    def _op_lead_size(self, value: Value, i: int) -> int:
        return self._axis_size(value.attr("name"), i)

    def _axis_size(self, axis: str, i: int) -> int:
        """The size of a named axis, from an input that has it."""
        for declared in self.rule.inputs:
            lead = declared.type.shape.lead
            if axis in lead and declared.name in self.members[i].inputs:
                found: Tensor = self.members[i].inputs[declared.name]
                return found.shape[lead.index(axis)]
        raise ValueError(f"the step needs an input with the axis `{axis}`")

    def _op_workers(self, value: Value, i: int) -> int:
        return 1

    def _op_rank(self, value: Value, i: int) -> int:
        return 0

    # ------------------------------------------------------------ numbers

    def _op_const(self, value: Value, i: int) -> Any:
        return value.attr("value")

    def _op_hyper(self, value: Value, i: int) -> Any:
        found = self.members[i].group[value.attr("name")]
        for index in value.attr("index"):
            found = found[index]
        return found.item() if isinstance(found, Tensor) else found

    def _op_attribute(self, value: Value, i: int) -> Any:
        name, member = value.attr("name"), self.members[i]
        if name in member.attributes:
            return member.attributes[name]
        default = next(each.default for each in self.rule.attributes if each.name == name)
        return member.group.get(name, default)

    def _op_name_matches(self, value: Value, i: int) -> bool:
        return re.search(value.attr("pattern"), self.members[i].name) is not None

    def _op_t(self, value: Value, i: int) -> int:
        return self.members[i].t

    def _op_evaluating(self, value: Value, i: int) -> bool:
        """No: running a rule is taking a step; what p is in evaluation is an output of its own."""
        return False

    def _op_steps(self, value: Value, i: int) -> int:
        return self.members[i].steps

    # ------------------------------------------------------------ tensors

    def _op_param(self, value: Value, i: int) -> Tensor:
        p = self.members[i].p
        return p.detach().to(self.dtype).reshape(self.sizes(p))

    def _op_grad(self, value: Value, i: int) -> Tensor:
        member = self.members[i]
        if member.g is None:
            raise ValueError(f"parameter {member.name or member.index} has no gradient")
        return member.g.detach().to(self.dtype).reshape(self.sizes(member.p))

    def _input(self, name: str, i: int) -> Any:
        if name not in self.members[i].inputs:
            raise ValueError(f"the step needs the input `{name}`")
        return self.members[i].inputs[name]

    def _op_input(self, value: Value, i: int) -> Any:
        """Named axes come first and have the sizes that the caller's tensor has."""
        name, shape = value.attr("name"), value.type.shape
        if not value.type.on_device:
            return self._input(name, i)
        tensor = self._input(name, i).detach().to(self.dtype)
        lead = [axis for axis in shape.lead if axis != BATCH]
        rest = Shape(shape.lead[len(lead) :], shape.rows, shape.cols)
        sizes = (*tensor.shape[: len(lead)], *self.shape(rest, i))
        try:
            return tensor.reshape(sizes)
        except RuntimeError:
            found = list(tensor.shape)
            raise ValueError(f"the input `{name}` is {shape}, not a tensor of {found}") from None

    # ------------------------------------------------------------ states

    def stored(self, state: StateDecl, i: int) -> Tensor | None:
        """The state in memory, None where it has not begun."""
        member = self.members[i]
        if state.type.instances is Instances.PARAM:
            return member.states.get(state.name)
        return member.shared.get((state.name, self.owner(state, i)))

    def owner(self, state: StateDecl, i: int) -> int | None:
        """The group that a shared state belongs to, None for all groups together."""
        return self.members[i].group_index if state.type.instances is Instances.GROUP else None

    def initial(self, name: str, i: int) -> Tensor:
        """A state's first value where the host gives it, in its full shape."""
        state = self.rule.state(name)
        if state.initial is None:
            raise ValueError(f"state {name} does not exist yet")
        number = float(self.get(state.initial, i))
        sizes = self.shape(state.type.shape, i)
        return torch.full(sizes, number, dtype=self.dtype, device=self.members[i].p.device)

    def _op_state(self, value: Value, i: int) -> Tensor:
        state = self.rule.state(value.attr("name"))
        stored = self.stored(state, i)
        if stored is None:
            return self.initial(state.name, i)
        return stored.detach().to(self.dtype).reshape(self.shape(state.type.shape, i))

    def _op_host_state(self, value: Value, i: int) -> Any:
        state, member = self.rule.state(value.attr("name")), self.members[i]
        stored = member.shared.get((state.name, member.group_index))
        return self.get(state.initial, i) if stored is None and state.initial else stored

    def _op_first(self, value: Value, i: int) -> bool:
        return self.stored(self.rule.state(value.attr("name")), i) is None

    # ------------------------------------------------------------ draws

    def draw(self, value: Value, i: int) -> Tensor | float:
        """Numbers that depend on the seed, the call site, `at`, the parameter and the element, and
        in a loop on the number of the pass."""
        member, site = self.members[i], value.attr("site")
        for number in value.args[1:]:
            site = site_in_pass(site, int(self.get(number, i)))
        drawn = draws.draw(
            value.op,
            self.shape(value.type.shape, i),
            seed=int(member.group.get("seed", 0)),
            site=site,
            at=int(self.get(value.args[0], i)),
            parameter=-1 if value.attr("over") else member.index,
            device=member.p.device,
        )
        return drawn.item() if value.type.place is Place.HOST else drawn.to(self.dtype)
