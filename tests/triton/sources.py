"""The plans whose kernels are compiled and run: a line each, and every shipped rule by itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from optdsl.diagnostics import Sink
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import make_scope, read_source, zoo_folder
from optdsl.schedule.make import make_plan
from optdsl.schedule.plan import KernelPass, Plan, Variant
from optdsl.schedule.storage import stored_as
from tests import plans
from tests.rules import CORE, interpreted

HAND = tuple(plans.PLANS)
"""From tests/plans.py: what a schedule can make."""

MORE = Path(__file__).parents[1] / "schedule" / "rules.opt"
FILES = {path.stem: path for path in (*sorted(zoo_folder().glob("*.opt")), MORE)}


def _rules(stem: str) -> tuple[str, ...]:
    path = FILES[stem]
    scope = make_scope(read_source(path), Sink(), path.parent)
    return tuple(f"{stem}/{name}" for name in rule_names(scope))


ZOO = tuple(
    source
    for stem in FILES
    if stem != MORE.stem
    for source in _rules(stem)
    if source.split("/")[1] not in interpreted()
)
SHOWN = tuple(source for source in ZOO if source.split("/")[1] in CORE)
RULES = _rules(MORE.stem)
"""Shipped rules, those of them that the fast suite takes, and further ones that bring out what
schedules can do, as `file/rule`."""


@cache
def plan_of(source: str) -> Plan:
    """The plan of a name in HAND, ZOO or RULES; of "RULE as STORAGE" with its states stored so."""
    if source in plans.PLANS:
        return plans.PLANS[source]()
    source, _, storage = source.partition(" as ")
    stem, name = source.split("/")
    sink = Sink()
    rule = lower_rule(name, make_scope(read_source(FILES[stem]), sink, FILES[stem].parent), sink)
    sink.check()
    assert rule is not None
    return make_plan(stored_as(rule, storage) if storage else rule)


def kernels_of(source: str) -> list[tuple[Variant, KernelPass]]:
    """The kernel passes of all variants."""
    plan = plan_of(source)
    return [
        (variant, each)
        for variant in plan.variants
        for each in variant.passes
        if isinstance(each, KernelPass)
    ]
