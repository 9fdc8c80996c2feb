"""choose_passes: when each write and reduction happens, and what is stored on the way, by bytes.

Input: one levelled variant. Output: a `Choice`: the stage of every sink, the temporaries, and
for each stage what its pass loads. Loads are minimum cuts (cut.py), so that the choice between
recomputing and storing, the pass of each write and the pass of each reduction are one search:
exhaustive where there are at most `EXHAUSTIVE` combinations, else one sink after another until
nothing improves. Ties recompute, and write as late as possible.

Bytes are those of a float32 parameter; a row's or column's number counts for almost nothing.
Relies on: levels. Does not do: texts, buffers' names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from optdsl.ir.nodes import Rule, Value, operands, reachable
from optdsl.passes.variants import STATISTICS
from optdsl.schedule.cut import cheapest_loads
from optdsl.schedule.levels import SMALL, WIDE, Levelled, closes_in_row
from optdsl.schedule.plan import Domain, domain_of
from optdsl.types import STORAGE_BYTES, Storage

EXHAUSTIVE = 4096
SMALL_BYTES = 2.0**-7
"""Bytes per parameter that a row's number counts as: 4 bytes over 512 columns."""
PHASE_BYTES = 2.0**-10
"""What one more visit of a tile in cache counts as, so that a row's sum is not taken twice for
nothing."""
EXACT = (Storage.COMPUTE, Storage.FLOAT32)
"""Storages that give back what was stored: only these are loaded again in the step."""


@dataclass(frozen=True)
class Sink:
    """Something a FULL pass must do: `kind` is store (of an output), reduce (of a slot) or temp."""

    kind: str
    name: str
    value: Value
    earliest: int
    latest: int


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
    rule: Rule
    variant: Levelled
    cache: dict[
        tuple[frozenset[Value], frozenset[Value]], tuple[frozenset[Value], float] | None
    ] = field(default_factory=dict)

    @property
    def view(self) -> str:
        return self.rule.view

    def domain(self, value: Value) -> Domain:
        return domain_of(value.type, self.view)

    @cached_property
    def users(self) -> dict[Value, list[Value]]:
        users: dict[Value, list[Value]] = {}
        for value in reachable([*self.variant.roots]):
            for arg in operands(value):
                users.setdefault(arg, []).append(value)
        return users

    def ready(self, value: Value) -> int:
        """The first stage whose kernel pass can use `value`."""
        return self.variant.level[value] + (1 if value in self.variant.library else 0)

    @cached_property
    def points(self) -> dict[Value, int]:
        """Where the model is evaluated and what is joined between stages, with the first stage
        behind which it is. The parameters themselves need not be stored."""
        found: dict[Value, int] = {}
        for slot, value in self.variant.between.items():
            point, at = value.args[0], self.variant.behind(slot)
            if point.op != "param" or value.op in STATISTICS:
                found[point] = min(at, found.get(point, at))
        return found

    @cached_property
    def handed_over(self) -> list[Value]:
        """Values of kernels that the library reads, or at which the model is evaluated, and that
        are not in memory anyway. A state is copied: its new value may be stored before."""
        found = [value for value in self.points if value not in self.variant.library]
        for value in reachable(self.variant.roots):
            if value in self.variant.library or not value.type.on_device or value in found:
                continue
            if value.op in ("param", "grad", "state", "input", "result", "evaluated"):
                continue
            if self.domain(value) in WIDE and any(
                u in self.variant.library for u in self.users.get(value, [])
            ):
                found.append(value)
        return found

    @cached_property
    def library_outputs(self) -> list[Value]:
        """What library passes leave for kernels and for later library passes."""
        library, level = self.variant.library, self.variant.level
        reduced = {value.args[0] for value in self.variant.reductions.values()}
        wanted = []
        for value in reachable(self.variant.roots, into_loops=False):
            if value not in library or value.op == "loop" or self._stays(value):
                continue
            users = self.users.get(value, [])
            outside = any(user not in library or level[user] > level[value] for user in users)
            outside = outside or value in self.points
            final = any(
                value is v and self.domain(v) is not Domain.SHAPED
                for v in self.variant.outputs.values()
            )
            if outside or final or value in reduced:
                wanted.append(value)
        return wanted

    def _stays(self, value: Value) -> bool:
        """Whether a value lies in memory unchanged for as long as library passes read it."""
        if value.op != "state":
            return value.op in ("input", "evaluated")
        level = self.variant.level
        new = self.variant.outputs.get(value.attr("name"))
        last = max((level[user] for user in self.users.get(value, [])), default=0)
        return new is None or new is value or level[new] >= last

    @cached_property
    def sinks(self) -> list[Sink]:
        """What FULL passes must do. Sinks of smaller domains cost nothing and are placed by
        build.py."""
        variant = self.variant
        sinks: list[Sink] = []
        for value in self.handed_over:
            stages = [variant.level[u] for u in self.users.get(value, []) if u in variant.library]
            stages += [self.points[value]] if value in self.points else []
            sinks.append(Sink("temp", "", value, self.ready(value), min(stages)))
        for slot, reduction in variant.reductions.items():
            operand = reduction.args[0]
            if self.domain(operand) in WIDE:
                sinks.append(
                    Sink("reduce", slot, operand, self.ready(operand), self._needed(slot) - 1)
                )
        last = max([0, *(s.earliest for s in sinks), *(s.latest for s in sinks)])
        stores = [(n, v) for n, v in variant.outputs.items() if self._stored_wide(n, v)]
        # Until the model has been evaluated p keeps its place, since others are evaluated with it,
        # and states their values, since a closure may fail.
        earliest = [max(self.ready(value), variant.settled) for _, value in stores]
        last = max([last, *earliest])
        for (name, value), first in zip(stores, earliest, strict=True):
            sinks.append(Sink("store", name, value, first, last))
        return [_ordered(sink) for sink in sinks]

    def _stored_wide(self, name: str, value: Value) -> bool:
        if name == "p":
            return True
        return (
            not name.startswith("report ")
            and domain_of(self.rule.state(name).type, self.view) in WIDE
        )

    def _needed(self, slot: str) -> int:
        """The first stage at which something is computed from a slot's result."""
        if slot in self.variant.shared:
            return max(
                [
                    1,
                    *(
                        self.variant.level[v]
                        for v in self.variant.level
                        if v.op == "result" and v.attr("slot") == slot
                    ),
                ]
            )
        results = [v for v in self.variant.level if v.op == "result" and v.attr("slot") == slot]
        stages = [self._first_use(value) for value in results]
        return min(stages, default=1)

    def _first_use(self, value: Value) -> int:
        """The first stage that needs `value`; a number worked out from it may wait for its own
        user."""
        stages = []
        for user in self.users.get(value, []):
            small = user not in self.variant.library and self.domain(user) in SMALL
            stages.append(self._first_use(user) if small else self.variant.level[user])
        if value in self._reduced:
            stages.append(self.variant.level[value])
        return min(stages, default=self.last_level)

    @cached_property
    def _reduced(self) -> set[Value]:
        return {reduction.args[0] for reduction in self.variant.reductions.values()}

    @cached_property
    def last_level(self) -> int:
        return max(self.variant.level.values(), default=1)

    @cached_property
    def stages(self) -> int:
        return 1 + max([0, *(sink.latest for sink in self.sinks)])

    # ------------------------------------------------------------ cost

    def cost(self, stage: dict[Sink, int], temps: tuple[Value, ...]) -> Choice | None:
        loads: list[frozenset[Value]] = []
        total = 0.0
        for number in range(self.stages):
            wanted = frozenset(
                [s.value for s, at in stage.items() if at == number]
                + [v for v in temps if self.ready(v) == number]
            )
            resident = self._resident(number, stage, temps)
            key = (wanted, frozenset(resident))
            if key not in self.cache:
                self.cache[key] = cheapest_loads(wanted, resident, self._below)
            found = self.cache[key]
            if found is None:
                return None
            loads.append(found[0])
            total += found[1] + PHASE_BYTES * self._closings(wanted, found[0])
        total += sum(self.stored_bytes(sink) for sink in stage)
        total += sum(self._bytes(value, Storage.COMPUTE) for value in temps)
        return Choice(dict(stage), temps, loads, total)

    def _closings(self, wanted: frozenset[Value], loads: frozenset[Value]) -> int:
        """How many sums over a row a pass closes: each is one more visit of the tile, in cache."""
        seen: set[Value] = set()
        stack = list(wanted)
        while stack:
            value = stack.pop()
            if value not in seen:
                seen.add(value)
                stack.extend(() if value in loads else self._below(value))
        return sum(closes_in_row(value, self.view) for value in seen - loads)

    def _below(self, value: Value) -> tuple[Value, ...]:
        """What a kernel computes `value` from; the library's values are loaded or not there."""
        return () if value in self.variant.library else value.args

    def _bytes(self, value: Value, storage: Storage) -> float:
        domain = self.domain(value)
        return STORAGE_BYTES[storage] if domain is Domain.FULL else SMALL_BYTES

    def stored_bytes(self, sink: Sink) -> float:
        if sink.kind == "reduce":
            return 0.0
        storage = Storage.COMPUTE
        if sink.kind == "store" and sink.name != "p":
            state = self.rule.state(sink.name)
            storage = state.storage
            if domain_of(state.type, self.view) is not Domain.FULL:
                return SMALL_BYTES
            return STORAGE_BYTES[storage]
        return self._bytes(sink.value, storage) if sink.name != "p" else STORAGE_BYTES[storage]

    def _resident(
        self, number: int, stage: dict[Sink, int], temps: tuple[Value, ...]
    ) -> dict[Value, float]:
        """What lies in memory when the pass of stage `number` begins, with the bytes of loading
        it."""
        written = {sink.name: at for sink, at in stage.items() if sink.kind == "store"}
        resident: dict[Value, float] = {}
        for value in self.variant.level:
            if (
                value.op in ("param", "grad", "state", "input")
                and self.domain(value) is not Domain.SHAPED
            ):
                name = {"param": "p", "grad": ""}.get(value.op) or (
                    value.attr("name")
                    if value.op == "state"
                    else "p"
                    if value.op == "param"
                    else ""
                )
                if number <= written.get(name, number):
                    storage = (
                        self.rule.state(name).storage if value.op == "state" else Storage.COMPUTE
                    )
                    resident[value] = self._bytes(value, storage)
            elif value.op == "evaluated":
                if number >= self.variant.level[value]:
                    resident[value] = self._bytes(value, Storage.COMPUTE)
            elif (
                value in self.variant.library
                and self.domain(value) is not Domain.SHAPED
                and number > self.variant.level[value]
            ):
                resident[value] = self._bytes(value, Storage.COMPUTE)
        for sink, at in stage.items():
            if number <= at or sink.kind == "reduce" or not sink.value.type.on_device:
                continue
            if sink.kind == "temp" or (
                sink.name != "p"
                and self.rule.state(sink.name).storage in EXACT
                and self.domain(sink.value) is domain_of(self.rule.state(sink.name).type, self.view)
            ):
                resident.setdefault(sink.value, self._bytes(sink.value, Storage.COMPUTE))
        for value in temps:
            if number > self.ready(value):
                resident.setdefault(value, self._bytes(value, Storage.COMPUTE))
        return resident

    # ------------------------------------------------------------ search

    def best(self) -> Choice:
        if self.stages == 1:
            only = self.cost(dict.fromkeys(self.sinks, 0), ())
            assert only is not None
            return only
        best = self._best_stages(())
        assert best is not None, "no order of passes computes this rule"
        for extra in self._temp_candidates():
            trial = self._best_stages((*best.temps, extra))
            if trial is not None and trial.bytes < best.bytes - 1e-6:
                best = trial
        return best

    def _temp_candidates(self) -> list[Value]:
        """Full values that are computed before the last stage and used in a later one."""
        return [
            value
            for value, level in self.variant.level.items()
            if self.domain(value) is Domain.FULL
            and value.type.on_device
            and value.args
            and value not in self.variant.library
            and value not in self.handed_over
            and level < self.stages - 1
        ]

    def _best_stages(self, temps: tuple[Value, ...]) -> Choice | None:
        count = 1
        for sink in self.sinks:
            count *= sink.latest - sink.earliest + 1
        if count <= EXHAUSTIVE:
            return _cheapest(
                self.cost(dict(zip(self.sinks, s, strict=True)), temps) for s in self._all()
            )
        stage = {
            sink: sink.earliest if sink.kind == "reduce" else sink.latest for sink in self.sinks
        }
        best = self.cost(stage, temps)
        improved = True
        while improved:
            improved = False
            for sink in self.sinks:
                for at in range(sink.latest, sink.earliest - 1, -1):
                    trial = self.cost({**stage, sink: at}, temps)
                    if trial is not None and (best is None or trial.bytes < best.bytes - 1e-6):
                        best, stage, improved = trial, trial.stage, True
        return best

    def _all(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*(range(s.latest, s.earliest - 1, -1) for s in self.sinks))


def _ordered(sink: Sink) -> Sink:
    return Sink(sink.kind, sink.name, sink.value, sink.earliest, max(sink.earliest, sink.latest))


def _cheapest(choices: Iterator[Choice | None]) -> Choice | None:
    best: Choice | None = None
    for each in choices:
        if each is not None and (best is None or each.bytes < best.bytes - 1e-6):
            best = each
    return best


def choose_passes(rule: Rule, variant: Levelled) -> tuple[Search, Choice]:
    search = Search(rule, variant)
    return search, search.best()
