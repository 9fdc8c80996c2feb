"""Steps whose count and numbers live on the device, so that the host need not know them.

Under a gradient scaler the device alone knows whether a step happens; in a CUDA graph it steps
without the host. Then a plan *resides*: t and steps lie in a table on the device, hyperparameters
in another, and a kernel, the prologue, works the scalar rows out of them (see `Prologue`) before
the passes. Where a step is skipped it clears `live`, with which every kernel multiplies its number
of elements.

    counts  [rows, 2]   float64: t and steps so far
    inputs  [rows, n]   float64: what `Prologue.inputs` gives
    gate    [2]         float64: the scaler's scale, found_inf

Relies on: stages/. Does not do: launching a kernel (triton/), the choice to reside (engine.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from optdsl.runtime.arrays import Floats
from optdsl.runtime.parameters.cohorts import Cohort
from optdsl.runtime.parameters.gradients import Gradients
from optdsl.runtime.parameters.state import STEP
from optdsl.runtime.plans import set_addresses
from optdsl.runtime.program import Program
from optdsl.runtime.stages.plan import DevicePlan, PrologueCall, ResidentRunner, StepClass
from optdsl.runtime.states.checkpoint import Loaded, copy_in_place
from optdsl.runtime.states.holdings import describe
from optdsl.runtime.states.matching import STEPS

Groups = Sequence[Mapping[str, Any]]


class ClassRows:
    """The rows of one class. `counts` and `inputs` keep their places for good: graphs hold them."""

    def __init__(self, owner: StepClass, groups: Groups, device: torch.device) -> None:
        prologue = owner.table.variant.prologue
        assert prologue is not None
        self.prologue, self.cohorts, self._device = prologue, owner.cohorts, device
        self._known = self._inputs(groups)
        self.counts = torch.zeros((len(self.cohorts), 2), dtype=torch.float64, device=device)
        self.inputs = torch.tensor(self._known, device=device)

    def _inputs(self, groups: Groups) -> Floats:
        """The rows as the host knows them; 0 for what a tensor on the device says."""
        rows = []
        for cohort in self.cohorts:
            group = groups[cohort.group_index]
            values = list(self.prologue.inputs(_Hypers(group, self._device), cohort.e))
            for column, value in self._tensors(group):
                values[column] = 0.0 if value.device == self._device else value.item()
            rows.append(values)
        return np.array(rows, np.float64).reshape(len(rows), -1)

    def _tensors(self, group: Mapping[str, Any]) -> Iterator[tuple[int, Tensor]]:
        for column, name, index in self.prologue.hypers:
            value = group[name]
            for each in index:
                value = value[each]
            if isinstance(value, Tensor):
                yield column, value

    def stale(self, groups: Groups) -> bool:
        """Whether the host's numbers are others than those on the device."""
        return not np.array_equal(self._inputs(groups), self._known, equal_nan=True)

    def sync(self, groups: Groups) -> None:
        """Uploads the host's numbers where they changed."""
        found = self._inputs(groups)
        if not np.array_equal(found, self._known, equal_nan=True):
            self._known = found
            _upload(self.inputs, found)

    def enter(self, groups: Groups) -> None:
        """Uploads the counts that the host knows, which then are the device's."""
        counts = [(c.t, groups[c.group_index].get(STEPS, 0)) for c in self.cohorts]
        _upload(self.counts, np.array(counts, np.float64))

    def gather(self, groups: Groups) -> None:
        """Takes the hyperparameters that are tensors on the device, there."""
        for row, cohort in enumerate(self.cohorts):
            for column, value in self._tensors(groups[cohort.group_index]):
                if value.device == self._device:
                    self.inputs[row, column].copy_(value.detach())

    def read(self) -> Iterator[tuple[Cohort, int, int]]:
        """Each cohort's t and steps; makes the host wait for the device."""
        for cohort, (t, steps) in zip(self.cohorts, self.counts.tolist(), strict=True):
            yield cohort, int(t), int(steps)


class _Hypers(dict[str, Any]):
    """A group's hyperparameters as numbers, without those that lie on a device."""

    def __init__(self, group: Mapping[str, Any], device: torch.device) -> None:
        super().__init__()
        self._group, self._device = group, device

    def __missing__(self, name: str) -> Any:
        return _masked(self._group[name], self._device)


def _masked(value: Any, device: torch.device) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_masked(each, device) for each in value)
    if isinstance(value, Tensor):
        return 0.0 if value.device == device else value.item()
    return value


class Residence:
    """The tables of one plan."""

    def __init__(self, plan: DevicePlan, groups: Groups) -> None:
        self.rows = [ClassRows(each, groups, plan.device) for each in plan.classes]
        self.gate = torch.tensor([1.0, 0.0], dtype=torch.float64, device=plan.device)
        self._gated = False
        self.prologues = [
            PrologueCall(
                each.prologue.kernel, len(each.cohorts), (each.counts, each.inputs, self.gate)
            )
            for each in self.rows
        ]

    def enter(self, groups: Groups) -> None:
        """Hands the counts over to the device."""
        for each in self.rows:
            each.enter(groups)

    def stale(self, groups: Groups) -> bool:
        """Whether a hyperparameter changed that the device does not know of."""
        return any(each.stale(groups) for each in self.rows)

    def sync(self, groups: Groups) -> None:
        """Uploads hyperparameters that changed."""
        for each in self.rows:
            each.sync(groups)

    def prepare(self, groups: Groups, scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Brings what the prologue reads into its place, on the device alone."""
        for each in self.rows:
            each.gather(groups)
        if scale is None and found_inf is None and not self._gated:
            return
        for place, given, usual in ((0, scale, 1.0), (1, found_inf, 0.0)):
            if given is None:
                self.gate[place].fill_(usual)
            else:
                self.gate[place].copy_(given.detach().reshape(()), non_blocking=True)
        self._gated = scale is not None or found_inf is not None

    def read(self) -> Iterator[tuple[Cohort, int, int]]:
        """Each cohort's t and steps; makes the host wait for the device."""
        for each in self.rows:
            yield from each.read()


class Residents:
    """Which plans of an optimizer reside now, and of which a graph was made last; what a graph
    reads and writes must live as long as the optimizer."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._names = [name for name, _ in program.hypers]
        self.plans: list[DevicePlan] = []
        self._tables: WeakKeyDictionary[DevicePlan, Residence] = WeakKeyDictionary()
        self.captured: list[DevicePlan] = []
        self._kept: list[DevicePlan | Tensor] = []
        self._empty: list[tuple[Cohort, int]] = []
        self._before = 0

    def wanted(
        self,
        groups: Groups,
        hypers: Groups,
        devices: Collection[torch.device],
        found_inf: Tensor | None,
    ) -> bool:
        """Whether the host lacks what only the device knows, or is not to be asked."""
        return (
            found_inf is not None
            or any(group.get("capturable") for group in groups)
            or any(
                h is not group
                and _lies_on(group, [name for name, _ in self.program.hypers], devices)
                for group, h in zip(groups, hypers, strict=True)
            )
        )

    def enter(self, plans: list[DevicePlan], groups: Groups, active: Iterable[Cohort]) -> None:
        """Makes `plans` those that reside; the host's counts must be right. Of the cohorts that are
        `active`, those of empty parameters are in no plan, and count as the others do."""
        for plan in plans:
            if plan not in self._tables:
                self._tables[plan] = Residence(plan, groups)
            self._tables[plan].enter(groups)
        self.plans = plans
        rows = [c for plan in plans for each in plan.classes for c in each.cohorts]
        self._before = rows[0].t
        held = set(map(id, rows))
        self._empty = [(cohort, cohort.t) for cohort in active if id(cohort) not in held]

    def of(self, plan: DevicePlan) -> Residence:
        """The tables of a plan that resides, or did."""
        return self._tables[plan]

    def settle(self, groups: Sequence[dict[str, Any]]) -> None:
        """Makes the host the one who counts."""
        if self.plans:
            self.read(groups)
            for plan in self.plans:
                _runner(plan).end_residence()
            self.plans = []

    def settle_for(
        self,
        plans: list[DevicePlan],
        groups: Sequence[dict[str, Any]],
        active: Iterable[Cohort],
        graph: bool,
    ) -> None:
        """Makes `plans` those that reside, if they do not yet."""
        if self.plans is not plans:
            forbid(self.program, graph, "the last one ran other passes, or on the host's numbers")
            self.settle(groups)
            self.enter(plans, groups, active)

    def begin(
        self,
        plan: DevicePlan,
        groups: Groups,
        gradients: Gradients,
        scaling: tuple[Tensor | None, Tensor | None],
        graph: bool,
    ) -> None:
        """Starts a step of `plan`, up to its scalars. `scaling` is what a gradient scaler says: its
        scale, and whether it found Inf. Raises RuntimeError where a graph would get old numbers."""
        tables = self.of(plan)
        if not graph:
            tables.sync(groups)
        elif tables.stale(groups):
            raise RuntimeError(
                f"{self.program.name}: a hyperparameter changed since the last step; call "
                "sync_hypers() before the capture"
            )
        tables.prepare(groups, *scaling)
        addresses = set_addresses(plan, gradients)
        _runner(plan).begin_resident(tables.prologues, addresses=addresses, capturing=graph)
        if graph:
            plan.addresses = -1  # they stand in the graph, not yet in the table

    def read(self, groups: Sequence[dict[str, Any]]) -> None:
        """Brings the host's counts up to date, for which it waits."""
        rows = [row for plan in self.plans for row in self.of(plan).read()]
        if rows:
            taken = rows[0][1] - self._before
            for cohort, t in self._empty:
                cohort.t = t + taken
            for cohort, t, steps in rows:
                cohort.t = t
                if STEPS in self.program.reads:
                    groups[cohort.group_index][STEPS] = steps

    def keep(self, plans: Sequence[DevicePlan], memory: Iterable[Tensor]) -> None:
        """Notes that a graph was made of `plans`, whose temps lie in `memory`."""
        self._kept += [*self.captured, *memory]
        self.captured = list(plans)

    def sync(self, groups: Groups) -> None:
        """Uploads hyperparameters that changed, for steps to come and for graphs."""
        for plan in dict.fromkeys([*self.plans, *self.captured]):
            self.of(plan).sync(groups)

    def load(
        self,
        loaded: Loaded,
        table: Mapping[Tensor, dict[str, Any]],
        groups: Sequence[dict[str, Any]],
        cohorts: Sequence[Cohort],
    ) -> None:
        """Takes a checkpoint over into what the last graph holds. Raises ValueError, with nothing
        changed, where it does not go with that; `cohorts` are those of the present parameters."""
        counts = [
            {int(loaded.states.get(m.own, {}).get(STEP, 0)) for m in cohort.members}
            for cohort in cohorts
        ]
        known = {id(cohort) for cohort in cohorts}
        held = {id(c) for plan in self.captured for each in plan.classes for c in each.cohorts}
        if not held <= known or any(len(each) > 1 for each in counts):
            raise ValueError(
                f"{self.program.name}: the checkpoint, or the parameters, do not go with the CUDA "
                "graph; make the optimizer anew, load, and capture again"
            )
        copy_in_place(loaded, table, groups)
        for cohort, (count,) in zip(cohorts, counts, strict=True):
            cohort.t = count
        self.enter(self.captured, groups, cohorts)
        self.sync(groups)


def _runner(plan: DevicePlan) -> ResidentRunner:
    """That of a plan that resides: the engine lets only plans of targets do so that can."""
    return cast(ResidentRunner, plan.runner)


def capturing() -> bool:
    """Whether the current stream is being captured into a CUDA graph."""
    return torch.cuda.is_current_stream_capturing()


def forbid(program: Program, graph: bool, why: str) -> None:
    """Raises RuntimeError for a step that would be captured, but cannot be yet."""
    if graph:
        raise RuntimeError(
            f"{program.name}: this step cannot be captured into a CUDA graph, since {why}; take it "
            "a few times before the capture, with the same gradients"
        )


def check_active(program: Program, cohorts: Sequence[Cohort], active: Sequence[bool]) -> None:
    """Raises RuntimeError for a parameter that a graph would leave behind for good."""
    members = [member for cohort in cohorts for member in cohort.members]
    without = [m for m in members if m.own.requires_grad and not active[m.index]]
    if without:
        raise RuntimeError(
            f"{program.name}: {', '.join(map(describe, without))} lacks a gradient while a CUDA "
            "graph is captured, which would never step it"
        )


def check_capture(program: Program, groups: Groups, *, resident: bool) -> None:
    """Raises RuntimeError where a step must not become part of a CUDA graph."""
    if not any(group.get("capturable") for group in groups):
        raise RuntimeError(
            f"{program.name}: a step inside of a CUDA graph needs capturable=True; t and all "
            "hyperparameters would stay what they are now"
        )
    if not resident:
        why = "; ".join(program.hosted) or "it does not run on that device alone"
        raise RuntimeError(f"{program.name} cannot be part of a CUDA graph: {why}")


def check_capturable(program: Program, group: Mapping[str, Any], backend: str) -> None:
    """Raises ValueError for `capturable=True` where the host must look in each step. In host memory
    there is nothing to capture, and the option has no effect."""
    if not group.get("capturable") or not program.hosted or backend in ("cpu", "reference"):
        return
    if backend == "triton" or any(p.device.type != "cpu" for p in group["params"]):
        raise ValueError(
            f"{program.name} cannot be capturable, since the host must look in each step: "
            + "; ".join(program.hosted)
        )


def _lies_on(
    group: Mapping[str, Any], names: Iterable[str], devices: Collection[torch.device]
) -> bool:
    """Whether one of the hyperparameters is a tensor on one of `devices`."""
    for name in names:
        value = group[name]
        items = value if isinstance(value, (tuple, list)) else [value]
        if any(isinstance(each, Tensor) and each.device in devices for each in items):
            return True
    return False


def _upload(target: Tensor, values: Floats) -> None:
    """Copies without waiting; pinned memory comes from torch's pool, which waits for the copy."""
    staging = torch.empty(values.shape, dtype=torch.float64, pin_memory=target.device.type != "cpu")
    staging.copy_(torch.from_numpy(values))
    target.copy_(staging, non_blocking=True)
