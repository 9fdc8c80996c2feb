"""Values of a rule, each evaluated once for each parameter that needs it.

Input: a value and a member's number. Output: a Python number on the host, else a tensor with all
axes of the value's type, of which some may have size 1. Relies on: leaves; the op table's `torch`
column. Does not do: which values a step needs (run.py), loops (loops.py).

Evaluation keeps its own stack: a rule may be deeper than Python's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optdsl import linalg, order
from optdsl.interpreter.leaves import Leaves
from optdsl.interpreter.members import Closure, matrix_sizes
from optdsl.ir.coupling import couples
from optdsl.ir.fold import host_function
from optdsl.ir.nodes import Scope, Value, scope_of
from optdsl.ops import OPS, Kind
from optdsl.types import BATCH, Axis, Dim, Instances, Shape

SIZES = frozenset({"n", "m", "first"})
"""Attributes that are sizes."""
Memo = dict[tuple[Value, int], Any]


class Turn(NamedTuple):
    """A pass of a loop: the values that it works out, what of them is known, and the members that
    take part."""

    inside: frozenset[Value]
    memo: Memo
    members: frozenset[int]


@cache
def torch_function(op: str) -> Callable[..., Tensor]:
    """The meaning of `op` on tensors, from the op table (the compiler's own text)."""
    names = [f"x{i}" for i in range(OPS[op].arity)]
    text = re.sub(r"\{(\d)\}", r"x\1", OPS[op].torch)
    attributes = re.findall(r"\{(\w+)\}", text)
    text = re.sub(r"\{(\w+)\}", r"\1", text)
    function: Callable[..., Tensor] = eval(
        f"lambda {', '.join([*names, 'rows', 'cols', *attributes])}, **_: {text}",
        {"torch": torch, "linalg": linalg, "order": order},
    )
    return function


@dataclass
class Evaluation(Leaves):
    """Evaluates values; `loops` are the loops being run, innermost last, with what is inside."""

    memo: Memo = field(default_factory=dict)
    loops: list[Turn] = field(default_factory=list)

    # ------------------------------------------------------------ the stack

    def get(self, value: Value, i: int) -> Any:
        """The value for member i."""
        stack = [(value, i)]
        while stack:
            each, j = stack[-1]
            memo, key = self.memo_of(each), (each, self.key(each, j))
            if key in memo:
                stack.pop()
                continue
            missing = [
                (other, k)
                for other, k in self._needs(each, j)
                if (other, self.key(other, k)) not in self.memo_of(other)
            ]
            if missing:
                stack.extend(reversed(missing))
                continue
            computed = self._compute(each, j)
            memo[key] = computed
            stack.pop()
        return self.memo_of(value)[(value, self.key(value, i))]

    def key(self, value: Value, i: int) -> int:
        """The instance of the value that member i sees."""
        if value.type.instances is Instances.PARAM:
            return i
        if value.type.instances is Instances.GROUP:
            return -2 - self.members[i].group_index
        return -1

    def memo_of(self, value: Value) -> Memo:
        return next((t.memo for t in reversed(self.loops) if value in t.inside), self.memo)

    def _needs(self, value: Value, i: int) -> Iterable[tuple[Value, int]]:
        """What must be known before the value can be computed; asked again when that is."""
        if is_choice(value):
            if not self._is_known(value.args[0], i):
                return [(value.args[0], i)]
            return [(self._chosen(value, i), i)]
        if not couples(value):
            return [(arg, i) for arg in value.args]
        near = self._near(value, i)
        conditions = [(each, j) for each in value.args[1:] for j in near]
        if not all(self._is_known(each, j) for each, j in conditions):
            return conditions
        return [(twin.args[0], j) for j, twin in self.within(value, i).items()]

    def _is_known(self, value: Value, i: int) -> bool:
        return (value, self.key(value, i)) in self.memo_of(value)

    def _near(self, value: Value, i: int) -> list[int]:
        """The members that a reduction over parameters ranges over, if they are in its scope."""
        turns = [turn.members for turn in self.loops if value in turn.inside]
        near = [j for j in range(len(self.members)) if all(j in each for each in turns)]
        if OPS[value.op].kind is not Kind.REDUCE or value.attr("over") == "all":
            return near
        group = self.members[i].group_index
        return [j for j in near if self.members[j].group_index == group]

    def within(self, value: Value, i: int) -> dict[int, Value]:
        """The members that execute the statement of a coupled value, each with its own twin."""
        near = (j for j in self._near(value, i) if self.holds(scope_of(value), j))
        twins = ((j, self.twin(value, j)) for j in near)
        return {j: twin for j, twin in twins if twin is not None}

    def twin(self, value: Value, i: int) -> Value | None:
        """What stands for `value`, which ties parameters together, in member i's rule; None where
        nothing does."""
        return value

    def holds(self, scope: Scope, i: int) -> bool:
        return all(bool(self.get(condition, i)) is side for condition, side in scope)

    def tensor(self, value: Value, i: int) -> Tensor:
        """The value as a tensor with all its axes, whatever its place."""
        found = self.get(value, i)
        if isinstance(found, Tensor):
            return found
        dtype = torch.bool if isinstance(found, bool) else self.dtype
        return torch.tensor([[found]], dtype=dtype, device=self.members[i].p.device)

    def _compute(self, value: Value, i: int) -> Any:
        kind = OPS[value.op].kind
        if is_choice(value):
            return self.get(self._chosen(value, i), i)
        if kind is Kind.MAP:
            return self._map(value, i)
        if kind is Kind.REDUCE:
            return self._reduce(value, i)
        if kind is Kind.MATRIX:
            return self._matrix(value, i)
        if kind is Kind.RANDOM:
            return self.draw(value, i)
        return getattr(self, f"_op_{value.op}")(value, i)

    def _chosen(self, value: Value, i: int) -> Value:
        return value.args[1 if self.get(value.args[0], i) else 2]

    # ------------------------------------------------------------ elementwise and matrices

    def _map(self, value: Value, i: int) -> Any:
        if not value.type.on_device:
            return host_function(value.op)(*(self.get(arg, i) for arg in value.args))
        lead = value.type.shape.lead
        operands = [self.aligned(self.tensor(arg, i), arg.type.shape, lead) for arg in value.args]
        return torch_function(value.op)(*operands, rows=0, cols=0)

    @staticmethod
    def aligned(tensor: Tensor, shape: Shape, lead: tuple[Dim, ...]) -> Tensor:
        """`tensor` with an axis of size 1 for each lead axis of the result that it lacks."""
        if not shape.lead:
            return tensor
        have = list(shape.lead)
        for position, axis in enumerate(lead):
            if position >= len(have) or have[position] != axis:
                have.insert(position, axis)
                tensor = tensor.unsqueeze(position)
        return tensor

    def _matrix(self, value: Value, i: int) -> Tensor:
        if value.op == "eye":
            n, m = self.dim(value.attr("n"), i), self.dim(value.attr("m"), i)
            return torch.eye(n, m, dtype=self.dtype, device=self.members[i].p.device)
        _, rows, cols = matrix_sizes(self.members[i].p.shape, self.rule.view)
        operands = [self.tensor(arg, i) for arg in value.args]
        attributes = dict(value.attrs)
        for name in SIZES & attributes.keys():
            if attributes[name] is not None:
                attributes[name] = self.dim(attributes[name], i)
        found = torch_function(value.op)(*operands, rows=rows, cols=cols, **attributes)
        # Rows and columns stay, with one entry; an axis before them is gone.
        gone = [dim for dim in attributes.get("dims", ()) if dim < -2]
        return found.squeeze(gone[0]) if gone else found

    def _op_part(self, value: Value, i: int) -> Tensor:
        found: Tensor = self.get(value.args[0], i)[value.attr("index")]
        return found

    def _op_full(self, value: Value, i: int) -> Tensor:
        operand = value.args[0]
        tensor = self.aligned(self.tensor(operand, i), operand.type.shape, value.type.shape.lead)
        return tensor.expand(self.shape(value.type.shape, i))

    def _op_index(self, value: Value, i: int) -> Tensor:
        return self.taken(value, self.tensor(value.args[0], i), i)

    def taken(self, value: Value, base: Tensor, i: int) -> Tensor:
        """The entry of `base` that an index names."""
        entry = base[self._entry(value, i)]
        return entry if value.args[0].type.shape.lead else entry.unsqueeze(-1)

    def _op_put_index(self, value: Value, i: int) -> Tensor:
        base, _, entry = value.args
        return self.replaced(value, self.tensor(base, i), self.tensor(entry, i), i)

    def replaced(self, value: Value, base: Tensor, entry: Tensor, i: int) -> Tensor:
        """A copy of `base` with the entry that an index names replaced."""
        found = base.clone()
        found[self._entry(value, i)] = entry if value.args[0].type.shape.lead else entry.squeeze(-1)
        return found

    def _entry(self, value: Value, i: int) -> int:
        number, size = self.get(value.args[1], i), self.tensor(value.args[0], i).shape[0]
        if not (number == number and 0 <= number < size):
            raise ValueError(f"entry {number} of an axis of {size}")
        return int(number)

    # ------------------------------------------------------------ reductions

    def _reduce(self, value: Value, i: int) -> Any:
        if value.attr("over") is None:
            return self._reduced(value, i)
        within = self.within(value, i)
        if value.op == "kth_of" and within:
            return self.ordered([(twin, j) for j, twin in within.items()])
        instances = {self.key(within[j].args[0], j): j for j in reversed(within)}
        parts = [self._reduced(within[j], j) for j in reversed(instances.values())]
        if not parts:
            identity = OPS[value.op].identity
            assert identity is not None
            return torch.full(self.shape(value.type.shape, i), identity, dtype=self.dtype)
        total = parts[0]
        for part in parts[1:]:
            total = self.joined(value.op, total, part)
        return total

    def ordered(self, parts: list[tuple[Value, int]]) -> Any:
        """A statistic of the elements of several parameters, each with the reduction it has."""
        (first, i), *_ = parts
        operands = [(value.args[0], j) for value, j in parts]
        whole = [self.tensor(x, j).expand(self.shape(x.type.shape, j)) for x, j in operands]
        flat = torch.cat([each.reshape(1, -1) for each in whole], -1)
        return order.kth_smallest(flat, self.dim(first.attr("k"), i), (-1,))

    def joined(self, op: str, total: Any, part: Any) -> Any:
        """The results of two parameters as one."""
        return combine(op, total, part)

    def _reduced(self, value: Value, i: int) -> Any:
        """The reduction within one parameter."""
        operand = value.args[0]
        shape = operand.type.shape
        return over_axis(value.op, self.tensor(operand, i), shape, value.attr("axis"))

    # ------------------------------------------------------------ the model and other workers

    def _points(self, value: Value, i: int) -> list[Tensor]:
        """Where the model is evaluated: the members that execute the statement at the operand, all
        others where they are."""
        within = self.within(value, i)
        return [
            self.like(self.point(within[j], j) if j in within else self._op_param(value, j), j)
            for j in range(len(self.members))
        ]

    def point(self, value: Value, i: int) -> Tensor:
        """Where an evaluation of the model has member i, which executes the statement."""
        return self.tensor(value.args[0], i)

    def like(self, value: Tensor, i: int) -> Tensor:
        """A value of p's shape as a tensor like p, not shared with any other."""
        p = self.members[i].p
        return value.expand(self.sizes(p)).reshape(p.shape).clone()

    def _op_loss_at(self, value: Value, i: int) -> Tensor:
        points = None if value.args[0].op == "param" else self._points(value, i)
        return self._model().loss(points).detach().to(self.dtype).reshape(1, 1)

    def _op_grad_at(self, value: Value, i: int) -> Tensor:
        """One evaluation gives the gradients of all members."""
        grads, memo = self._model().grad(self._points(value, i)), self.memo_of(value)
        for j, (grad, member) in enumerate(zip(grads, self.members, strict=True)):
            found_at = (self.twin(value, j) or value, j)
            memo[found_at] = grad.detach().to(self.dtype).reshape(self.sizes(member.p))
        found: Tensor = memo[(value, i)]
        return found

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


def combine(op: str, a: Tensor, b: Tensor) -> Tensor:
    """Two partial results of a reduction as one."""
    return a + b if op == "sum" else torch.maximum(a, b) if op == "max_of" else torch.minimum(a, b)


def over_axis(op: str, tensor: Tensor, shape: Shape, axis: Axis) -> Tensor:
    """A reduction of a value of type `shape` over rows (0), columns (1), a named axis, all of the
    parameter (None) or nothing of it."""
    if axis == ():
        return tensor
    if axis in (0, 1):
        return over_dims(op, tensor, (int(axis) - 2,), keep=True)
    if axis is not None:
        return over_dims(op, tensor, (shape.lead.index(axis),), keep=False)
    result = over_dims(op, tensor, (-2, -1), keep=True)
    if BATCH in shape.lead:
        result = over_dims(op, result, (shape.lead.index(BATCH),), keep=False)
    return result


def over_dims(op: str, tensor: Tensor, dims: tuple[int, ...], *, keep: bool) -> Tensor:
    """A reduction over some axes of a tensor; over none of its elements, the identity."""
    if op == "sum":
        return torch.sum(tensor, dim=dims, keepdim=keep)
    if any(tensor.shape[dim] == 0 for dim in dims):
        shape = torch.sum(tensor, dim=dims, keepdim=keep).shape
        identity = OPS[op].identity
        assert identity is not None
        return torch.full(shape, identity, dtype=tensor.dtype, device=tensor.device)
    return (torch.amax if op == "max_of" else torch.amin)(tensor, dim=dims, keepdim=keep)


def is_choice(value: Value) -> bool:
    """Whether only one side is computed."""
    return value.op == "choose" or (value.op == "where" and not value.type.on_device)
