"""Which variant each cohort runs in a step, and what the step leaves counted.

Input: cohorts, the groups that they are of, hyperparameters. Output: decisions, one a cohort;
before the step, an error for an entry of a state that there is not; behind it, counts and the names
of states that exist now.

Relies on: cohorts.py, holdings.py. Does not do: running (engine.py), numbers that the host keeps
(`advance` of cohorts.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optdsl.runtime.parameters.cohorts import Cohort
from optdsl.runtime.program import Program
from optdsl.runtime.states.holdings import Group, Holdings
from optdsl.runtime.states.matching import STEPS

INACTIVE = -1
"""The variant of a cohort whose parameters have no gradients."""

Decisions = tuple[int, ...]
Hypers = Sequence[Mapping[str, Any]]


def decide(
    program: Program,
    cohorts: Sequence[Cohort],
    active: Sequence[bool] | None,
    groups: Sequence[Group],
    hypers: Hypers,
    g_scale: float,
) -> Decisions:
    """The variant of each cohort, INACTIVE for those without gradients: which there are, `active`
    says by `Member.index` (None: all). Brings their environments up to this step."""
    single = len(program.variants) == 1
    decisions: list[int] = []
    drawn: dict[tuple[str, int], float] = {}
    for cohort in cohorts:
        if active is not None and not active[cohort.members[0].index]:
            decisions.append(INACTIVE)
            continue
        e, group = cohort.e, groups[cohort.group_index]
        e.t = cohort.t + 1
        e.steps = group.get(STEPS, 0) + 1
        e.g_scale = -g_scale if group["maximize"] else g_scale
        e.seed, e.drawn = group.get("seed", 0), drawn
        decisions.append(0 if single else program.decide(hypers[cohort.group_index], e))
    return tuple(decisions)


def check_entries(
    program: Program,
    cohorts: Sequence[Cohort],
    decisions: Decisions,
    hypers: Hypers,
    holdings: Holdings,
) -> None:
    """Raises ValueError where a step would go to an entry of a state that there is not."""
    for cohort, index in zip(cohorts, decisions, strict=True):
        variant = program.variants[index] if index != INACTIVE else None
        planes = [plane for plane in variant.planes if not plane.known] if variant else []
        if not variant or not planes:
            continue
        h = hypers[cohort.group_index]
        row = variant.scalars(h, cohort.e)
        for plane in planes:
            state, number = holdings.states[plane.state], plane.of(row)
            size = state.shape[0]
            if not isinstance(size, int):
                size = holdings.sizes(cohort.members[0], h, cohort.e)[size]
            if not 0 <= number < size:  # NaN is nowhere
                raise ValueError(
                    f"{program.name}: state {state.key!r} has no entry {number}, only 0 to "
                    f"{size - 1}"
                )


def count(
    program: Program,
    everyone: Sequence[Cohort],
    cohorts: Sequence[Cohort],
    decisions: Decisions,
    groups: Sequence[Group],
) -> None:
    """Counts a step that `cohorts` took, and notes which states exist now: a shared one that a
    cohort created exists for all of `everyone` who share it."""
    stepped: dict[int, Cohort] = {}
    for cohort, variant in zip(cohorts, decisions, strict=True):
        if variant == INACTIVE:
            continue
        stepped[cohort.group_index] = cohort
        cohort.t += 1
        born = program.variants[variant].states
        if not cohort.e.born.issuperset(born):
            cohort.e.born = cohort.e.born.union(born)
            _share_births(program, born, cohort.group_index, everyone)
    if STEPS in program.reads:
        for group_index in stepped:
            groups[group_index][STEPS] = groups[group_index].get(STEPS, 0) + 1


def _share_births(
    program: Program, born: Sequence[str], group_index: int, cohorts: Sequence[Cohort]
) -> None:
    domains = {state.name: state.domain for state in program.states if state.name in born}
    for cohort in cohorts:
        own = cohort.group_index == group_index
        cohort.e.born |= {
            name
            for name, domain in domains.items()
            if domain == "all" or (domain == "group" and own)
        }
