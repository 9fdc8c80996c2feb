"""The reference meaning: a typed rule, run as it stands, in float64.

Input: a rule before any pass, and the parameters that take part in a step. Output: new p and new
states; nothing is changed in place. Relies on: the op table's `torch` column.

A rule is a pure graph, so running it is evaluating what its outputs need, for each parameter, each value
once. A reduction `over` parameters evaluates its operand for all that are in its scope: this is the
lockstep of the language's definition. Does not do: storage (values are not rounded), speed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from optdsl import draws
from optdsl.ir.fold import host_function
from optdsl.ir.nodes import LoopBody, Rule, Scope, Value, reachable, scope_of
from optdsl.ops import OPS, Kind
from optdsl.types import BATCH, Dim, Instances, Shape

RECURSION = 20_000
"""Python frames for one evaluation; a chain of 64 unrolled passes needs a few thousand."""


@dataclass
class Member:
    """One parameter that takes part in a step.

    `states` holds the states that exist, by the rule's name for them, `shared` those over = group | all,
    by (name, group index or None). `t` counts this update, from 1; `index` tells parameters apart
    in random draws. `group` holds the hyperparameters.
    """

    p: Tensor
    g: Tensor | None
    group: dict[str, Any]
    t: int
    steps: int = 1
    group_index: int = 0
    index: int = 0
    name: str = ""
    states: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[tuple[str, int | None], Tensor] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Update:
    """What a step leaves of one member: the new p (None: unchanged) and the states that changed, with
    p's shape where they have it."""

    p: Tensor | None
    states: dict[str, Tensor]


@dataclass
class Outcome:
    updates: list[Update]
    shared: dict[tuple[str, int | None], Tensor]
    reports: dict[str, Tensor | float]


class Closure(Protocol):
    """The model, as `loss(q)` and `grad(q)` see it. `points` has one tensor per member."""

    def loss(self, points: Sequence[Tensor] | None) -> Tensor: ...

    def grad(self, points: Sequence[Tensor]) -> list[Tensor]: ...


def matrix_sizes(shape: Sequence[int], view: str) -> tuple[int, int, int]:
    """batch, rows, cols of a tensor of `shape` under a view of p."""
    count = 1
    for size in shape:
        count *= size
    if view == "flat" or len(shape) < 2:
        return 1, count, 1
    if view == "last":
        rows, cols = shape[-2], shape[-1]
        return (count // (rows * cols) if rows * cols else 1), rows, cols
    return 1, shape[0], (count // shape[0] if shape[0] else 0)


def first_value(rule: Rule, name: str, member: Member, dtype: torch.dtype) -> Tensor:
    """A state's value before its first step, where the host gives it."""
    return _Run(rule, [member], dtype, None).initial(name, 0)


def run(
    rule: Rule,
    members: Sequence[Member],
    dtype: torch.dtype = torch.float64,
    closure: Closure | None = None,
) -> Outcome:
    """One step of `rule` for `members`, all that take part, in the order of the optimizer."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, RECURSION))
    try:
        return _Run(rule, list(members), dtype, closure).outcome()
    finally:
        sys.setrecursionlimit(limit)


@cache
def _torch_function(op: str) -> Callable[..., Tensor]:
    """The meaning of `op` on tensors, from the op table (the compiler's own text)."""
    names = [f"x{i}" for i in range(OPS[op].arity)]
    text = re.sub(r"\{(\d)\}", r"x\1", OPS[op].torch)
    function: Callable[..., Tensor] = eval(
        f"lambda {', '.join([*names, 'rows', 'cols'])}: {text}", {"torch": torch}
    )
    return function


@dataclass
class _Run:
    rule: Rule
    members: list[Member]
    dtype: torch.dtype
    closure: Closure | None
    memo: dict[tuple[Value, int], Any] = field(default_factory=dict)
    loops: list[tuple[frozenset[Value], dict[tuple[Value, int], Any]]] = field(default_factory=list)

    def outcome(self) -> Outcome:
        updates = [Update(None, {}) for _ in self.members]
        shared: dict[tuple[str, int | None], Tensor] = {}
        for i, member in enumerate(self.members):
            if self.rule.param is not None:
                updates[i].p = self._like(self.tensor(self.rule.param, i), member.p)
            for name, value in self.rule.updates.items():
                if not self._exists(name, i):
                    continue
                state = self.rule.state(name)
                new = self.tensor(value, i)
                if state.type.instances is Instances.PARAM:
                    full = self.shape(state.type.shape, i) == self._sizes(member.p)
                    updates[i].states[name] = self._like(new, member.p) if full else new
                else:
                    group = member.group_index if state.type.instances is Instances.GROUP else None
                    shared[(name, group)] = new
        reports = {name: self.get(value, 0) for name, value in self.rule.reports.items()}
        return Outcome(updates, shared, reports)

    def _like(self, value: Tensor, p: Tensor) -> Tensor:
        return value.expand(self._sizes(p)).reshape(p.shape).clone()

    def _exists(self, name: str, i: int) -> bool:
        """Whether the state's declaration is reached for member i in this step."""
        return self._holds(self.rule.state(name).scope, i)

    def _holds(self, scope: Scope, i: int) -> bool:
        return all(bool(self.get(condition, i)) is side for condition, side in scope)

    # ------------------------------------------------------------ evaluation

    def _key(self, value: Value, i: int) -> int:
        if value.type.instances is Instances.PARAM:
            return i
        if value.type.instances is Instances.GROUP:
            return -2 - self.members[i].group_index
        return -1

    def get(self, value: Value, i: int) -> Any:
        """The value for member i: a Python number on the host, else a tensor with all its axes."""
        key = (value, self._key(value, i))
        for inside, memo in reversed(self.loops):
            if value in inside:
                if key not in memo:
                    memo[key] = self._compute(value, i)
                return memo[key]
        if key not in self.memo:
            self.memo[key] = self._compute(value, i)
        return self.memo[key]

    def tensor(self, value: Value, i: int) -> Tensor:
        found = self.get(value, i)
        if isinstance(found, Tensor):
            return found
        dtype = torch.bool if isinstance(found, bool) else self.dtype
        return torch.tensor([[found]], dtype=dtype, device=self.members[i].p.device)

    def _compute(self, value: Value, i: int) -> Any:
        kind = OPS[value.op].kind
        if kind is Kind.MAP:
            return self._map(value, i)
        if kind is Kind.REDUCE:
            return self._reduce(value, i)
        if kind is Kind.MATRIX:
            return self._matrix(value, i)
        if kind is Kind.RANDOM:
            return self._draw(value, i)
        return getattr(self, f"_op_{value.op}")(value, i)

    def _map(self, value: Value, i: int) -> Any:
        if not value.type.on_device:
            if value.op == "where":  # only the side taken is computed
                return self.get(value.args[1 if self.get(value.args[0], i) else 2], i)
            return host_function(value.op)(*(self.get(arg, i) for arg in value.args))
        lead = value.type.shape.lead
        operands = [self._aligned(self.tensor(arg, i), arg.type.shape, lead) for arg in value.args]
        return _torch_function(value.op)(*operands, rows=0, cols=0)

    @staticmethod
    def _aligned(tensor: Tensor, shape: Shape, lead: tuple[Dim, ...]) -> Tensor:
        """`tensor` with an axis of size 1 for each lead axis of the result that it lacks."""
        have = list(shape.lead)
        for position, axis in enumerate(lead):
            if not have or axis not in have:
                tensor = tensor.unsqueeze(position) if have else tensor
        return tensor

    def _matrix(self, value: Value, i: int) -> Tensor:
        if value.op == "eye":
            n = self.dim(value.attr("n"), i)
            return torch.eye(n, dtype=self.dtype, device=self.members[i].p.device)
        _, rows, cols = matrix_sizes(self.members[i].p.shape, self.rule.view)
        return _torch_function(value.op)(
            *(self.tensor(arg, i) for arg in value.args), rows=rows, cols=cols
        )

    # ------------------------------------------------------------ reductions

    def _reduce(self, value: Value, i: int) -> Tensor:
        over = value.attr("over")
        if over is None:
            return self._reduced(value, i)
        parts = [
            self._reduced(value, j)
            for j, member in enumerate(self.members)
            if (over == "all" or member.group_index == self.members[i].group_index)
            and self._holds(scope_of(value), j)
        ]
        if value.args[0].type.instances < Instances.PARAM:
            parts = parts[:1]  # one value for all of them, not one each
        total = parts[0]
        for part in parts[1:]:
            total = _combine(value.op, total, part)
        return total

    def _reduced(self, value: Value, i: int) -> Tensor:
        operand, axis = value.args[0], value.attr("axis")
        tensor = self.tensor(operand, i)
        lead = operand.type.shape.lead
        if axis in (0, 1):
            return _over_dims(value.op, tensor, (axis - 2,), keep=True)
        if axis is not None:
            return _over_dims(value.op, tensor, (lead.index(axis),), keep=False)
        result = _over_dims(value.op, tensor, (-2, -1), keep=True)
        if BATCH in lead:
            result = _over_dims(value.op, result, (lead.index(BATCH),), keep=False)
        return result

    # ------------------------------------------------------------ leaves

    def _sizes(self, p: Tensor) -> tuple[int, ...]:
        batch, rows, cols = matrix_sizes(p.shape, self.rule.view)
        return (batch, rows, cols) if self.rule.view == "last" else (rows, cols)

    def _op_const(self, value: Value, i: int) -> Any:
        return value.attr("value")

    def _op_param(self, value: Value, i: int) -> Tensor:
        p = self.members[i].p
        return p.detach().to(self.dtype).reshape(self._sizes(p))

    def _op_grad(self, value: Value, i: int) -> Tensor:
        member = self.members[i]
        if member.g is None:
            raise ValueError(f"parameter {member.name or member.index} has no gradient")
        return member.g.detach().to(self.dtype).reshape(self._sizes(member.p))

    def _op_state(self, value: Value, i: int) -> Tensor:
        name, member = value.attr("name"), self.members[i]
        state = self.rule.state(name)
        if state.type.instances is Instances.PARAM:
            stored = member.states.get(name)
        else:
            group = member.group_index if state.type.instances is Instances.GROUP else None
            stored = member.shared.get((name, group))
        if stored is None:
            return self.initial(name, i)
        return stored.detach().to(self.dtype).reshape(self.shape(state.type.shape, i))

    def initial(self, name: str, i: int) -> Tensor:
        """A state's first value where the host gives it, in its full shape."""
        state = self.rule.state(name)
        if state.initial is None:
            raise ValueError(f"state {name} does not exist yet")
        number = float(self.get(state.initial, i))
        sizes = self.shape(state.type.shape, i)
        return torch.full(sizes, number, dtype=self.dtype, device=self.members[i].p.device)

    def _op_input(self, value: Value, i: int) -> Tensor:
        name, member = value.attr("name"), self.members[i]
        if name not in member.inputs:
            raise ValueError(f"the step needs the input `{name}`")
        tensor = member.inputs[name].detach().to(self.dtype)
        shape = value.type.shape
        named = len(shape.lead) - (BATCH in shape.lead)
        rest = self._sizes(member.p) if (shape.rows, shape.cols) == ("rows", "cols") else None
        if rest is not None:
            return tensor.reshape(*tensor.shape[:named], *rest)
        if shape.rows == shape.cols == 1:
            return tensor.reshape(*tensor.shape[:named], 1, 1)
        return tensor

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

    def _op_t(self, value: Value, i: int) -> int:
        return self.members[i].t

    def _op_steps(self, value: Value, i: int) -> int:
        return self.members[i].steps

    def _op_size(self, value: Value, i: int) -> int:
        return self.dim(value.attr("name"), i)

    def _op_lead_size(self, value: Value, i: int) -> int:
        for declared in self.rule.inputs:
            if value.attr("name") in declared.type.shape.lead:
                tensor = self.members[i].inputs[declared.name]
                return tensor.shape[declared.type.shape.lead.index(value.attr("name"))]
        raise ValueError(f"no input has the axis {value.attr('name')}")

    def _op_first(self, value: Value, i: int) -> bool:
        state, member = self.rule.state(value.attr("name")), self.members[i]
        if state.type.instances is Instances.PARAM:
            return state.name not in member.states
        group = member.group_index if state.type.instances is Instances.GROUP else None
        return (state.name, group) not in member.shared

    def _op_name_matches(self, value: Value, i: int) -> bool:
        return re.search(value.attr("pattern"), self.members[i].name) is not None

    def _op_workers(self, value: Value, i: int) -> int:
        return 1

    def _op_rank(self, value: Value, i: int) -> int:
        return 0

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
        }
        return sizes[dim] if dim in sizes else int(self.get(self.rule.dims[dim], i))

    def shape(self, shape: Shape, i: int) -> tuple[int, ...]:
        return tuple(self.dim(dim, i) for dim in shape.dims)

    # ------------------------------------------------------------ control

    def _op_choose(self, value: Value, i: int) -> Any:
        return self.get(value.args[1 if self.get(value.args[0], i) else 2], i)

    def _op_full(self, value: Value, i: int) -> Tensor:
        operand = value.args[0]
        tensor = self._aligned(self.tensor(operand, i), operand.type.shape, value.type.shape.lead)
        return tensor.expand(self.shape(value.type.shape, i))

    def _op_index(self, value: Value, i: int) -> Tensor:
        tensor, number = self.tensor(value.args[0], i), int(self.get(value.args[1], i))
        entry = tensor[number]
        return entry if value.args[0].type.shape.lead else entry.unsqueeze(-1)

    def _op_put_index(self, value: Value, i: int) -> Tensor:
        base, entry = self.tensor(value.args[0], i).clone(), self.tensor(value.args[2], i)
        number = int(self.get(value.args[1], i))
        base[number] = entry if value.args[0].type.shape.lead else entry.squeeze(-1)
        return base

    def _op_loop_result(self, value: Value, i: int) -> Any:
        return self.get(value.args[0], i)[value.attr("index")]

    def _op_loop(self, value: Value, i: int) -> tuple[Any, ...]:
        """The carried values after the loop, for member i. Where the body couples parameters (a
        reduction over them, the model), all that are in its scope pass through it in lockstep."""
        body: LoopBody = value.attr("body")
        results = [*body.results, *((body.until,) if body.until is not None else ())]
        inside = _depends(results, {*body.args, *((body.index,) if body.index is not None else ())})
        coupled = [each for each in reachable(results) if each in inside and _couples(each)]
        together = (
            [i]
            if not coupled
            else [j for j in range(len(self.members)) if self._holds(scope_of(coupled[0]), j)]
        )
        carried = {j: tuple(self.get(arg, j) for arg in value.args[1:]) for j in together}
        for number in range(int(self.get(value.args[0], i))):
            memo: dict[tuple[Value, int], Any] = {}
            for j in together:
                for arg, each in zip(body.args, carried[j], strict=True):
                    memo[(arg, self._key(arg, j))] = each
                if body.index is not None:
                    memo[(body.index, self._key(body.index, j))] = number
            self.loops.append((inside, memo))
            carried = {j: tuple(self.get(each, j) for each in body.results) for j in together}
            ended = body.until is not None and bool(self.get(body.until, i))
            self.loops.pop()
            if ended:
                break
        for j in together:
            self.memo[(value, self._key(value, j))] = carried[j]
        return carried[i]

    # ------------------------------------------------------------ draws and closures

    def _draw(self, value: Value, i: int) -> Tensor:
        member = self.members[i]
        return draws.draw(
            value.op,
            self.shape(value.type.shape, i),
            seed=int(member.group.get("seed", 0)),
            site=value.attr("site"),
            at=int(self.get(value.args[0], i)),
            parameter=-1 if value.attr("over") else member.index,
            device=member.p.device,
        ).to(self.dtype)

    def _points(self, value: Value) -> list[Tensor]:
        points = []
        for j, member in enumerate(self.members):
            inside = self._holds(scope_of(value), j)
            point = self.tensor(value.args[0], j) if inside else self._op_param(value, j)
            points.append(self._like(point, member.p))
        return points

    def _op_loss_at(self, value: Value, i: int) -> Tensor:
        points = None if value.args[0].op == "param" else self._points(value)
        return self._model().loss(points).detach().to(self.dtype).reshape(1, 1)

    def _op_grad_at(self, value: Value, i: int) -> Tensor:
        grads = self._model().grad(self._points(value))
        for j, grad in enumerate(grads):
            found = grad.detach().to(self.dtype).reshape(self._sizes(self.members[j].p))
            memo = next((m for inside, m in reversed(self.loops) if value in inside), self.memo)
            memo[(value, j)] = found
        return memo[(value, i)]

    def _model(self) -> Closure:
        if self.closure is None:
            raise ValueError("this rule evaluates the model: call step(closure)")
        return self.closure

    def _alone(self, value: Value, i: int) -> Tensor:
        """A collective of one worker."""
        return self.tensor(value.args[0], i)

    _op_worker_sum = _op_worker_max = _op_worker_min = _alone

    def _op_gather(self, value: Value, i: int) -> Tensor:
        return self.tensor(value.args[0], i).unsqueeze(0)


def _combine(op: str, a: Tensor, b: Tensor) -> Tensor:
    return a + b if op == "sum" else torch.maximum(a, b) if op == "max_of" else torch.minimum(a, b)


def _over_dims(op: str, tensor: Tensor, dims: tuple[int, ...], *, keep: bool) -> Tensor:
    if op == "sum":
        return torch.sum(tensor, dim=dims, keepdim=keep)
    if any(tensor.shape[dim] == 0 for dim in dims):  # nothing: the identity
        shape = torch.sum(tensor, dim=dims, keepdim=keep).shape
        identity = OPS[op].identity
        assert identity is not None
        return torch.full(shape, identity, dtype=tensor.dtype, device=tensor.device)
    return (torch.amax if op == "max_of" else torch.amin)(tensor, dim=dims, keepdim=keep)


def _couples(value: Value) -> bool:
    """Whether the value of one parameter needs those of others."""
    row = OPS[value.op]
    if row.kind is Kind.REDUCE:
        return value.attr("over") is not None
    return row.kind is Kind.CLOSURE


def _depends(results: list[Value], sources: set[Value]) -> frozenset[Value]:
    """The values under `results` that depend on any of `sources`."""
    inside = set(sources)
    for value in reachable(results):
        arguments = value.args
        if value.op == "loop":
            body: LoopBody = value.attr("body")
            arguments = (*arguments, *body.results)
        if any(arg in inside for arg in arguments):
            inside.add(value)
    return frozenset(inside)
