"""Reductions over parameters whose results have axes of their own, such as the norm of each sample.

Input: a device's plan, a join that it lists. Output: its result, in the temps of all classes that
read it. Sums are formed in float64, in the order of the parameters: the same bits in every run.
Relies on: stages.py. Does not do: the reduction within a parameter (a library pass did it).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from optdsl.runtime.stages import DevicePlan, Joined

COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "max_of": torch.maximum,
    "min_of": torch.minimum,
}
"""NaN where either is."""


def join(plan: DevicePlan, call: Joined) -> None:
    """Reduces what lies in memory, and writes the result for each parameter."""
    parts: list[tuple[int, int, Tensor]] = []
    for step_class, name in call.parts:
        for number, member in enumerate(step_class.members):
            part = step_class.buffers.read(name, number).to(torch.float64)
            parts.append((member.index, member.group_index if call.over == "group" else 0, part))
    totals: dict[int, Tensor] = {}
    for _, group, part in sorted(parts, key=lambda each: each[0]):
        totals[group] = COMBINE[call.op](totals[group], part) if group in totals else part
    for step_class in plan.classes:
        if call.slot not in step_class.buffers.temps:
            continue
        for number, member in enumerate(step_class.members):
            group = member.group_index if call.over == "group" else 0
            step_class.buffers.write(call.slot, number, totals[group])
