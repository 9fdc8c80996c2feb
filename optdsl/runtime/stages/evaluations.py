"""Evaluations of the model in a step: whether one can be made, and one made.

Input: a device's plan, an evaluation that it lists, the model. Output: what the model gives, in the
temps of all classes that read it. Relies on: model.py, plan.py. Does not do: the closure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from optdsl.runtime.model import Model
from optdsl.runtime.parameters.cohorts import Cohort
from optdsl.runtime.program import Program, Variant
from optdsl.runtime.stages.plan import DevicePlan, Evaluated


def checked_model(
    program: Program,
    running: Sequence[tuple[Cohort, Variant]],
    model: Model | None,
    groups: Sequence[Mapping[str, Any]],
    params: Sequence[Tensor],
) -> Model | None:
    """The model of `params`, where the variants of this step evaluate it; None elsewhere. Raises
    ValueError where it is missing, and where groups or devices do not go together."""
    if not any(variant.evaluates for _, variant in running):
        return None
    if model is None:
        raise ValueError(f"{program.name} evaluates the model: call step(closure)")
    if len({bool(group["maximize"]) for group in groups}) > 1:
        raise ValueError(
            f"{program.name} evaluates the model, of which not one group can go uphill and another "
            "downhill: `maximize` is the same for all"
        )
    devices = {p.device: None for p in params}
    if len(devices) > 1:
        raise ValueError(
            f"{program.name} evaluates the model, whose parameters lie on "
            f"{', '.join(map(str, devices))}; that is not supported yet"
        )
    model.params = params
    model.sign = -1.0 if groups[0]["maximize"] else 1.0
    return model


def evaluate(plan: DevicePlan, call: Evaluated, model: Model) -> int:
    """Evaluates the model with all that take part at their points, and writes what it gives. How
    often the closure was run: not at all where the caller's own evaluation says it."""
    points: list[Tensor | None] = [None] * len(model.params)
    for step_class, point in call.points:
        for number, member in enumerate(step_class.members):
            if point is not None:
                points[member.index] = step_class.buffers.read(point, number)
    own = call.op == "loss_at" and all(point is None for _, point in call.points)
    loss = model.loss(None if own else points) if call.op == "loss_at" else None
    grads = model.grad(points) if loss is None else []
    for step_class in plan.classes:
        if call.slot not in step_class.buffers.temps:
            continue
        for number, member in enumerate(step_class.members):
            value = grads[member.index] if loss is None else loss
            step_class.buffers.write(call.slot, number, value)
            if loss is not None:
                break  # all share it
    return 0 if own else 1
