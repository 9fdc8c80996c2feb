"""choose_passes: when each write and reduction happens, and what is stored on the way, by bytes.

Input: what the passes of one variant must do (needs.py). Output: a `Choice`: the stage of every
sink, the temporaries, and for each stage what its pass loads. Loads are minimum cuts (cut.py), so
that recomputing or storing, the pass of each write and that of each reduction are one search.

What a stage costs depends on what is done in it and on what was done before it, in whatever order.
So the stages are gone through once, with the cheapest way to each set of sinks that may be done by
then. That is exact, for the temporaries that are given, where there are at most `EXACT` steps from
set to set (PSGD has 129, other shipped rules at most 36); beyond, no sink can be moved alone to
gain bytes. Temporaries are tried one after the other, and stay where they save bytes: that is not
exact.
Ties recompute, write as late as possible, and are broken by the order of the sinks.

Bytes are those of a float32 parameter; a row's or column's number counts for almost nothing. All
are multiples of 2^-10, so that sums are exact and their order does not matter.
Relies on: needs, cut. Does not do: texts, buffers' names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from optdsl.ir.nodes import Rule, Value
from optdsl.schedule.cut import cheapest_loads, is_at_hand
from optdsl.schedule.levels import Levelled, closes_in_row
from optdsl.schedule.needs import Needs, Sink
from optdsl.schedule.plan import Domain, domain_of
from optdsl.types import STORAGE_BYTES, Storage

EXACT = 2048
SMALL_BYTES = 2.0**-7
"""Bytes per parameter that a row's number counts as: 4 bytes over 512 columns."""
PHASE_BYTES = 2.0**-10
"""What one more visit of a tile in cache counts as, so that a row's sum is not taken twice for
nothing."""
LOSSLESS = (Storage.COMPUTE, Storage.FLOAT32)
"""Storages that give back what was stored: only these are loaded again in the step."""

Stages = tuple[frozenset[Sink], ...]
"""What is done in each stage."""


@dataclass
class Choice:
    """`stage` of each sink; `temps` are the values stored for later passes; `loads` and `bytes`
    by stage."""

    stage: dict[Sink, int]
    temps: tuple[Value, ...]
    loads: list[frozenset[Value]]
    bytes: float


@dataclass
class Search:
    """`cuts` are the loads and bytes of passes, by what they want and what is in memory of it."""

    needs: Needs
    cuts: dict[tuple[frozenset[Value], frozenset[Value]], tuple[frozenset[Value], float] | None] = (
        field(default_factory=dict)
    )
    cones: dict[tuple[frozenset[Value], frozenset[Value]], dict[Value, None]] = field(
        default_factory=dict
    )

    @property
    def variant(self) -> Levelled:
        return self.needs.variant

    def best(self) -> Choice:
        best = self._cheapest((), None)
        assert best is not None, "no order of passes computes this rule"
        if len(best.loads) > 1:
            for extra in self._temp_candidates():
                trial = self._cheapest((*best.temps, extra), best)
                if trial is not None and trial.bytes < best.bytes:
                    best = trial
        return best

    def _temp_candidates(self) -> list[Value]:
        """Full values that are computed before the last stage and used in a later one."""
        needs = self.needs
        return [
            value
            for value, level in self.variant.level.items()
            if needs.domain(value) is Domain.FULL
            and value.type.on_device
            and value.args
            and value not in self.variant.library
            and value not in needs.handed_over
            and level < needs.stages - 1
        ]

    # ------------------------------------------------------------ stages of sinks

    def _cheapest(self, temps: tuple[Value, ...], near: Choice | None) -> Choice | None:
        """The best stages with these temporaries; where there are too many, near a known choice."""
        if self._steps <= EXACT:
            return self._exact(temps)
        return self._descended(temps, near)

    @cached_property
    def _steps(self) -> int:
        """How many steps from set to set there are: in each stage that it may have, a sink was done
        before, is done or is done later."""
        total = 0
        for number in range(self.needs.stages):
            flying = [s for s in self.needs.sinks if s.earliest <= number <= s.latest]
            total += prod(3 - (number == s.earliest) - (number == s.latest) for s in flying)
        return total

    def _exact(self, temps: tuple[Value, ...]) -> Choice | None:
        """By bytes, then by how early sinks are done, the first of them counting most."""
        reached: dict[frozenset[Sink], tuple[float, int, Stages]] = {frozenset(): (0.0, 0, ())}
        for number in range(self.needs.stages):
            after: dict[frozenset[Sink], tuple[float, int, Stages]] = {}
            for done, (bytes_, early, stages) in reached.items():
                for now in self._doable(number, done):
                    found = self._pass(number, done, now, temps)
                    if found is None:
                        continue
                    ranks = (self._weights[sink] * (sink.latest - number) for sink in now)
                    step = (bytes_ + found[1], early + sum(ranks), (*stages, now))
                    known = after.get(done | now)
                    if known is None or step[:2] < known[:2]:
                        after[done | now] = step
            reached = after
        return self._choice(reached[frozenset(self.needs.sinks)][2], temps) if reached else None

    @cached_property
    def _weights(self) -> dict[Sink, int]:
        """Digits in which to write how early each sink is done, so that the first counts most."""
        weights, weight = {}, 1
        for sink in reversed(self.needs.sinks):
            weights[sink] = weight
            weight *= sink.latest - sink.earliest + 1
        return weights

    def _doable(self, number: int, done: frozenset[Sink]) -> Iterator[frozenset[Sink]]:
        """The sets of sinks that a stage may do: all that must be, and any of those that can be."""
        can = [s for s in self.needs.sinks if s.earliest <= number <= s.latest and s not in done]
        sets = [frozenset(sink for sink in can if sink.latest == number)]
        for sink in can:
            if sink.latest > number:
                sets += [each | {sink} for each in sets]
        yield from sets

    def _descended(self, temps: tuple[Value, ...], near: Choice | None) -> Choice | None:
        """One sink after the other is moved to where it costs least, until none is."""
        stage = near.stage if near else {}
        if near is None:
            for sink in self.needs.sinks:
                stage[sink] = sink.earliest if sink.kind == "reduce" else sink.latest
        best, improved = self._choice(self._by_stage(stage), temps), True
        while improved:
            improved = False
            for sink in self.needs.sinks:
                for at in range(sink.latest, sink.earliest - 1, -1):
                    trial = self._choice(self._by_stage({**stage, sink: at}), temps)
                    if trial is not None and (best is None or trial.bytes < best.bytes):
                        best, stage, improved = trial, trial.stage, True
        return best

    def _by_stage(self, stage: dict[Sink, int]) -> Stages:
        return tuple(
            frozenset(sink for sink, at in stage.items() if at == number)
            for number in range(self.needs.stages)
        )

    # ------------------------------------------------------------ cost

    def _choice(self, stages: Stages, temps: tuple[Value, ...]) -> Choice | None:
        """What these stages load and cost; None where a pass could not compute what it must."""
        loads: list[frozenset[Value]] = []
        done: frozenset[Sink] = frozenset()
        total = sum(self.stored_bytes(sink) for sink in self.needs.sinks)
        total += sum(self._bytes(value, Storage.COMPUTE) for value in temps)
        for number, now in enumerate(stages):
            found = self._pass(number, done, now, temps)
            if found is None:
                return None
            loads.append(found[0])
            total, done = total + found[1], done | now
        at = {sink: number for number, now in enumerate(stages) for sink in now}
        return Choice({sink: at[sink] for sink in self.needs.sinks}, temps, loads, total)

    def _pass(
        self, number: int, done: frozenset[Sink], now: frozenset[Sink], temps: tuple[Value, ...]
    ) -> tuple[frozenset[Value], float] | None:
        """What the pass of stage `number` loads and costs, when `done` was done before it."""
        stored = [value for value in temps if self.needs.ready(value) == number]
        wanted = frozenset([*(sink.value for sink in now), *stored])
        if not wanted:
            return frozenset(), 0.0
        cone = self._cone(wanted)
        resident = self._resident(number, done, temps, cone)
        key = (wanted, frozenset(resident))
        if key not in self.cuts:
            found = cheapest_loads(wanted, cone, resident, self._below)
            if found is not None:
                inside = self._cone(wanted, found[0]).keys() - found[0]
                closings = sum(closes_in_row(value, self.needs.view) for value in inside)
                found = found[0], found[1] + PHASE_BYTES * closings
            self.cuts[key] = found
        return self.cuts[key]

    def _cone(
        self, wanted: frozenset[Value], loads: frozenset[Value] = frozenset()
    ) -> dict[Value, None]:
        """What a kernel works `wanted` out from, down to what it loads, operands first."""
        if (wanted, loads) not in self.cones:
            seen: set[Value] = set()
            stack = list(wanted)
            while stack:
                value = stack.pop()
                if value not in seen:
                    seen.add(value)
                    stack.extend(() if value in loads else self._below(value))
            order = sorted(seen, key=lambda each: each.id)
            self.cones[wanted, loads] = dict.fromkeys(order)
        return self.cones[wanted, loads]

    def _below(self, value: Value) -> tuple[Value, ...]:
        """What a kernel computes `value` from; the library's values are loaded or not there."""
        return () if value in self.variant.library or is_at_hand(value) else value.args

    def _bytes(self, value: Value, storage: Storage) -> float:
        domain = self.needs.domain(value)
        return STORAGE_BYTES[storage] if domain is Domain.FULL else SMALL_BYTES

    def stored_bytes(self, sink: Sink) -> float:
        if sink.kind == "reduce":
            return 0.0
        if sink.kind == "temp" or sink.name == "p":
            return self._bytes(sink.value, Storage.COMPUTE)
        state = self.needs.rule.state(sink.name)
        full = domain_of(state.type, self.needs.view) is Domain.FULL
        return STORAGE_BYTES[state.storage] if full else SMALL_BYTES

    # ------------------------------------------------------------ memory

    def _resident(
        self,
        number: int,
        done: frozenset[Sink],
        temps: tuple[Value, ...],
        cone: dict[Value, None],
    ) -> dict[Value, float]:
        """What lies in memory of `cone` when the pass of stage `number` begins, with the bytes of
        loading it."""
        stored = [sink.name for sink in done if sink.kind == "store"]
        gone = {each for name in stored for each in self.needs.rivals[name]}
        resident = {
            value: bytes_
            for value, (name, since, bytes_) in self._lying.items()
            if value in cone and since <= number and name not in gone
        }
        kept = [sink.value for sink in done if self._is_kept(sink)]
        kept += [value for value in temps if self.needs.ready(value) < number]
        for value in kept:
            if value in cone:
                resident.setdefault(value, self._bytes(value, Storage.COMPUTE))
        return resident

    @cached_property
    def _lying(self) -> dict[Value, tuple[str, int, float]]:
        """What lies in memory without a pass having stored it: what overwrites it (p or a state),
        the first stage that finds it, and the bytes of loading it."""
        found: dict[Value, tuple[str, int, float]] = {}
        for value, level in self.variant.level.items():
            full = self._bytes(value, Storage.COMPUTE)
            if value.op == "evaluated":
                found[value] = ("", level, full)
            elif self.needs.domain(value) is Domain.SHAPED:
                continue
            elif value.op == "state":
                name = value.attr("name")
                found[value] = (name, 0, self._bytes(value, self.needs.rule.state(name).storage))
            elif value.op in ("param", "grad", "input"):
                found[value] = ("p" if value.op == "param" else "", 0, full)
            elif value in self.variant.library:
                found[value] = ("", level + 1, full)
        return found

    def _is_kept(self, sink: Sink) -> bool:
        """Whether a later pass finds the value of a sink that was done, as it was computed."""
        if sink.kind == "temp":
            return True
        if sink.kind == "reduce" or sink.name == "p" or not sink.value.type.on_device:
            return False
        state = self.needs.rule.state(sink.name)
        same = self.needs.domain(sink.value) is domain_of(state.type, self.needs.view)
        return state.storage in LOSSLESS and same


def choose_passes(rule: Rule, variant: Levelled) -> tuple[Needs, Choice]:
    needs = Needs(rule, variant)
    return needs, Search(needs).best()
