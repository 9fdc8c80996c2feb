"""Plans of steps, kept: which tables there are for a vector of the cohorts' variants.

Input: cohorts with their variants, gradients. Output: a `DevicePlan` a device with its runner,
made anew only when a tensor moved, a state was replaced, or another set of parameters has
gradients.

Relies on: stages/ and the targets. Does not do: the choice of variants, running (engine.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optdsl.runtime.backends import Backend
from optdsl.runtime.counters import Counters
from optdsl.runtime.parameters.gradients import Gradients
from optdsl.runtime.program import Program
from optdsl.runtime.stages.buffers import Arena
from optdsl.runtime.stages.plan import DevicePlan, Order, plan_device
from optdsl.runtime.states.holdings import Holdings, is_shared
from optdsl.runtime.storage.choice import compute_dtype

KEPT_PLANS = 16
"""Vectors of variants whose plans are kept; `every k` alternates between two. Parameters that step
alone have as many each."""

Key = tuple[tuple[int, ...], int | None]
"""The variant of each cohort, and the parameter's number where one steps alone."""
Hypers = Sequence[Mapping[str, Any]]


class Plans:
    """The plans of one optimizer, of which it keeps as many as there is `room` for."""

    def __init__(self, program: Program, counters: Counters) -> None:
        self.program, self.counters = program, counters
        self.room = KEPT_PLANS
        self._arenas: dict[torch.device, Arena] = {}
        self._plans: dict[Key, list[DevicePlan]] = {}

    def clear(self) -> None:
        """Forgets all plans; memory for temps stays."""
        self._plans.clear()

    def memory(self) -> list[Tensor]:
        """Where temps lie now."""
        return [arena.memory for arena in self._arenas.values()]

    def kept(self, key: Key, gradients: Gradients) -> list[DevicePlan] | None:
        """The plans for `key`, if there are any that fit the gradients."""
        plans = self._plans.get(key)
        return plans if plans is not None and all(_fits(p, gradients) for p in plans) else None

    def make(
        self,
        key: Key,
        orders: Sequence[Order],
        hypers: Hypers,
        gradients: Gradients,
        backends: Mapping[torch.device, Backend | None],
        holdings: Holdings,
    ) -> list[DevicePlan]:
        """The plans of all devices for `key`, kept for the next time."""
        self.counters.plans += 1
        before = {device: arena.generation for device, arena in self._arenas.items()}
        found = []
        try:
            for device, backend in backends.items():
                assert backend is not None
                found.append(self._plan(device, backend, orders, hypers, gradients, holdings))
        except BaseException:
            holdings.drop()
            raise
        plans = [plan for plan in found if plan is not None]
        holdings.commit()
        if any(self._arenas[device].generation != count for device, count in before.items()):
            self._plans.clear()  # their temps are gone
        self._plans.pop(key, None)
        while len(self._plans) >= self.room:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = plans
        return plans

    def _plan(
        self,
        device: torch.device,
        backend: Backend,
        orders: Sequence[Order],
        hypers: Hypers,
        gradients: Gradients,
        holdings: Holdings,
    ) -> DevicePlan | None:
        arena = self._arenas.setdefault(device, Arena(device))
        even = None
        if backend.splits_by_alignment:
            even = (gradients.addresses % 16 == 0).tolist()
        cutting, able = backend.cutting, backend.able
        plan = plan_device(self.program, device, orders, holdings, arena, cutting, even, able)
        if plan is not None:
            _shape_scalars(plan, hypers)
            plan.runner = backend.runner(self.program, plan, self.counters)
        return plan


def _shape_scalars(plan: DevicePlan, hypers: Hypers) -> None:
    """Gives the scalar tables their width, which only their function knows."""
    for each in plan.classes:
        function = each.table.variant.scalars
        rows = [function(hypers[cohort.group_index], cohort.e) for cohort in each.cohorts]
        each.table.scalars = np.array(rows, np.float64).reshape(len(rows), -1)


def _fits(plan: DevicePlan, gradients: Gradients) -> bool:
    """Whether gradients that a plan takes as lying on 16 bytes still do."""
    return not any(
        np.bitwise_or.reduce(gradients.addresses[each.indices]) % 16 for each in plan.aligned
    )


def set_addresses(plan: DevicePlan, gradients: Gradients) -> bool:
    """Writes the gradients' addresses into the tables; whether they changed."""
    changed, plan.addresses = gradients.version != plan.addresses, gradients.version
    if changed:
        for each in plan.classes:
            if each.gradient is not None:
                each.cells[:] = gradients.addresses[each.indices]
    return changed


def check_shared(program: Program, params: Sequence[Tensor]) -> None:
    """Raises ValueError where what is one for several parameters would lie on several devices, or
    be of several dtypes."""
    states = [state.key for state in program.states if is_shared(state)]
    if states and len({compute_dtype(p.dtype) for p in params}) > 1:
        raise ValueError(
            f"{program.name}: state {states[0]!r} is one for several parameters, of which some are "
            "float64 and others are not; that is not supported yet"
        )
    shared = states or any(domain in ("group", "all") for _, domain in program.slots)
    shared = shared or any(variant.joins for variant in program.variants)
    shared = shared or any(each.asks for v in program.variants for each in v.libraries)
    devices = dict.fromkeys(str(p.device) for p in params)
    if shared and len(devices) > 1:
        raise ValueError(
            f"{program.name} has numbers over several parameters, which lie on "
            f"{', '.join(devices)}; that is not supported yet"
        )
