"""Runs a plan slowly, in float64: what the passes say, with no generated code between.

A fault of the schedule shows here as a difference from the interpreter, which never sees a plan.
Every pass reads memory before it writes; a stage's reductions are finished when all its passes ran.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optdsl import order
from optdsl.interpreter import Member, Outcome, Update
from optdsl.interpreter.evaluate import combine, over_dims
from optdsl.interpreter.run import Run
from optdsl.ir.nodes import Value
from optdsl.schedule.plan import (
    Decision,
    Domain,
    Join,
    KernelPass,
    LibraryPass,
    Plan,
    Reduction,
    Variant,
)
from optdsl.types import BATCH


@dataclass
class _Pass(Run):
    """One pass for one member: plan leaves read buffers and results."""

    variant: Variant | None = None
    buffers: dict[str, Tensor] = field(default_factory=dict)
    results: dict[tuple[str, Any], Tensor] = field(default_factory=dict)
    slots: dict[str, Domain] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)

    def _op_load(self, value: Value, i: int) -> Tensor:
        return self.buffers[value.attr("buffer")]

    def _op_scalar(self, value: Value, i: int) -> float:
        assert self.variant is not None
        return float(self.get(self.variant.scalars[value.attr("index")], i))

    def _op_g_scale(self, value: Value, i: int) -> float:
        return 1.0

    def _op_row_result(self, value: Value, i: int) -> Tensor:
        return self.rows[value.attr("slot")]

    def _op_result(self, value: Value, i: int) -> Tensor:
        slot = value.attr("slot")
        return self.results[(slot, _owner(self.slots[slot], self.members[i], i))]


def _owner(domain: Domain, member: Member, i: int) -> int | str:
    if domain is Domain.ALL:
        return "run"
    return f"group {member.group_index}" if domain is Domain.GROUP else i


def run_plan(plan: Plan, members: Sequence[Member]) -> Outcome:
    """One step of `plan` for `members`, as `interpreter.run` would do it."""
    whole = Run(plan.rule, list(members), torch.float64, None)
    chosen = [plan.variants[_decide(plan.decision, whole, i)] for i in range(len(members))]
    buffers = [_buffers(whole, variant, i) for i, variant in enumerate(chosen)]
    before = [dict(each) for each in buffers]
    results: dict[tuple[str, Any], Tensor] = {}
    for stage in range(1 + max((p.stage for v in chosen for p in v.passes), default=0)):
        partials: dict[tuple[str, Any], tuple[Reduction, Tensor]] = {}
        done: set[Any] = set()
        for i, variant in enumerate(chosen):
            for each in variant.passes:
                if each.stage != stage or not isinstance(each, KernelPass):
                    continue
                owner = _owner(each.domain, members[i], i)
                if each.domain in (Domain.GROUP, Domain.ALL) and (owner, each.domain) in done:
                    continue
                done.add((owner, each.domain))
                _kernel(plan, each, variant, members, i, buffers, results, partials)
        results.update({key: tensor for key, (_, tensor) in partials.items()})
        for i, variant in enumerate(chosen):
            for each in variant.passes:
                if each.stage == stage and isinstance(each, LibraryPass):
                    run = _pass(plan, variant, members, buffers[i], results)
                    made = {store.buffer: run.tensor(store.value, i) for store in each.outputs}
                    buffers[i].update(made)
        for i, variant in enumerate(chosen):
            for join in variant.joins:
                if join.stage == stage:
                    buffers[i][join.slot] = _joined(join, whole, chosen, buffers, i)
    return _outcome(plan, whole, chosen, buffers, before)


def _joined(
    join: Join,
    whole: Run,
    chosen: list[Variant],
    buffers: list[dict[str, Tensor]],
    i: int,
) -> Tensor:
    """What member i finds of a reduction over the parameters that take part in it."""
    parts = [
        buffers[j][each.part]
        for j, variant in enumerate(chosen)
        for each in variant.joins
        if each.slot == join.slot
        and (join.over == "all" or whole.members[i].group_index == whole.members[j].group_index)
    ]
    if join.k is not None:
        flat = torch.cat([part.reshape(1, -1) for part in parts], -1)
        return order.kth_smallest(flat, whole.dim(join.k, i), (-1,))
    return functools.reduce(functools.partial(combine, join.op), parts)


def _decide(decision: Decision | int, whole: Run, i: int) -> int:
    while isinstance(decision, Decision):
        decision = decision.then if whole.get(decision.condition, i) else decision.otherwise
    return decision


def _buffers(whole: Run, variant: Variant, i: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for buffer in variant.buffers:
        if buffer.role == "param":
            found[buffer.name] = whole._op_param(None, i)  # type: ignore[arg-type]
        elif buffer.role == "grad":
            found[buffer.name] = whole._op_grad(None, i)  # type: ignore[arg-type]
        elif buffer.role in ("state", "input"):
            with suppress(ValueError):  # born in this step: written before it is read
                found[buffer.name] = _before(whole, buffer.role, buffer.name, i)
        elif buffer.entry is not None:
            number = int(whole.get(buffer.entry.number, i))
            found[buffer.name] = _before(whole, "state", buffer.entry.state, i)[number]
    return found


def _before(whole: Run, role: str, name: str, i: int) -> Tensor:
    """A state, or an input, at the start of the step."""
    values = whole.rule.builder.table.values()
    return whole.tensor(next(v for v in values if v.op == role and v.attr("name") == name), i)


def _pass(
    plan: Plan,
    variant: Variant,
    members: Sequence[Member],
    buffers: dict[str, Tensor],
    results: dict[tuple[str, Any], Tensor],
) -> _Pass:
    return _Pass(
        plan.rule,
        list(members),
        torch.float64,
        None,
        variant=variant,
        buffers=buffers,
        results=results,
        slots=plan.slots,
    )


def _kernel(
    plan: Plan,
    kernel: KernelPass,
    variant: Variant,
    members: Sequence[Member],
    i: int,
    buffers: list[dict[str, Tensor]],
    results: dict[tuple[str, Any], Tensor],
    partials: dict[tuple[str, Any], tuple[Reduction, Tensor]],
) -> None:
    run = _pass(plan, variant, members, dict(buffers[i]), results)
    writes: dict[str, Tensor] = {}
    for phase in kernel.phases:
        for reduction in phase.rows:
            run.rows[reduction.slot] = over_dims(
                reduction.op, run.tensor(reduction.value, i), (-1,), keep=True
            )
        for reduction in phase.partials:
            part = _partial(plan, run, reduction, i)
            key = (reduction.slot, _owner(reduction.domain, members[i], i))
            known = partials.get(key)
            total = part if known is None else combine(reduction.op, known[1], part)
            partials[key] = (reduction, total)
        for store in phase.stores:
            writes[store.buffer] = run.tensor(store.value, i)
    for name, value in writes.items():
        _write(buffers, kernel, name, value, members, i, plan)


def _write(
    buffers: list[dict[str, Tensor]],
    kernel: KernelPass,
    name: str,
    value: Tensor,
    members: Sequence[Member],
    i: int,
    plan: Plan,
) -> None:
    """A shared state is one memory for all that see it."""
    for j in range(len(members)):
        same = kernel.domain is Domain.ALL or (
            kernel.domain is Domain.GROUP and members[j].group_index == members[i].group_index
        )
        if j == i or same:
            buffers[j][name] = value


def _partial(plan: Plan, run: _Pass, reduction: Reduction, i: int) -> Tensor:
    tensor = run.tensor(reduction.value, i)
    value = reduction.value
    lead = value.type.shape.lead
    if reduction.domain is Domain.COL:
        return over_dims(reduction.op, tensor, (-2,), keep=True)
    result = over_dims(reduction.op, tensor, (-2, -1), keep=True)
    if BATCH in lead and reduction.domain is not Domain.MATRIX:
        result = over_dims(reduction.op, result, (0,), keep=False)
    return result


def _outcome(
    plan: Plan,
    whole: Run,
    chosen: list[Variant],
    buffers: list[dict[str, Tensor]],
    before: list[dict[str, Tensor]],
) -> Outcome:
    updates, shared = [], {}
    for i, member in enumerate(whole.members):
        update = Update(None, {})
        written = {
            s.buffer
            for p in chosen[i].passes
            for s in (p.stores if isinstance(p, KernelPass) else p.outputs)
        }
        for name in written:
            value = buffers[i][name]
            entry = dict(chosen[i].planes).get(name)
            if entry is not None:
                if entry.state not in update.states:
                    update.states[entry.state] = _before(whole, "state", entry.state, i).clone()
                update.states[entry.state][int(whole.get(entry.number, i))] = value
            elif name == "p":
                update.p = value.expand(whole.sizes(member.p)).reshape(member.p.shape)
            elif any(state.name == name for state in plan.rule.states):
                state = plan.rule.state(name)
                full = value.expand(whole.shape(state.type.shape, i))
                if state.type.instances == 3:
                    like = whole.shape(state.type.shape, i) == whole.sizes(member.p)
                    update.states[name] = full.reshape(member.p.shape) if like else full
                else:
                    group = member.group_index if state.type.instances == 2 else None
                    shared[(name, group)] = full
        updates.append(update)
    return Outcome(updates, shared, {})
