"""The search for passes against every order there is, and minimum cuts against every cut."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from optdsl.frontend.scope import shipped_index
from optdsl.ir.nodes import Builder, Value
from optdsl.schedule import search
from optdsl.schedule.cut import cheapest_loads
from optdsl.schedule.make import make_plan
from optdsl.schedule.needs import Needs
from optdsl.schedule.search import Choice, Search
from optdsl.types import DType, Instances, Place, Shape, Type
from tests.rules import rules_of

FULL = Type(Instances.PARAM, Shape((), "rows", "cols"), Place.DEVICE, DType.REAL)
RULES = ["ADoG", "AdamP", "CAME", "LAMB", "PSGDProcrustes", "SOAP", "UDoG"]
"""Those with the most orders."""


def searches(name: str) -> list[Search]:
    """The search of each variant of a shipped rule."""
    rule, levelled = rules_of(shipped_index()[name])[name], []

    def stop(stage: str, result: Any) -> None:
        if stage == "find_levels":
            levelled.extend(result)
            raise StopIteration

    with pytest.raises(StopIteration):
        make_plan(rule, stop)
    return [Search(Needs(rule, each)) for each in levelled]


def every_choice(made: Search, temps: tuple[Value, ...]) -> Iterator[Choice]:
    """All stages that the sinks can have, late ones first."""
    sinks = made.needs.sinks
    for at in itertools.product(*(range(s.latest, s.earliest - 1, -1) for s in sinks)):
        choice = made._choice(made._by_stage(dict(zip(sinks, at, strict=True))), temps)
        if choice is not None:
            yield choice


@pytest.mark.parametrize("name", RULES)
def test_no_order_costs_less(name: str) -> None:
    """And of those that cost the same, it is the first when the last stages are tried first."""
    for made in searches(name):
        best = made.best()
        known = min(every_choice(made, best.temps), key=lambda each: each.bytes)
        assert (best.bytes, best.stage) == (known.bytes, known.stage)


@pytest.mark.parametrize("name", RULES)
def test_where_there_are_too_many_no_single_move_gains(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = [made.best().bytes for made in searches(name)]
    monkeypatch.setattr(search, "EXACT", 0)
    for made, least in zip(searches(name), exact, strict=True):
        found = made.best()
        assert found.bytes >= least
        for sink in made.needs.sinks:
            for at in range(sink.earliest, sink.latest + 1):
                moved = made._choice(made._by_stage({**found.stage, sink: at}), found.temps)
                assert moved is None or moved.bytes >= found.bytes


@pytest.mark.parametrize("name", ["PSGDXMat", "VRLAMB"])
def test_what_a_search_asks_is_bounded(name: str) -> None:
    """Cuts are what takes its time: about half a millisecond each."""
    for made in searches(name):
        made.best()
        assert made._steps <= 100
        assert len(made.cuts) <= 1000


def graph(seed: int) -> tuple[list[Value], dict[Value, float], frozenset[Value]]:
    """A random graph, operands first; what of it is in memory, and what is wanted."""
    rng, builder = random.Random(seed), Builder()
    values = [builder.make("state", (), FULL, name=str(n)) for n in range(3)]
    while len(values) < 12:
        pair = tuple(rng.sample(values, 2))
        values.append(builder.make("add", pair, FULL))
    values = list(dict.fromkeys(values))
    memory = {v: 4.0 if v.args else rng.choice([2.0, 4.0]) for v in values if rng.random() < 0.6}
    return values, memory, frozenset(rng.sample(values[3:], 3))


@pytest.mark.parametrize("seed", range(30))
def test_no_cut_is_narrower(seed: int) -> None:
    values, memory, wanted = graph(seed)

    def computable(value: Value, loads: frozenset[Value]) -> bool:
        below = value.args
        return value in loads or (bool(below) and all(computable(v, loads) for v in below))

    cuts = [
        (sum(memory[each] for each in loads), len(loads))
        for size in range(len(memory) + 1)
        for loads in map(frozenset, itertools.combinations(memory, size))
        if all(computable(value, loads) for value in wanted)
    ]
    found = cheapest_loads(wanted, values, memory, lambda value: value.args)
    assert (found is None) == (not cuts)
    if found is not None:
        loads, bytes_ = found
        assert all(computable(value, loads) for value in wanted)
        assert sum(memory[each] for each in loads) == bytes_ == min(cuts)[0]
