"""The step: which variant each cohort runs now, on which kept plan, with which numbers.

Input: an optimizer's groups, parameters and states. Output: the step, taken. What a step costs the
host: one scan of the gradients' addresses, one evaluation of host functions a cohort, one call a
segment. Where the device alone knows t, or whether the step happens (residence.py), the host
evaluates nothing.

Relies on: cohorts.py, groups.py, gradients.py, plans.py and the targets. Does not do: torch's
interface (optimizer.py), checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from optdsl.runtime.backends import Backend, check_compiled, choose_backend
from optdsl.runtime.counters import Counters
from optdsl.runtime.model import Model
from optdsl.runtime.parameters.cohorts import Cohort, advance, make_cohorts, split_cohorts
from optdsl.runtime.parameters.gradients import Gradients, Scanner, no_gradients, unscaling
from optdsl.runtime.parameters.groups import (
    check_static,
    flat,
    make_members,
    plain_hypers,
    static_values,
)
from optdsl.runtime.parameters.state import Changes, ParameterState, StateTable
from optdsl.runtime.parameters.tensors import Listing, Tensors
from optdsl.runtime.plans import KEPT_PLANS, Plans, check_shared, set_addresses
from optdsl.runtime.program import Program
from optdsl.runtime.reference import Interpreter, reference_step
from optdsl.runtime.residence import (
    Residents,
    capturing,
    check_active,
    check_capture,
    forbid,
)
from optdsl.runtime.stages.evaluations import checked_model, evaluate
from optdsl.runtime.stages.joins import join
from optdsl.runtime.stages.lockstep import run_batches
from optdsl.runtime.stages.plan import DevicePlan, Order, StepClass
from optdsl.runtime.states.checkpoint import Loaded
from optdsl.runtime.states.decisions import INACTIVE, check_entries, count, decide
from optdsl.runtime.states.holdings import Group, Holdings, describe
from optdsl.runtime.states.modes import evaluation
from optdsl.runtime.storage.choice import Choice

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
        self.reports: dict[str, Tensor] = {}
        self._statics: list[tuple[Group, Static]] = []
        self._names = program.entries()
        self._states = {state.name: state for state in program.states}
        self._born = [frozenset(variant.states) for variant in program.variants]
        self._asks = bool(program.inputs) or any(variant.evaluates for variant in program.variants)
        self._changes = Changes(self._write_counts)
        self._plans = Plans(program, self.counters)
        self._cohorts: list[Cohort] = []
        self._residents = Residents(program)
        self._apart = False
        self._on_gpu = torch.cuda.is_available()
        self.forget()

    # ---------------------------------------------------------------- what others may ask

    def forget(self) -> None:
        """Drops all that was learnt of parameters and states; the next step looks anew."""
        if self._residents.plans:
            self._residents.settle(self.owner.param_groups)
        self._write_counts()
        self._seen_changes = -1
        self._owned: list[ParameterState] = []
        self._params: list[Tensor] = []
        self._seeds: list[int | None] = []
        self._cohorts = []
        self._numbers: dict[Tensor, int] = {}
        self._active: list[bool] | None = None
        self._backends: dict[torch.device, Backend | None] = {}
        self._interpreted = False
        self._listing = Listing([], [], Tensors([]))
        self._scanner = Scanner(self._listing, self.program.reads_gradient)
        self._holdings = Holdings(self.program, self._states, {}, [], self.choice)
        self._plans.clear()
        self._may_reside = False

    def separate(self, *, apart: bool) -> None:
        """From now on parameters step alone (`step_alone`), or together again."""
        self.forget()
        self._apart = apart

    def record(self, group: Group) -> None:
        """Notes the static entries of a group that was added."""
        self._statics.append((group, static_values(self.program, group)))

    def _write_counts(self) -> None:
        """Writes the numbers of updates, which cohorts have, to the parameters' own dicts."""
        if self._residents.plans:
            self._residents.read(self.owner.param_groups)
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
        model: Model | None = None,
    ) -> None:
        """One step of all parameters that have a gradient (or, where the rule reads none, require
        one). `inputs` are what the rule declares as such. Gradients are divided by `scale`; where
        `found_inf` is not 0, nothing is done at all. Raises ValueError or RuntimeError for what a
        step cannot take, before it changes anything."""
        groups = self.owner.param_groups
        graph = self._on_gpu and capturing()
        if self._stale(groups):
            forbid(self.program, graph, "it is the first one with these parameters and states")
            self._look(groups)
        self._check_statics()
        hypers = [plain_hypers(group, self._names) for group in groups]
        if self._holdings.inputs.numbers:
            hypers = self._holdings.inputs.beside(hypers, inputs)
        asked = groups, hypers, self._backends, found_inf
        resident = self._may_reside and self._residents.wanted(*asked)
        self.counters.scans += 1
        gradients = self._scanner.scan()
        if graph:
            check_capture(self.program, groups, resident=resident)
            check_active(self.program, self._cohorts, gradients.active)
        if gradients.active is not self._active and gradients.active != self._active:
            forbid(self.program, graph, "other parameters took part in the last one")
            self._residents.settle(groups)
            self._split(gradients.active)
        deciding = self.program, self._cohorts, gradients.active
        plans: list[DevicePlan] = []
        if resident:
            decisions = decide(*deciding, groups, hypers, 1.0)
            # What a step creates exists only if it happens, which the host must know then.
            if self._all_born(decisions):
                plans = self._find(self._cohorts, decisions, hypers, gradients, graph=graph)
        if plans and not any(each.buffers.packing.hosted for p in plans for each in p.classes):
            active = [c for c, v in zip(self._cohorts, decisions, strict=True) if v != INACTIVE]
            self._residents.settle_for(plans, groups, active, graph)
            for plan in plans:
                self._residents.begin(plan, groups, gradients, (scale, found_inf), graph)
                self._run(plan, gradients)
            if graph:
                self._residents.keep(plans, self._plans.memory())
        else:
            forbid(self.program, graph, "it creates states, or rounds what is stored in few bits")
            self._residents.settle(groups)
            if found_inf is not None and float(found_inf):
                self.counters.skipped += 1
                return
            factor = 1.0 if scale is None else unscaling(scale)
            decisions = decide(*deciding, groups, hypers, factor)
            model = self._ask(decisions, hypers, gradients, inputs, model)
            self._step_host(self._cohorts, decisions, hypers, gradients, model)
            count(self.program, self._cohorts, self._cohorts, decisions, groups)
        self.counters.steps += 1

    def _ask(
        self,
        decisions: tuple[int, ...],
        hypers: Sequence[Mapping[str, Any]],
        gradients: Gradients,
        inputs: Mapping[str, Any] | None,
        model: Model | None,
    ) -> Model | None:
        """Takes the inputs of a step; the model, where the step evaluates it."""
        if not (self._asks or inputs):
            return None
        pairs = zip(self._cohorts, decisions, strict=True)
        running = [(c, self.program.variants[v]) for c, v in pairs if v != INACTIVE]
        model = checked_model(self.program, running, model, self.owner.param_groups, self._params)
        if self._holdings.inputs.numbers:  # what is missing is missed before anything changes
            for cohort, variant in running:
                h = hypers[cohort.group_index]
                _ = variant.scalars(h, cohort.e), self.program.advance(h, cohort.e)
        if self._holdings.take_inputs(inputs, running, hypers):
            self._plans.clear()
        _ = gradients.tensors  # held: the closure may drop them
        return model

    def step_alone(self, p: Tensor) -> bool:
        """One step of `p` and of nothing else, where parameters are apart and the rule ties none
        to another; False where no group has it. Raises as `step` does."""
        groups = self.owner.param_groups
        if self._on_gpu and capturing():
            check_capture(self.program, groups, resident=False)
        if self._stale(groups):
            self._look(groups)
        if (index := self._numbers.get(p)) is None:
            return False
        cohort = self._cohorts[index]
        self._check_statics()
        hypers = [plain_hypers(group, self._names) for group in groups]
        gradients = self._scanner.only(index)
        decisions = decide(self.program, [cohort], None, groups, hypers, 1.0)
        self._step_host([cohort], decisions, hypers, gradients, None)
        count(self.program, self._cohorts, [cohort], decisions, groups)
        self.counters.steps += 1
        return True

    def evaluate(self) -> None:
        """Gives p the rule's value for evaluation where the states for it are; changes no state."""
        if self._stale(groups := self.owner.param_groups):
            self._look(groups)
        self._residents.settle(groups)
        hypers = [plain_hypers(group, self._names) for group in groups]
        with evaluation(self.program, self._cohorts, groups, hypers, self._born) as decisions:
            self._step_host(self._cohorts, decisions, hypers, no_gradients(self._params), None)

    def _check_statics(self) -> None:
        for group, recorded in self._statics:
            if recorded:
                check_static(self.program, group, recorded)

    def _step_host(
        self,
        cohorts: Sequence[Cohort],
        decisions: tuple[int, ...],
        hypers: Sequence[Mapping[str, Any]],
        gradients: Gradients,
        model: Model | None,
    ) -> None:
        """A step whose numbers the host works out."""
        if self._interpreted:
            self._run_reference(cohorts, decisions, hypers, gradients, model)
            return
        if self.program.tests_entries:
            check_entries(self.program, cohorts, decisions, hypers, self._holdings)
        for plan in self._find(cohorts, decisions, hypers, gradients):
            assert plan.runner is not None
            addresses = set_addresses(plan, gradients)
            for each in plan.classes:
                self._write_scalars(each, hypers)
            plan.runner.begin(addresses=addresses)
            self._run(plan, gradients, model)
        advance(self.program, cohorts, decisions, self.owner.param_groups, hypers)

    def _all_born(self, decisions: tuple[int, ...]) -> bool:
        pairs = zip(self._cohorts, decisions, strict=True)
        return all(v == INACTIVE or self._born[v] <= cohort.e.born for cohort, v in pairs)

    def sync_hypers(self) -> None:
        """Uploads hyperparameters that changed, for steps of a graph."""
        self._residents.sync(self.owner.param_groups)

    def load_in_place(self, loaded: Loaded) -> bool:
        """Takes over a checkpoint without a new tensor, where a graph holds the present ones; else
        returns False. Raises ValueError, with nothing changed, where that cannot be."""
        if not self._residents.captured:
            return False
        self._residents.settle(self.owner.param_groups)
        cohorts = [] if self._stale(self.owner.param_groups) else self._cohorts
        self._residents.load(loaded, self.owner.state, self.owner.param_groups, cohorts)
        return True

    def _stale(self, groups: Sequence[Group]) -> bool:
        """Whether parameters, states or seeds are others than were seen, or lie elsewhere."""
        if self._seen_changes != self._changes.count or not self._owns_table():
            return True
        if self._seeds != [group.get("seed") for group in groups]:
            return True
        return self._listing.moved(groups)

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
        self._seeds = [group.get("seed") for group in groups]
        self._params = [member.own for member in members]
        self._listing = Listing(groups, flat(groups), Tensors(self._params))
        for member, address in zip(members, self._listing.places.tolist(), strict=True):
            if member.sizes.numel and not address:
                raise RuntimeError(
                    f"{self.program.name}: {describe(member)}, a {type(member.p).__name__} on "
                    f"{member.p.device}, has no memory that a step could change"
                )
        self._scanner = Scanner(self._listing, self.program.reads_gradient)
        for device in dict.fromkeys(p.device for p in self._params):
            fallback = self.interpreter is not None
            backend = choose_backend(self.backend, device, fallback=fallback)
            check_compiled(self.program, backend)
            self._backends[device] = backend
        backends = self._backends.values()
        self._interpreted = None in backends
        self._on_gpu = any(device.type == "cuda" for device in self._backends)
        self._may_reside = not self.program.hosted and all(b and b.resident for b in backends)
        check_shared(self.program, [member.p for member in members])
        # Reading the table makes the dicts that states will lie in.
        self._owned = [self.owner.state[p] for p in self._params]
        for own in self._owned:
            own.t = own.t or 0
        table = self.owner.state
        self._holdings = Holdings(self.program, self._states, table, groups, self.choice)
        counts = [own.t or 0 for own in self._owned]
        born = [self._holdings.existing(member) for member in members]
        self._cohorts = make_cohorts(self.program, members, counts, born, apart=self._apart)
        self._numbers = {member.own: member.index for member in members} if self._apart else {}
        self._plans.room = KEPT_PLANS * (len(members) if self._apart else 1)
        self._seen_changes = self._changes.count

    def _split(self, active: list[bool]) -> None:
        """Splits cohorts of which only a part takes part."""
        cohorts = split_cohorts(self._cohorts, active)
        if len(cohorts) != len(self._cohorts):
            self._plans.clear()
        self._cohorts, self._active = cohorts, active

    # ---------------------------------------------------------------- running

    def _find(
        self,
        cohorts: Sequence[Cohort],
        decisions: tuple[int, ...],
        hypers: Sequence[Mapping[str, Any]],
        gradients: Gradients,
        *,
        graph: bool = False,
    ) -> list[DevicePlan]:
        """The plans of all devices for `decisions`, kept ones where they fit."""
        alone = cohorts[0].members[0].index if cohorts is not self._cohorts else None
        key = decisions, alone
        plans = self._plans.kept(key, gradients)
        if plans is None:
            forbid(self.program, graph, "the last one ran other passes, or on other gradients")
            orders = [
                Order(cohort, variant, hypers[cohort.group_index])
                for cohort, variant in zip(cohorts, decisions, strict=True)
                if variant != INACTIVE
            ]
            args = key, orders, hypers, gradients
            plans = self._plans.make(*args, self._backends, self._holdings)
        return plans

    def _write_scalars(self, step_class: StepClass, hypers: Sequence[Mapping[str, Any]]) -> None:
        """Writes this step's numbers."""
        table, scalars = step_class.table, step_class.table.variant.scalars
        if table.scalars.shape[1]:
            for row, cohort in enumerate(step_class.cohorts):
                table.scalars[row] = scalars(hypers[cohort.group_index], cohort.e)
            self.counters.rows += len(step_class.cohorts)
        step_class.buffers.draw()

    def _run(self, plan: DevicePlan, gradients: Gradients, model: Model | None = None) -> None:
        """Runs a plan whose tables are written."""
        runner = plan.runner
        assert runner is not None
        for each in plan.classes:
            each.buffers.gradients = gradients
            self.counters.unpacked += each.buffers.packing.load()
        for segment in plan.segments:
            runner.run(segment.first, segment.last)
            if segment.batches:
                self.counters.batches += len(segment.batches)
                self.counters.evaluations += run_batches(segment.batches, runner.results, model)
            for joined in segment.joins:
                join(plan, joined)
            for evaluated in segment.models:
                assert model is not None
                self.counters.evaluations += evaluate(plan, evaluated, model)
        if self.program.reports:
            self.reports |= plan.reported(self.program.reports)
        for each in plan.classes:
            each.buffers.gradients = None  # a gradient that is kept would double their memory
            each.buffers.packing.save()
        plan.written.written()

    def _run_reference(
        self,
        cohorts: Sequence[Cohort],
        decisions: tuple[int, ...],
        hypers: Sequence[Mapping[str, Any]],
        gradients: Gradients,
        model: Model | None,
    ) -> None:
        if self.interpreter is None:
            raise RuntimeError(
                f"{self.program.name}: the reference backend needs the compiler; make the "
                "optimizer by optdsl.compile, not from a generated file"
            )
        pairs = zip(cohorts, decisions, strict=True)
        running = [cohort for cohort, variant in pairs if variant != INACTIVE]
        evaluates = any(cohort.e.evaluating for cohort in running)
        run = self.interpreter.evaluate if evaluates else self.interpreter
        found = reference_step(run, self._holdings, running, hypers, gradients.tensors, model)
        self.reports = self.reports if evaluates else found
