"""The shipped rules as plans, for tests of what comes after the schedule."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from optdsl.diagnostics import Sink
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import make_scope, read_source
from optdsl.schedule.make import make_plan
from optdsl.schedule.plan import Plan

ZOO = Path(__file__).parents[1] / "optdsl" / "zoo"


def plan_of(path: Path, name: str) -> Plan:
    """The plan of the rule `name` in the file `path`."""
    sink = Sink()
    rule = lower_rule(name, make_scope(read_source(path), sink, path.parent), sink)
    sink.check()
    assert rule is not None
    return make_plan(rule)


@cache
def shipped_plans() -> dict[str, Callable[[], Plan]]:
    """A function that makes the plan, for each shipped rule that becomes a class."""
    found: dict[str, Callable[[], Plan]] = {}
    for path in sorted(ZOO.glob("*.opt")):
        names = rule_names(make_scope(read_source(path), Sink(), path.parent))
        found |= {name: partial(plan_of, path, name) for name in names}
    return found
