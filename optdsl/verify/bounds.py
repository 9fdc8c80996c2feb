"""How far a target may be from the exact values: a running error analysis.

Input: a rule, the values that a target computes (straight variants after all rewriting, or the
rule itself for the interpreter), and the members of a step. Output: for each value its float64
evaluation and a bound of the error that a target's arithmetic may have made.

Elementwise operations: the op is evaluated at all corners of the box that its operands' errors
span; the largest distance to the middle is what it passes on, to which come its own roundings, by
the `error` column of the op table. A comparison whose corners disagree is undecided; what it
selects is bounded by the distance of the two sides. A sum of n terms adds min(n, CHAIN) roundings
of the sum of magnitudes, in whatever order it is taken.

All this is worked out for float32. What is computed in float64 has the same bounds times 2^-29,
the ratio of the two formats' units; float64 arithmetic could not tell such boxes from points.

What the library computes (products of matrices, draws, loops) has no such bound of any use: it
grows by the norms of all factors. There the error is estimated: the same values are evaluated
SAMPLES times with every operation off by a random part of its bound, and SAFETY times the largest
deviation of the element, or of the matrix as a whole, is allowed.

Relies on: interpreter. Does not do: rounding to storage (formats.py), any run of a target.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from optdsl import order
from optdsl.interpreter.evaluate import (
    combine,
    is_choice,
    over_axis,
    over_dims,
    torch_function,
)
from optdsl.interpreter.run import Run
from optdsl.ir.coupling import EVALUATIONS, identity, in_loops, rank
from optdsl.ir.nodes import Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.passes.algebra import is_size
from optdsl.passes.variants import STATISTICS, Straight
from optdsl.types import DType
from optdsl.verify.formats import FORMATS, distance, storage_format, ulp

CHAIN = 2048
"""The most additions one after another in the compute dtype (the C target's blocks, if they are not
vectorised); longer sums are added in float64."""

COMPUTE = torch.float32
UNIT = 2.0 ** -FORMATS[COMPUTE][0]
"""Half the distance from 1 to the next number."""

FLOAT64 = 2.0**-29
"""A bound in float64 as part of that in float32."""

SAMPLES = 8
SAFETY = 8.0
EXACT = frozenset({op.name for op in OPS.values() if op.kind is Kind.MATRIX and op.error == 0})
"""Matrix operations that move numbers and change none."""


@dataclass(frozen=True)
class Near:
    """A value and how far from it a target may be, elementwise; for a condition 1 where it may
    fall either way."""

    value: Tensor
    error: Tensor


@dataclass
class Values:
    """What a target computes for each member: `outputs` by name (p, states) for each variant,
    `contributions` to slots that variants share, and which variant each member runs."""

    variants: Sequence[Straight]
    chosen: Sequence[int]

    def outputs(self, i: int) -> dict[str, Value]:
        return self.variants[self.chosen[i]].outputs

    def contribution(self, slot: str, i: int) -> Value | None:
        found = self.variants[self.chosen[i]].contributions.get(slot)
        return None if found is None else found[1]

    @cached_property
    def twins(self) -> Sequence[Mapping[object, Value]]:
        """Of each variant the loops, and what in them, that tie parameters together."""
        found = []
        for each in self.variants:
            shared = (value.args[0] for _, value in each.contributions.values())
            roots = [*each.outputs.values(), *shared]
            loops = (value for value in reachable(roots) if value.op == "loop")
            values = (*in_loops(roots), *loops)
            found.append({identity(value): value for value in values})
        return found

    @cached_property
    def roots(self) -> list[Value]:
        used = [self.variants[index] for index in sorted(set(self.chosen))]
        shared = [v.args[0] for each in used for _, v in each.contributions.values()]
        return [*(value for each in used for value in each.outputs.values()), *shared]


@dataclass
class SlotRun(Run):
    """Evaluates values in which the reductions over parameters are slots. `asked` are the points of
    the evaluations that loops made, one for each member, in their order."""

    values: Values | None = None
    asked: list[list[Tensor]] = field(default_factory=list)

    def _points(self, value: Value, i: int) -> list[Tensor]:
        self.asked.append(super()._points(value, i))
        return self.asked[-1]

    def twin(self, value: Value, i: int) -> Value | None:
        assert self.values is not None
        if rank(value) is None:
            return value
        return self.values.twins[self.values.chosen[i]].get(identity(value))

    def _op_result(self, value: Value, i: int) -> Any:
        assert self.values is not None
        seen: set[tuple[Value, int]] = set()
        parts: list[tuple[Value, int]] = []
        for j, member in enumerate(self.members):
            each = self.values.contribution(value.attr("slot"), j)
            if each is None:
                continue
            near = each.attr("over") == "all"
            near = near or member.group_index == self.members[i].group_index
            key = (each.args[0], self.key(each.args[0], j))
            if near and key not in seen:  # one value for all of them counts once
                seen.add(key)
                parts.append((each, j))
        if parts[0][0].op in STATISTICS:
            return self.ordered(parts)
        op, found = parts[0][0].op, (self._reduced(each, j) for each, j in parts)
        return functools.reduce(functools.partial(self.joined, op), found)

    def _op_evaluated(self, value: Value, i: int) -> Any:
        """What was worked out between passes; by the model, with each member where its own variant
        evaluates it."""
        assert self.values is not None
        sites = [self.values.contribution(value.attr("slot"), j) for j in range(len(self.members))]
        (op,) = {site.op for site in sites if site is not None}
        if op not in EVALUATIONS:
            return self._op_result(value, i)
        points = [
            self.like(self._op_param(value, j) if site is None else self.point(site, j), j)
            for j, site in enumerate(sites)
        ]
        if op == "loss_at":
            own = all(site is None or site.args[0].op == "param" for site in sites)
            return self._model().loss(None if own else points).to(self.dtype).reshape(1, 1)
        for j, grad in enumerate(self._model().grad(points)):
            self.memo[(value, j)] = grad.to(self.dtype).reshape(self.sizes(self.members[j].p))
        return self.memo[(value, i)]


@dataclass
class Bounds(SlotRun):
    """Evaluates device values as `Near`, for parameters of dtype `parameter`. `undecided` counts
    comparisons that may fall either way, `decided` all; `points` are where the model was evaluated,
    by evaluation and member."""

    perturbed: Sequence[Perturbed] = ()
    exact: SlotRun | None = None
    library: frozenset[Value] = frozenset()
    parameter: torch.dtype = torch.float32
    undecided: int = 0
    decided: int = 0
    points: dict[tuple[Value, int], Near] = field(default_factory=dict)

    def tensor(self, value: Value, i: int) -> Tensor:
        return self.near(value, i).value

    def point(self, site: Value, i: int) -> Tensor:
        if site.args[0].op != "param":
            self.points[site, i] = self.near(site.args[0], i)
        return self.tensor(site.args[0], i)

    def near(self, value: Value, i: int) -> Near:
        """The value for member i with its bound."""
        found = self.get(value, i)
        if isinstance(found, Near):
            return found
        while is_choice(value):
            value = self._chosen(value, i)
        if isinstance(found, Tensor):  # a leaf: what lies in memory is exact
            return Near(found, self._first_rounding(value, found, i))
        return as_device(value, found)

    def _first_rounding(self, value: Value, found: Tensor, i: int) -> Tensor:
        """A state that begins in this step was stored before it is read."""
        if value.op == "state":
            state = self.rule.state(value.attr("name"))
            if self.stored(state, i) is None:
                kept = found.to(storage_format(state.storage, self.parameter))
                apart = distance(kept.to(torch.float64), found)
                return apart / FLOAT64 if self.parameter is torch.float64 else apart
        return torch.zeros(found.shape, dtype=torch.float64)

    def _needs(self, value: Value, i: int) -> Any:
        return () if value in self.library else super()._needs(value, i)

    def _compute(self, value: Value, i: int) -> Any:
        if value in self.library and value.op != "loop":
            return self._estimated(value, i)
        return super()._compute(value, i)

    def _estimated(self, value: Value, i: int) -> Near:
        assert self.exact is not None
        middle = self.exact.tensor(value, i)
        if middle.dtype is torch.bool:
            return Near(middle, torch.zeros(middle.shape, dtype=torch.float64))
        return self._estimate(middle, [each.tensor(value, i) for each in self.perturbed])

    def asked_in_loops(self) -> Iterator[list[Near]]:
        """The points of evaluations in loops, as far as all samples made the same ones."""
        if self.exact is None:
            return
        samples = zip(*(each.asked for each in self.perturbed), strict=False)
        for points, others in zip(self.exact.asked, samples, strict=False):
            pairs = zip(points, zip(*others, strict=True), strict=True)
            yield [self._estimate(middle, near) for middle, near in pairs]

    def _estimate(self, middle: Tensor, samples: Sequence[Tensor]) -> Near:
        """How far a target may be from `middle`, by where the samples are."""
        apart = torch.stack([distance(each, middle) for each in samples])
        dims = (0, -2, -1) if middle.dim() > 1 else tuple(range(apart.dim()))
        whole = apart.square().mean(dims, keepdim=True).sqrt()[0]
        unit = FLOAT64 if self.parameter is torch.float64 else 1.0
        return Near(middle, SAFETY / unit * torch.maximum(apart.amax(0), whole))

    def _map(self, value: Value, i: int) -> Any:
        if not value.type.on_device:
            return super()._map(value, i)
        lead = value.type.shape.lead
        operands = [
            Near(*(self.aligned(each, arg.type.shape, lead) for each in (near.value, near.error)))
            for arg, near in ((arg, self.near(arg, i)) for arg in value.args)
        ]
        result = elementwise(value.op, operands)
        if value.type.dtype is DType.BOOL or value.op in ("sign", "floor", "ceil", "round"):
            self.decided += result.error.numel()
            self.undecided += int((result.error >= 1).sum())
        return result

    def _op_full(self, value: Value, i: int) -> Any:
        operand, sizes = value.args[0], self.shape(value.type.shape, i)
        near, lead = self.near(operand, i), value.type.shape.lead
        pair = (self.aligned(e, operand.type.shape, lead) for e in (near.value, near.error))
        return Near(*(each.expand(sizes) for each in pair))

    def _op_index(self, value: Value, i: int) -> Any:
        near = self.near(value.args[0], i)
        return Near(*(self.taken(value, each, i) for each in (near.value, near.error)))

    def _op_put_index(self, value: Value, i: int) -> Any:
        base, entry = (self.near(each, i) for each in value.args[::2])
        error = self.replaced(value, base.error, entry.error, i)
        return Near(self.replaced(value, base.value, entry.value, i), error)

    def _reduced(self, value: Value, i: int) -> Any:
        operand, near = value.args[0], self.near(value.args[0], i)

        def over(op: str, tensor: Tensor) -> Tensor:
            return over_axis(op, tensor, operand.type.shape, value.attr("axis"))

        result = over(value.op, near.value)
        if value.op != "sum":
            error = over("max_of", near.error).clamp(min=0)  # of nothing: exact
            return Near(result, error)
        count = near.value.numel() // max(1, result.numel())
        sizes, error = over("sum", near.value.abs() + near.error), over("sum", near.error)
        own = min(count, CHAIN) * UNIT * sizes + ulp(result, COMPUTE) / 2
        return Near(result, torch.where((sizes == 0) | ~result.isfinite(), error, error + own))

    def ordered(self, parts: list[tuple[Value, int]]) -> Near:
        """No statistic moves further than the element that moves most."""
        (first, i), *_ = parts
        nears = [self.near(value.args[0], j) for value, j in parts]
        values, errors = (
            torch.cat([each.reshape(1, -1) for each in all_], -1)
            for all_ in zip(*((near.value, near.error) for near in nears), strict=True)
        )
        found = order.kth_smallest(values, self.dim(first.attr("k"), i), (-1,))
        return Near(found, over_dims("max_of", errors, (-1,), keep=True).clamp(min=0))

    def joined(self, op: str, total: Near, part: Near) -> Near:
        """In float64, then once more rounded."""
        result = combine(op, total.value, part.value)
        if op != "sum":
            return Near(result, torch.maximum(total.error, part.error))
        zero = (total.value == 0) & (total.error == 0) & (part.value == 0) & (part.error == 0)
        own = (ulp(result, COMPUTE) / 2).masked_fill(zero | ~result.isfinite(), 0.0)
        return Near(result, total.error + part.error + own)


@dataclass
class Perturbed(SlotRun):
    """Evaluates every device value with an error of the target's size, at random, for parameters
    of dtype `parameter`: that of float64 for these, since a basis that nothing determines is as far
    off there as in float32."""

    generator: torch.Generator = field(default_factory=torch.Generator)
    parameter: torch.dtype = torch.float32

    def tensor(self, value: Value, i: int) -> Tensor:
        found = self.get(value, i)
        return found if isinstance(found, Tensor) else as_device(value, found).value

    def _compute(self, value: Value, i: int) -> Any:
        result = super()._compute(value, i)
        row = OPS[value.op]
        if isinstance(result, tuple) and row.kind is Kind.MATRIX:
            return self._product(value, i, result)
        if not isinstance(result, Tensor) or result.dtype is torch.bool:
            return result
        if row.kind is Kind.MAP:
            return self._off(result, row.error * ulp(result, COMPUTE))
        if row.kind is Kind.RANDOM:
            return self._off(result, row.error * ulp(result, COMPUTE))
        if row.kind is Kind.REDUCE and value.op == "sum":
            sizes = self._reduced_of(value, i).abs()
            count = self.tensor(value.args[0], i).numel() // max(1, result.numel())
            return self._off(result, min(count, CHAIN) ** 0.5 * UNIT * sizes)
        if row.kind is Kind.MATRIX and value.op not in EXACT:
            return self._product(value, i, result)
        return result

    def _reduced_of(self, value: Value, i: int) -> Tensor:
        operand = value.args[0]
        sizes = self.tensor(operand, i).abs()
        return over_axis("sum", sizes, operand.type.shape, value.attr("axis"))

    def _product(self, value: Value, i: int, result: Any) -> Any:
        """k terms in any order; an inverse as that of a matrix a little off: by n units of its
        largest number, those of float64 where the function is worked out in that."""
        if value.op == "matmul":
            a, b = (self.tensor(arg, i).abs() for arg in value.args)
            return self._off(result, a.shape[-1] ** 0.5 * UNIT * (a @ b))
        matrix = self.tensor(value.args[0], i)
        if not matrix.numel():
            return result
        wide = OPS[value.op].wide and self.parameter is not torch.float64
        scale = matrix.shape[-1] * UNIT * (FLOAT64 if wide else 1.0) * matrix.abs().amax()
        off = self._off(matrix, scale.expand_as(matrix))
        rest = [self.tensor(arg, i) for arg in value.args[1:]]
        found = torch_function(value.op)(off, *rest, rows=0, cols=0)
        if not wide:
            return found
        return tuple(self._off(each, ulp(each, COMPUTE) / 2) for each in found)

    def _off(self, values: Tensor, error: Tensor) -> Tensor:
        part = torch.rand(values.shape, dtype=torch.float64, generator=self.generator)
        error = error * (FLOAT64 if self.parameter is torch.float64 else 1.0)
        # Infinite where the target's format ends: there nothing can be said anyway.
        return torch.where(error.isfinite(), values + (2 * part - 1) * error, values)


# ---------------------------------------------------------------- one operation


def as_device(value: Value, number: Any) -> Near:
    """A host number as a device takes it: rounded once; sizes are worked out there, op by op."""
    if isinstance(number, bool):
        return Near(torch.tensor([[number]]), torch.zeros((1, 1), dtype=torch.float64))
    exact = torch.tensor([[float(number)]], dtype=torch.float64)
    error = distance(exact.to(COMPUTE).to(torch.float64), exact)
    if value.args and is_size(value):
        steps = sum(bool(each.args) for each in reachable([value]))
        error = error + steps * ulp(exact, COMPUTE) / 2
    return Near(exact, error)


def elementwise(op: str, operands: Sequence[Near]) -> Near:
    """`op` on operands that are somewhere in a box: its value in the middle, the largest distance
    to it in the corners, and its own error."""
    function = torch_function(op)
    middle = function(*(each.value for each in operands), rows=0, cols=0)
    spread = torch.zeros(middle.shape, dtype=torch.float64)
    inexact = [k for k, each in enumerate(operands) if bool((each.error != 0).any())]
    for signs in itertools.product((-1.0, 1.0), repeat=len(inexact)):
        moved = [each.value for each in operands]
        for k, sign in zip(inexact, signs, strict=True):
            moved[k] = _moved(operands[k], sign)
        corner = function(*moved, rows=0, cols=0)
        spread = torch.maximum(spread, distance(corner, middle))
    if op in ("div", "floordiv", "mod"):
        spread = torch.maximum(spread, _beyond_corners(op, operands, spread))
    if middle.dtype is torch.bool:
        return Near(middle, spread)
    own = _own_error(op, [each.value for each in operands], middle.abs() + spread)
    # NaN and infinity are not rounded; of what may be anything they say nothing.
    known = functools.reduce(torch.logical_and, (each.error.isfinite() for each in operands))
    unrounded = (spread == 0) & ((middle == 0) | (~middle.isfinite() & known))
    return Near(middle, torch.where(unrounded, spread, spread + own))


def _beyond_corners(op: str, operands: Sequence[Near], spread: Tensor) -> Tensor:
    """What corners do not see: a divisor that may be zero, and a remainder that begins anew."""
    divisor = operands[1]
    widest = divisor.value.abs() + divisor.error
    crosses = (divisor.value.abs() <= divisor.error) & (divisor.error > 0)
    anywhere = torch.where(crosses, torch.full_like(spread, torch.inf), torch.zeros_like(spread))
    if op != "mod":
        return anywhere
    turns = elementwise("floordiv", operands).error >= 1
    return torch.where(turns, widest.expand_as(anywhere), anywhere)


def _moved(near: Near, sign: float) -> Tensor:
    """A corner's coordinate; a condition that may fall either way falls so on one side."""
    if near.value.dtype is torch.bool:
        return near.value ^ ((near.error > 0) & (sign > 0))
    return near.value + sign * near.error


def _own_error(op: str, x: Sequence[Tensor], size: Tensor) -> Tensor:
    """What the operation's own roundings add, at a result of at most `size`. Where an operation is
    made of others their results may be larger than its own."""
    error = OPS[op].error * ulp(size, COMPUTE)
    if op == "sqrt":  # that of torch is off by up to 0.56 ulps on AVX-512
        return 0.6 * ulp(size, COMPUTE)
    if op == "fma":  # the library multiplies and adds
        return error + ulp(x[0] * x[1], COMPUTE) / 2
    if op == "lerp":
        apart = x[1] - x[0]
        inside = x[2].abs() * ulp(apart, COMPUTE) / 2 + ulp(x[2] * apart, COMPUTE) / 2
        return ulp(size, COMPUTE) / 2 + inside
    if op == "mod":
        return 2 * ulp(x[0].abs() + x[1].abs(), COMPUTE)
    if op == "floordiv":  # the quotient may round up to a whole number that it is below
        quotient = x[0] / x[1]
        close = (quotient - quotient.round()).abs() <= 2 * ulp(quotient, COMPUTE)
        return error + close.to(torch.float64)
    return error
