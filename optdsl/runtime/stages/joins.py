"""Reductions over parameters that no kernel has a part in: results with axes of their own, such as
the norm of each sample, and order statistics.

Input: a device's plan, a join that it lists. Output: its result, in the temps of all classes that
read it. Sums are formed in float64, in the order of the parameters: the same bits in every run.
Relies on: plan.py. Does not do: the reduction within a parameter (a library pass did it).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from optdsl import order
from optdsl.runtime.stages.plan import DevicePlan, Joined

COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "max_of": torch.maximum,
    "min_of": torch.minimum,
}
"""NaN where either is."""


def join(plan: DevicePlan, call: Joined) -> None:
    """Reduces what lies in memory, and writes the result for each parameter."""
    found: list[tuple[int, int, Tensor]] = []
    for step_class, name in call.parts:
        for number, member in enumerate(step_class.members):
            part = step_class.buffers.read(name, number)
            found.append((member.index, member.group_index if call.over == "group" else 0, part))
    parts: dict[int, list[Tensor]] = {}
    for _, group, part in sorted(found, key=lambda each: each[0]):
        parts.setdefault(group, []).append(part)
    totals = {group: _joined(call, each) for group, each in parts.items()}
    for step_class in plan.classes:
        if call.slot not in step_class.buffers.temps:
            continue
        for number, member in enumerate(step_class.members):
            group = member.group_index if call.over == "group" else 0
            step_class.buffers.write(call.slot, number, totals[group])
            if step_class.buffers.temps[call.slot].domain == "all":
                break  # they share it


def _joined(call: Joined, parts: list[Tensor]) -> Tensor:
    """One number, or one for each entry, of all parts."""
    if call.k is not None:
        flat = torch.cat([part.reshape(1, -1) for part in parts], -1)
        return order.kth_smallest(flat, call.k, (-1,))
    return total(call.op, parts)


def total(op: str, parts: Iterable[Tensor]) -> Tensor:
    """A sum, maximum or minimum of all parts, in float64, in their order."""
    return functools.reduce(COMBINE[op], (part.to(torch.float64) for part in parts))
