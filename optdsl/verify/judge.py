"""Whether a target's step is within the bounds of the exact one.

Input: what the target computes, the members before the step, what it holds after it. Output: an
`Outcome`, in which each element counts. Relies on: bounds, interpreter.
Does not do: take the step (trial.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from optdsl import interpreter
from optdsl.interpreter import Member
from optdsl.interpreter.run import Run
from optdsl.ir.nodes import Rule, StateDecl
from optdsl.passes.variants import Straight
from optdsl.runtime.optimizer import Optimizer
from optdsl.runtime.states.transfer import loaded
from optdsl.runtime.storage.codecs import Codec
from optdsl.schedule.levels import library_values
from optdsl.schedule.plan import Decision, Plan
from optdsl.schedule.planes import in_wholes
from optdsl.types import Instances
from optdsl.verify.bounds import FLOAT64, SAMPLES, Bounds, Near, Perturbed, SlotRun, Values
from optdsl.verify.formats import coding, compute_format, distance, rounding, ulp
from optdsl.verify.surroundings import Recorded

DOUBTFUL = 0.1
"""The share of elements with loose bounds beyond which nothing was shown."""
LOOSE, ROUNDINGS = 0.5, 64
"""A bound is loose if it is more than this share of the largest change in the tensor and this
many roundings of its largest number: after a comparison that may fall either way, say."""

MOVED = frozenset({"index", "put_index"})
"""What the library does to entries changes no number, so that their own bounds hold."""
TOLD = 1024
"""Elements whose bound has more ulps are differences of nearly equal numbers, whose ulps say
nothing of the target; the bound judges them, too."""

SECOND_ORDER = 1 + 2.0**-20
"""What products of errors, which the bounds leave out here and there, may add."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors of at most 65,537 elements take ten times as long on two threads, where other
    processes compete for the processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Outcome:
    """What a target did. `worst_share` is the largest error over its bound, at most 1 where all is
    right, with its place; `worst_ulps` the largest in ulps of what is stored, at the larger of the
    values before and after the step, of elements that may be off by at most TOLD."""

    rule: str
    target: str
    dtype: torch.dtype
    setting: str
    elements: int = 0
    loose: int = 0
    undecided: int = 0
    decided: int = 0
    worst_ulps: float = 0.0
    worst_share: float = 0.0
    place: str = ""
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure

    def doubt(self, most: float = DOUBTFUL) -> str:
        """Why the bounds show too little, if they do: more than the share `most` is loose."""
        share = self.loose / max(1, self.elements)
        return f"{share:.1%} of the elements have bounds that say little" * (share > most)


@dataclass(frozen=True)
class Place:
    """Where a target keeps what belongs to a member after a step."""

    p: Tensor
    optimizer: Optimizer
    group: Mapping[str, Any]

    def _held(self, state: StateDecl) -> Mapping[str, Any]:
        own = state.type.instances is Instances.PARAM
        held: Mapping[str, Any] = self.optimizer.state[self.p] if own else self.group
        return held

    def has(self, state: StateDecl) -> bool:
        return isinstance(self._held(state).get(state.key), Tensor)

    def state(self, state: StateDecl) -> tuple[Tensor, Codec | None]:
        """The values of a state, and the codec of its codes."""
        held = self._held(state)
        if not self.has(state):
            raise ValueError(f"there is no state {state.key}")
        declared = next(e for e in self.optimizer.program.states if e.name == state.name)
        values, codec = loaded(declared, tuple(self.p.shape), held)
        return values, None if codec is None else codec.form


@dataclass
class Judge:
    """`variants` and `plan` are what all targets but the reference compute."""

    rule: Rule
    plan: Plan
    variants: Sequence[Straight]
    outcome: Outcome
    model: Recorded | None = None

    def expect(self, members: list[Member], model: Recorded | None = None) -> Expected:
        """What the step of `members` must give; `model` as the target's step has seen it."""
        with one_thread():
            return self._expect(members, model)

    def _expect(self, members: list[Member], model: Recorded | None) -> Expected:
        self.model = model
        exact = interpreter.run(self.rule, members, closure=model)
        as_written = self._bounds(members, Values([as_variant(self.rule)], [0] * len(members)))
        # In float64 the exact step errs, too: its sums have an order of their own.
        both = self.outcome.dtype is torch.float64
        if self.outcome.target == "reference":
            return Expected(members, exact, (as_written, as_written) if both else (as_written,))
        whole = Run(self.rule, members, torch.float64, model)
        chosen = [_decide(self.plan.decision, whole, i) for i in range(len(members))]
        # A twin over blocks computes what its variant does, on another view of the same numbers.
        twins = [self.variants[index].twin_of for index in chosen]
        chosen = [i if twin is None else twin for i, twin in zip(chosen, twins, strict=True)]
        planned = self._bounds(members, Values(self._wholes, chosen))
        return Expected(members, exact, (planned, as_written) if both else (planned,))

    @cached_property
    def _wholes(self) -> list[Straight]:
        """The variants over states as the interpreter knows them."""
        return [in_wholes(self.rule, each) for each in self.variants]

    def _bounds(self, members: list[Member], values: Values) -> Bounds:
        found = library_values(values.roots, self.rule.view)
        library = frozenset(value for value in found if value.op not in MOVED)
        common = (self.rule, members, torch.float64, self.model)
        dtype = self.outcome.dtype
        samples = [
            Perturbed(
                *common,
                values=values,
                generator=torch.Generator().manual_seed(seed),
                parameter=dtype,
            )
            for seed in range(SAMPLES if library else 0)
        ]
        exact = SlotRun(*common, values=values)
        return Bounds(
            *common,
            values=values,
            perturbed=samples,
            exact=exact,
            library=library,
            parameter=dtype,
        )

    def compare(self, when: str, expected: Expected, places: Sequence[Place]) -> None:
        """Hold the target to `expected`, element by element."""
        with one_thread():
            self._compare(when, expected, places)

    def _compare(self, when: str, expected: Expected, places: Sequence[Place]) -> None:
        if self.model is not None:
            self._hold_points(when, expected, self.model)
        for i, (member, place) in enumerate(zip(expected.members, places, strict=True)):
            where = f"{when}, {list(place.p.shape)}"
            new_p = expected.exact.updates[i].p
            exact_p = member.p if new_p is None else new_p
            self._hold(f"p, {where}", place.p, exact_p, expected.error("p", i), member.p)
            for state in self.rule.states:
                exact = expected.state(state, i)
                if exact is None:
                    continue  # it stays as it was, or belongs to another branch
                if not place.p.numel() and state.type.instances is Instances.PARAM:
                    continue  # targets do nothing for a parameter without elements
                if not place.has(state) and self._as_it_begins(state, member, exact):
                    continue  # targets make a state when they first read or write it
                stored, codec = place.state(state)
                error, before = expected.error(state.name, i), expected.before(state, i)
                self._hold(f"{state.key}, {where}", stored, exact, error, before, codec)
        for bounds in expected.bounds:
            self.outcome.undecided += bounds.undecided
            self.outcome.decided += bounds.decided

    def _as_it_begins(self, state: StateDecl, member: Member, exact: Tensor) -> bool:
        """Whether a state still has the first value that the host gives it."""
        if state.initial is None:
            return False
        first = interpreter.first_value(self.rule, state.name, member, torch.float64)
        return torch.equal(first.expand(exact.shape), exact)

    def _hold_points(self, when: str, expected: Expected, model: Recorded) -> None:
        """Hold the points at which the target evaluated the model to those that it should have."""
        names = ("p", *(state.name for state in self.rule.states))
        for name, i in itertools.product(names, range(len(expected.members))):
            expected.error(name, i)  # whose computation evaluates the model
        # In float64 the exact points err as much as the target's do.
        members, bounds, both = expected.members, expected.bounds[0], len(expected.bounds)
        sites: dict[Any, dict[int, Near]] = {}
        for (site, i), near in bounds.points.items():
            whole = (x.expand(bounds.sizes(members[i].p)) for x in (near.value, near.error))
            sites.setdefault(site, {})[i] = Near(*(x.reshape(members[i].p.shape) for x in whole))
        loops = [dict(enumerate(each)) for each in bounds.asked_in_loops()]
        for found in (*sites.values(), *loops):
            asked = [found[i].value if i in found else m.p for i, m in enumerate(members)]
            actual = model.nearest(asked)
            for i, near in found.items():
                where = f"point of the model, {when}, {list(members[i].p.shape)}"
                stored = actual[i].to(self.outcome.dtype)
                self._hold(where, stored, near.value, both * near.error, members[i].p)

    def _hold(
        self,
        where: str,
        stored: Tensor,
        exact: Tensor,
        error: Tensor,
        before: Tensor | None,
        codec: Codec | None = None,
    ) -> None:
        if not stored.numel():
            return
        outcome = self.outcome
        actual = stored.detach().to("cpu", torch.float64).reshape(exact.shape)
        error = error.nan_to_num(nan=torch.inf, posinf=torch.inf)
        one = error.numel() == 1  # for all elements alike
        error = error.reshape(()).expand(exact.shape) if one else error.reshape(exact.shape)
        limit = _limit(error, exact, stored.dtype, outcome.dtype)
        if codec is not None:
            limit = limit + coding(exact, limit, codec)
        apart = distance(actual, exact)
        share = torch.where(apart == 0, apart, apart / limit).nan_to_num(nan=0.0, posinf=torch.inf)
        outcome.elements += exact.numel()
        outcome.loose += _loose(error, exact, before)
        size = exact.abs() if before is None else exact.abs().maximum(before.abs())
        last = ulp(size, stored.dtype)
        told = torch.where((apart > 0) & (limit <= TOLD * last), apart / last, torch.zeros(()))
        outcome.worst_ulps = max(outcome.worst_ulps, float(told.max()))
        worst = float(share.max())
        if worst > outcome.worst_share:
            outcome.worst_share, outcome.place = worst, where
        if worst > 1 and not outcome.failure:
            at = int(share.argmax())
            outcome.failure = (
                f"{where}: element {at} is {float(actual.flatten()[at])!r}, exactly "
                f"{float(exact.flatten()[at])!r}; off by {worst:.3g} times what is allowed"
            )


@dataclass
class Expected:
    """The exact step, and the bounds whose sum a target may be off by."""

    members: list[Member]
    exact: interpreter.Outcome
    bounds: tuple[Bounds, ...]

    def state(self, state: StateDecl, i: int) -> Tensor | None:
        """The new value of a state of member i, its group or the run."""
        if state.type.instances is Instances.PARAM:
            return self.exact.updates[i].states.get(state.name)
        group = self.members[i].group_index
        owner = None if state.type.instances is Instances.RUN else group
        return self.exact.shared.get((state.name, owner))

    def before(self, state: StateDecl, i: int) -> Tensor | None:
        """A state's value before the step, in the shape of the new one; None where it had none."""
        member, new = self.members[i], self.state(state, i)
        if state.type.instances is Instances.PARAM:
            old = member.states.get(state.name)
        else:
            owner = None if state.type.instances is Instances.RUN else member.group_index
            old = member.shared.get((state.name, owner))
        return None if old is None or new is None else old.reshape(new.shape)

    def error(self, name: str, i: int) -> Tensor:
        """How far from the exact value a computed one may be; 0 for one that is not computed: kept
        as it was, or filled with a host number."""
        total = torch.zeros((), dtype=torch.float64)
        for bounds in self.bounds:
            assert bounds.values is not None
            value = bounds.values.outputs(i).get(name)
            if value is not None:
                near = bounds.near(value, i)
                total = total + near.error.expand(bounds.shape(value.type.shape, i))
        return total


def _limit(error: Tensor, exact: Tensor, stored: torch.dtype, parameter: torch.dtype) -> Tensor:
    """What a stored value may be off by: the error of its computation, and of its rounding where
    it is stored in another format than it was computed in (or was not computed). NaN and infinity
    are not rounded: what is one of them is the same one for a target."""
    computed = compute_format(parameter)
    limit = error * SECOND_ORDER * (FLOAT64 if computed is torch.float64 else 1.0)
    if stored is computed and bool(error.any()):
        return limit
    return limit + rounding(exact, limit, stored).masked_fill(~exact.isfinite(), 0.0)


def _loose(error: Tensor, exact: Tensor, before: Tensor | None) -> int:
    """How many elements' bounds say little of the step."""
    change = exact if before is None else exact - before
    largest = change.abs().nan_to_num(posinf=0.0).amax()
    roundings = ROUNDINGS * ulp(exact.abs().nan_to_num(posinf=0.0).amax(), torch.float32)
    return int(((error > LOOSE * largest + roundings) & exact.isfinite()).sum())


def as_variant(rule: Rule) -> Straight:
    """What the interpreter computes: the rule as it stands."""
    return Straight((), dict(rule.updates) | ({} if rule.param is None else {"p": rule.param}), {})


def _decide(decision: Decision | int, whole: Run, i: int) -> int:
    while not isinstance(decision, int):
        holds = bool(whole.get(decision.condition, i))
        decision = decision.then if holds else decision.otherwise
    return decision
