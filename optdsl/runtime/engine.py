"""The step: which variant each cohort runs now, on which kept plan, with which numbers.

Input: an optimizer's groups, parameters and states. Output: the step, taken. What a step costs the
host: one scan of the gradients' addresses, one evaluation of host functions a cohort, one call a
segment. Plans are kept by the vector of the cohorts' variants and made anew only when a tensor
moved, a state was replaced, or another set of parameters has gradients.

Relies on: cohorts.py, groups.py, gradients.py, stages.py and the targets. Does not do: torch's
interface (optimizer.py), checkpoints.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from optdsl.runtime.backends import Backend, check_compiled, choose_backend
from optdsl.runtime.buffers import Arena
from optdsl.runtime.cohorts import Cohort, Member, make_cohorts, split_cohorts
from optdsl.runtime.counters import Counters
from optdsl.runtime.gradients import Gradients, Scanner, unscaling
from optdsl.runtime.groups import check_static, make_members, plain_hypers, static_values
from optdsl.runtime.holdings import Group, Holdings, describe, is_shared
from optdsl.runtime.matching import STEPS
from optdsl.runtime.program import Program
from optdsl.runtime.reference import Interpreter, reference_step
from optdsl.runtime.stages import DevicePlan, Order, StepClass, plan_device
from optdsl.runtime.state import Changes, ParameterState, StateTable
from optdsl.runtime.storage import Choice, compute_dtype

KEPT_PLANS = 16
"""Vectors of variants whose plans are kept; `every k` alternates between two."""

INACTIVE = -1

Static = tuple[tuple[str, Any], ...]
"""The entries of a group that may not change, with the values that they had at first."""


class Owner(Protocol):
    """What the engine reads of an optimizer."""

    param_groups: list[Group]
    state: Any


class Engine:
    """The steps of one optimizer. `counters` say what was done."""

    def __init__(
        self,
        program: Program,
        owner: Owner,
        backend: str,
        interpreter: Interpreter | None,
        choice: Choice,
    ) -> None:
        self.program, self.owner, self.choice = program, owner, choice
        self.backend, self.interpreter = backend, interpreter
        self.counters = Counters()
        self._statics: list[tuple[Group, Static]] = []
        self._names = tuple(name for name, _ in program.hypers)
        self._states = {state.name: state for state in program.states}
        self._born = [frozenset(variant.states) for variant in program.variants]
        self._changes = Changes(self._write_counts)
        self._arenas: dict[torch.device, Arena] = {}
        self._plans: dict[tuple[int, ...], list[DevicePlan]] = {}
        self._cohorts: list[Cohort] = []
        self.forget()

    # ---------------------------------------------------------------- what others may ask

    def forget(self) -> None:
        """Drops all that was learnt of parameters and states; the next step looks anew."""
        self._write_counts()
        self._seen_changes = -1
        self._owned: list[ParameterState] = []
        self._listed: list[Tensor] = []
        self._params: list[Tensor] = []
        self._addresses: list[int] = []
        self._cohorts = []
        self._active: list[bool] | None = None
        self._backends: dict[torch.device, Backend | None] = {}
        self._scanner = Scanner([], self.program.reads_gradient)
        self._holdings = Holdings(self.program, self._states, {}, [], self.choice)
        self._plans.clear()

    def record(self, group: Group) -> None:
        """Notes the static entries of a group that was added."""
        self._statics.append((group, static_values(self.program, group)))

    def _write_counts(self) -> None:
        """Writes the numbers of updates, which cohorts have, to the parameters' own dicts."""
        for cohort in self._cohorts:
            for member in cohort.members:
                own = self._owned[member.index]
                if own.t is not None:
                    own.t = cohort.t

    # ---------------------------------------------------------------- the step

    def step(
        self,
        scale: Tensor | None = None,
        found_inf: Tensor | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        """One step of all parameters that have a gradient (or, where the rule reads none, require
        one). `inputs` are what the rule declares as
        such. Gradients are divided by `scale`; where `found_inf` is not 0, nothing is done at all.
        Raises ValueError or RuntimeError for what a step cannot take, before it changes
        anything."""
        if found_inf is not None and float(found_inf):
            self.counters.skipped += 1
            return
        groups = self.owner.param_groups
        if self._stale(groups):
            self._look(groups)
        for group, recorded in self._statics:
            if recorded:
                check_static(self.program, group, recorded)
        hypers = [plain_hypers(group, self._names) for group in groups]
        self.counters.scans += 1
        gradients = self._scanner.scan()
        if gradients.active is not self._active and gradients.active != self._active:
            self._split(gradients.active)
        decisions = self._decide(groups, hypers, 1.0 if scale is None else unscaling(scale))
        if self.program.inputs or inputs:
            self._holdings.inputs.take(inputs, self._reading(decisions, hypers))
        if None in self._backends.values():
            self._run_reference(decisions, hypers, gradients)
        else:
            plans = self._plans.get(decisions)
            if plans is None or not all(_fits(plan, gradients) for plan in plans):
                plans = self._make_plans(decisions, hypers, gradients)
            for plan in plans:
                self._run(plan, hypers, gradients)
        self._advance(groups, decisions)
        self.counters.steps += 1

    def _stale(self, groups: Sequence[Group]) -> bool:
        """Whether parameters or states are others than were seen, or lie elsewhere."""
        if self._seen_changes != self._changes.count or not self._owns_table():
            return True
        if len(groups) != len(self._statics):
            return True
        params = _flat(groups)
        return (
            any(group is not known for group, (known, _) in zip(groups, self._statics, strict=True))
            or len(params) != len(self._listed)
            or not all(map(operator.is_, params, self._listed))
            or list(map(Tensor.data_ptr, self._params)) != self._addresses
        )

    def _owns_table(self) -> bool:
        table = self.owner.state
        return isinstance(table, StateTable) and table.changes is self._changes

    def _look(self, groups: Sequence[Group]) -> None:
        """Reads all parameters and states anew."""
        self.counters.looks += 1
        self.forget()
        if not self._owns_table():
            self.owner.state = StateTable(self._changes, self.owner.state)
        self.owner.state.adopt()
        known = {id(group): static for group, static in self._statics}
        self._statics = [
            (group, known.get(id(group)) or static_values(self.program, group)) for group in groups
        ]
        members = make_members(self.program, groups)
        self._listed = _flat(groups)
        self._params = [member.p for member in members]
        self._addresses = list(map(Tensor.data_ptr, self._params))
        for member, address in zip(members, self._addresses, strict=True):
            if member.sizes.numel and not address:
                raise RuntimeError(
                    f"{self.program.name}: {describe(member)}, a {type(member.p).__name__} on "
                    f"{member.p.device}, has no memory that a step could change"
                )
        self._scanner = Scanner(self._params, self.program.reads_gradient)
        for device in dict.fromkeys(p.device for p in self._params):
            fallback = self.interpreter is not None
            backend = choose_backend(self.backend, device, fallback=fallback)
            check_compiled(self.program, backend)
            self._backends[device] = backend
        self._check_shared()
        # Reading the table makes the dicts that states will lie in.
        self._owned = [self.owner.state[p] for p in self._params]
        for own in self._owned:
            own.t = own.t or 0
        table = self.owner.state
        self._holdings = Holdings(self.program, self._states, table, groups, self.choice)
        counts = [own.t or 0 for own in self._owned]
        born = [self._holdings.existing(member) for member in members]
        self._cohorts = make_cohorts(self.program, members, counts, born)
        self._seen_changes = self._changes.count

    def _check_shared(self) -> None:
        """What is one for several parameters lies on one device, in one dtype."""
        states = [state.key for state in self.program.states if is_shared(state)]
        if states and len({compute_dtype(p.dtype) for p in self._params}) > 1:
            raise ValueError(
                f"{self.program.name}: state {states[0]!r} is one for several parameters, of which "
                "some are float64 and others are not; that is not supported yet"
            )
        shared = states or any(domain in ("group", "all") for _, domain in self.program.slots)
        if shared and len(self._backends) > 1:
            devices = ", ".join(map(str, self._backends))
            raise ValueError(
                f"{self.program.name} has numbers over several parameters, which lie on {devices}; "
                "that is not supported yet"
            )

    def _split(self, active: list[bool]) -> None:
        """Splits cohorts of which only a part takes part."""
        cohorts = split_cohorts(self._cohorts, active)
        if len(cohorts) != len(self._cohorts):
            self._plans.clear()
        self._cohorts, self._active = cohorts, active

    def _decide(
        self, groups: Sequence[Group], hypers: Sequence[Mapping[str, Any]], g_scale: float
    ) -> tuple[int, ...]:
        """The variant of each cohort, INACTIVE for those without gradients."""
        active, decide = self._active or [], self.program.decide
        single = len(self.program.variants) == 1
        decisions = []
        for cohort in self._cohorts:
            if not active[cohort.members[0].index]:
                decisions.append(INACTIVE)
                continue
            e, group = cohort.e, groups[cohort.group_index]
            e.t = cohort.t + 1
            e.steps = group.get(STEPS, 0) + 1
            e.g_scale = -g_scale if group["maximize"] else g_scale
            decisions.append(0 if single else decide(hypers[cohort.group_index], e))
        return tuple(decisions)

    def _reading(
        self, decisions: tuple[int, ...], hypers: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[Member, Mapping[str, int], frozenset[str]]]:
        """Who reads which inputs in this step."""
        declared = frozenset(each.name for each in self.program.inputs)
        for cohort, variant in zip(self._cohorts, decisions, strict=True):
            if variant == INACTIVE:
                continue
            names = declared.intersection(self.program.variants[variant].buffers)
            cohort.e.axes = self._holdings.inputs.axes
            for member in cohort.members:
                sizes = self._holdings.sizes(member, hypers[cohort.group_index], cohort.e)
                yield member, sizes, names

    # ---------------------------------------------------------------- plans

    def _make_plans(
        self,
        decisions: tuple[int, ...],
        hypers: Sequence[Mapping[str, Any]],
        gradients: Gradients,
    ) -> list[DevicePlan]:
        """The plans of all devices for `decisions`, kept for the next time."""
        self.counters.plans += 1
        orders = [
            Order(cohort, variant, hypers[cohort.group_index])
            for cohort, variant in zip(self._cohorts, decisions, strict=True)
            if variant != INACTIVE
        ]
        before = {device: arena.generation for device, arena in self._arenas.items()}
        try:
            found = [self._plan(device, orders, hypers, gradients) for device in self._backends]
        except BaseException:
            self._holdings.drop()
            raise
        plans = [plan for plan in found if plan is not None]
        self._holdings.commit()
        if any(self._arenas[device].generation != count for device, count in before.items()):
            self._plans.clear()  # their temps are gone
        self._plans.pop(decisions, None)
        while len(self._plans) >= KEPT_PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[decisions] = plans
        return plans

    def _plan(
        self,
        device: torch.device,
        orders: Sequence[Order],
        hypers: Sequence[Mapping[str, Any]],
        gradients: Gradients,
    ) -> DevicePlan | None:
        backend = self._backends[device]
        assert backend is not None
        arena = self._arenas.setdefault(device, Arena(device))
        even = None
        if backend.splits_by_alignment:
            even = (gradients.addresses % 16 == 0).tolist()
        plan = plan_device(
            self.program,
            device,
            orders,
            self._holdings,
            arena,
            backend.cutting,
            even,
            backend.able,
        )
        if plan is not None:
            _shape_scalars(plan, hypers)
            plan.runner = backend.runner(self.program, plan, self.counters)
        return plan

    # ---------------------------------------------------------------- running

    def _run(
        self, plan: DevicePlan, hypers: Sequence[Mapping[str, Any]], gradients: Gradients
    ) -> None:
        """Runs a plan with the numbers and gradients of this step."""
        runner = plan.runner
        assert runner is not None
        places = gradients.addresses.tobytes()
        addresses, plan.addresses = places != plan.addresses, places
        for each in plan.classes:
            self._write(each, hypers, gradients if addresses else None)
            each.buffers.gradients = gradients.tensors
            self.counters.unpacked += each.buffers.packing.load()
        runner.begin(addresses=addresses)
        for segment in plan.segments:
            runner.run(segment.first, segment.last)
            for batch in segment.batches:
                self.counters.batches += 1
                batch.run(runner.results)
        for each in plan.classes:
            each.buffers.gradients = ()  # a gradient that is kept would double their memory
            each.buffers.packing.save()
        # Kernels write by address: autograd is told, so that it refuses a stale graph as ever.
        torch.autograd.graph.increment_version(plan.written)

    def _write(
        self,
        step_class: StepClass,
        hypers: Sequence[Mapping[str, Any]],
        gradients: Gradients | None,
    ) -> None:
        """Writes this step's scalars, and addresses of gradients where they changed."""
        table, scalars = step_class.table, step_class.table.variant.scalars
        if table.scalars.shape[1]:
            for row, cohort in enumerate(step_class.cohorts):
                table.scalars[row] = scalars(hypers[cohort.group_index], cohort.e)
            self.counters.rows += len(step_class.cohorts)
        step_class.buffers.draw()
        if gradients is not None and step_class.gradient is not None:
            indices = step_class.indices
            table.pointers[: len(indices), step_class.gradient] = gradients.addresses[indices]

    def _run_reference(
        self,
        decisions: tuple[int, ...],
        hypers: Sequence[Mapping[str, Any]],
        gradients: Gradients,
    ) -> None:
        if self.interpreter is None:
            raise RuntimeError(
                f"{self.program.name}: the reference backend needs the compiler; make the "
                "optimizer by optdsl.compile, not from a generated file"
            )
        pairs = zip(self._cohorts, decisions, strict=True)
        cohorts = [cohort for cohort, variant in pairs if variant != INACTIVE]
        reference_step(self.interpreter, self._holdings, cohorts, hypers, gradients.tensors)

    def _advance(self, groups: Sequence[Group], decisions: tuple[int, ...]) -> None:
        """Counts the step, and notes which states exist now."""
        stepped: dict[int, Cohort] = {}
        for cohort, variant in zip(self._cohorts, decisions, strict=True):
            if variant == INACTIVE:
                continue
            stepped[cohort.group_index] = cohort
            cohort.t += 1
            born = self._born[variant]
            if not born <= cohort.e.born:
                cohort.e.born |= born
                self._share_births(born, cohort.group_index)
        if STEPS in self.program.reads:
            for group_index in stepped:
                groups[group_index][STEPS] = groups[group_index].get(STEPS, 0) + 1

    def _share_births(self, born: frozenset[str], group_index: int) -> None:
        """A shared state that one cohort created exists for all that share it."""
        for cohort in self._cohorts:
            cohort.e.born |= {
                name
                for name in born
                if (domain := self._states[name].domain) == "all"
                or (domain == "group" and cohort.group_index == group_index)
            }


def _flat(groups: Sequence[Group]) -> list[Tensor]:
    return list(itertools.chain.from_iterable([group["params"] for group in groups]))


def _shape_scalars(plan: DevicePlan, hypers: Sequence[Mapping[str, Any]]) -> None:
    """Gives the scalar tables their width, which only their function knows."""
    for each in plan.classes:
        function = each.table.variant.scalars
        rows = [function(hypers[cohort.group_index], cohort.e) for cohort in each.cohorts]
        each.table.scalars = np.array(rows, np.float64).reshape(len(rows), -1)


def _fits(plan: DevicePlan, gradients: Gradients) -> bool:
    """Whether gradients that a plan takes as lying on 16 bytes still do."""
    return not any(
        each.aligned and np.bitwise_or.reduce(gradients.addresses[each.indices]) % 16
        for each in plan.classes
        if each.gradient is not None
    )
