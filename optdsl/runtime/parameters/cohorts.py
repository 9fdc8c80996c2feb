"""Parameters that share a step's host numbers: who they are, what host functions see of them.

Input: the parameters of the groups and what `Program.reads` names. Output: members (one a
parameter) and cohorts (members with equal group, t and facts), and each cohort's environment `e`.

A step evaluates host functions once a cohort, not once a parameter; a usual model has one cohort
per group. A cohort splits when some of its members have a gradient and others have not, and never
merges again, except where all are made anew.

Relies on: program.py. Does not do: decisions, tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from optdsl.axes import AXIS_SIZES, axis_sizes
from optdsl.draws import draw
from optdsl.runtime.program import Program


class Sizes(NamedTuple):
    """A parameter's matrix view: `batch` matrices of [rows, cols]; `axes` are those of its axes
    behind the first."""

    numel: int
    rows: int
    cols: int
    batch: int
    ndim: int
    axes: tuple[int, ...] = (1,) * len(AXIS_SIZES)

    def elements(self, domain: str) -> int:
        """How many elements a buffer of `domain` has; one for group and all."""
        return {
            "full": self.numel,
            "row": self.batch * self.rows,
            "col": self.batch * self.cols,
            "matrix": self.batch,
        }.get(domain, 1)

    def as_dict(self) -> dict[str, int]:
        return {
            "numel": self.numel,
            "rows": self.rows,
            "cols": self.cols,
            "batch": self.batch,
            "ndim": self.ndim,
            "short": min(self.rows, self.cols),
            "long": max(self.rows, self.cols),
            **dict(zip(AXIS_SIZES, self.axes, strict=True)),
        }


ONE = Sizes(1, 1, 1, 1, 0)
"""What a state of a group, or of the run, counts as."""


def matrix_view(shape: Sequence[int], view: str) -> Sizes:
    """`view` is rows (dimension 0 against the rest), last (the last two) or flat ([numel, 1])."""
    numel, ndim = math.prod(shape), len(shape)
    axes = tuple(axis_sizes(shape).values())
    if ndim <= 1 or view == "flat":
        return Sizes(numel, numel, 1, 1, ndim, axes)
    if view == "last":
        return Sizes(numel, shape[-2], shape[-1], math.prod(shape[:-2]), ndim, axes)
    return Sizes(numel, shape[0], math.prod(shape[1:]), 1, ndim, axes)


@dataclass(eq=False, slots=True)
class Member:
    """A parameter and what does not change while it is optimized. `own` is the parameter itself and
    `p` what a step sees of it: the same, of a DTensor what lies here, of complex numbers their
    parts. `index` counts all members, `position` those of its group."""

    own: Tensor
    p: Tensor
    index: int
    group_index: int
    position: int
    name: str | None
    attributes: Mapping[str, Any]
    sizes: Sizes


class Environment:
    """`e` of the host functions: what they may read besides the hyperparameters."""

    __slots__ = (
        *AXIS_SIZES,
        "attributes",
        "axes",
        "batch",
        "born",
        "cols",
        "drawn",
        "evaluating",
        "g_scale",
        "long",
        "name",
        "ndim",
        "numel",
        "rows",
        "seed",
        "short",
        "steps",
        "t",
    )

    def __init__(self, member: Member, t: int, born: frozenset[str]) -> None:
        sizes = member.sizes
        self.numel, self.ndim, self.batch = sizes.numel, sizes.ndim, sizes.batch
        self.rows, self.cols = sizes.rows, sizes.cols
        self.short, self.long = min(sizes.rows, sizes.cols), max(sizes.rows, sizes.cols)
        for name, number in zip(AXIS_SIZES, sizes.axes, strict=True):
            setattr(self, name, number)
        self.name = member.name or ""
        self.attributes = member.attributes
        self.axes: Mapping[str, int] = {}
        self.born = born
        self.t = t
        self.steps = 0
        self.evaluating = False
        self.g_scale = 1.0
        self.seed = 0
        self.drawn: dict[tuple[str, int], float] = {}

    def first(self, state: str) -> bool:
        """Whether this step creates `state`."""
        return state not in self.born

    def draw(self, kind: str, site: int, at: float, over: str) -> float:
        """The number drawn at this place for the group, or for all: then it is the same in all
        environments of a step, which share what is `drawn`."""
        if over == "all" and (kind, site) in self.drawn:
            return self.drawn[kind, site]
        made = draw(kind, (1, 1), seed=self.seed, site=site, at=int(at), parameter=-1)
        self.drawn[kind, site] = number = made.item()
        return number

    def matches(self, pattern: str) -> bool:
        """Whether the regular expression `pattern` occurs in the parameter's name."""
        return re.search(pattern, self.name) is not None


@dataclass(eq=False, slots=True)
class Cohort:
    """Members with one environment. `t` counts their updates so far; `e.t` is the one going on."""

    group_index: int
    members: list[Member]
    t: int
    e: Environment

    def born(self, states: frozenset[str]) -> None:
        """Notes that `states` exist from now on."""
        if not states <= self.e.born:
            self.e.born |= states


_FACTS: dict[str, Callable[[Member], Any]] = {
    "rows": lambda member: member.sizes.rows,
    "cols": lambda member: member.sizes.cols,
    "numel": lambda member: member.sizes.numel,
    "short": lambda member: min(member.sizes.rows, member.sizes.cols),
    "long": lambda member: max(member.sizes.rows, member.sizes.cols),
    "ndim": lambda member: member.sizes.ndim,
    "batch": lambda member: member.sizes.batch,
    "name": lambda member: member.name,
    "attributes": lambda member: tuple(sorted(member.attributes.items())),
    **dict.fromkeys(AXIS_SIZES, lambda member: member.sizes.axes),
}


def make_cohorts(
    program: Program,
    members: Sequence[Member],
    counts: Sequence[int],
    born: Sequence[frozenset[str]],
    *,
    apart: bool = False,
) -> list[Cohort]:
    """Cohorts of `members`, in the order of their first members; where they are `apart`, each is
    one. `counts` and `born` give, for each member, its number of updates and the names of the
    states that exist."""
    facts = [fact for name, fact in _FACTS.items() if name in program.reads]
    cohorts: dict[tuple[Any, ...], Cohort] = {}
    for member, t, states in zip(members, counts, born, strict=True):
        own = member.index if apart else -1
        key = (own, member.group_index, t, states, *(fact(member) for fact in facts))
        cohort = cohorts.get(key)
        if cohort is None:
            e = Environment(member, t, states)
            cohort = cohorts[key] = Cohort(member.group_index, [], t, e)
        cohort.members.append(member)
    return list(cohorts.values())


def split_cohorts(cohorts: Sequence[Cohort], active: Sequence[bool]) -> list[Cohort]:
    """`cohorts` such that in each either all or none of the members are active, which `active`
    gives by `Member.index`."""
    result = []
    for cohort in cohorts:
        for wanted in (True, False):
            part = [each for each in cohort.members if active[each.index] is wanted]
            if len(part) == len(cohort.members):
                result.append(cohort)
            elif part:
                e = Environment(part[0], cohort.t, cohort.e.born)
                result.append(Cohort(cohort.group_index, part, cohort.t, e))
    return result


def advance(
    program: Program,
    cohorts: Sequence[Cohort],
    decisions: Sequence[int],
    groups: Sequence[dict[str, Any]],
    hypers: Sequence[Mapping[str, Any]],
) -> None:
    """Advances what the host keeps of each group of which a cohort took the step: one whose
    decision is a variant, not -1."""
    if not program.host_states:
        return
    taking = {c.group_index: c.e for c, v in zip(cohorts, decisions, strict=True) if v >= 0}
    for index, e in taking.items():
        groups[index] |= program.advance(hypers[index], e)
