"""find_needs: what the FULL passes of a variant must do, and between which stages.

Input: one levelled variant. Output: `Needs`: its sinks (states and p to be stored, sums to be
taken, values to be handed to the library), each with the first and the last stage that can have it;
what lies in memory for whoever reads it. Relies on: levels. Does not do: choose (search.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from optdsl.ir.nodes import Rule, Value, operands, reachable
from optdsl.ops import OPS
from optdsl.passes.variants import STATISTICS
from optdsl.schedule.levels import SMALL, WIDE, Levelled
from optdsl.schedule.plan import Domain, are_apart, domain_of


@dataclass(frozen=True)
class Sink:
    """Something a FULL pass must do: `kind` is store (of an output), reduce (of a slot) or temp."""

    kind: str
    name: str
    value: Value
    earliest: int
    latest: int


@dataclass
class Needs:
    """What FULL passes of one variant are for."""

    rule: Rule
    variant: Levelled

    @property
    def view(self) -> str:
        return self.rule.view

    def domain(self, value: Value) -> Domain:
        return domain_of(value.type, self.view)

    @cached_property
    def rivals(self) -> dict[str, frozenset[str]]:
        """By state, and for p: what may lie where it lies. Of planes of one state that is known in
        each step only, unless their numbers are literals."""
        planes = {each.name: each.plane for each in self.rule.states if each.plane is not None}
        alone = {name: frozenset([name]) for name in ("p", *(s.name for s in self.rule.states))}
        return alone | {
            name: frozenset(
                other
                for other, its in planes.items()
                if its.state == own.state and not are_apart(its.entry, own.entry)
            )
            for name, own in planes.items()
        }

    @cached_property
    def users(self) -> dict[Value, list[Value]]:
        users: dict[Value, list[Value]] = {}
        for value in reachable([*self.variant.roots]):
            for arg in operands(value):
                users.setdefault(arg, []).append(value)
        return users

    def readers(self, value: Value) -> list[Value]:
        """The users of `value`, with those in the library of a view that is taken of it there."""
        found: list[Value] = []
        for user in self.users.get(value, []):
            found.append(user)
            if user in self.variant.library and OPS[user.op].view:
                found += [each for each in self.readers(user) if each in self.variant.library]
        return found

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
            # A view is taken anew in each pass, of what lies in memory.
            at = self.last_level if OPS[value.op].view else level[value]
            outside = any(user not in library or level[user] > at for user in self.readers(value))
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
        level, outputs = self.variant.level, self.variant.outputs
        new = [outputs[each] for each in self.rivals[value.attr("name")] if each in outputs]
        last = max((level[user] for user in self.readers(value)), default=0)
        return all(each is value or level[each] >= last for each in new)

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
                first, last = self.ready(operand), self._needed(slot) - 1
                if slot in variant.shared:  # with tensors of other variants: in the stage of all
                    first = last = variant.behind(slot)
                sinks.append(Sink("reduce", slot, operand, first, last))
        last = max([0, *(s.earliest for s in sinks), *(s.latest for s in sinks)])
        stores = [(n, v) for n, v in variant.outputs.items() if self._stored_wide(n, v)]
        # Until the model has been evaluated p keeps its place, since others are evaluated with it,
        # and states their values, since a closure may fail. What the library reads lies in memory
        # until it has: its passes stand behind the kernels' of their stage.
        free = self._read_until
        earliest = [max(self.ready(v), variant.settled, free.get(n, 0)) for n, v in stores]
        last = max([last, *earliest])
        for (name, value), first in zip(stores, earliest, strict=True):
            sinks.append(Sink("store", name, value, first, last))
        return [_ordered(sink) for sink in sinks]

    @cached_property
    def _read_until(self) -> dict[str, int]:
        """The first stage in which p, or a state, may be overwritten, if the library reads it."""
        free: dict[str, int] = {}
        library = self.variant.library
        for value in self.variant.level:
            if value.op in ("param", "state"):
                name = "p" if value.op == "param" else str(value.attr("name"))
                read = [self.variant.level[u] for u in self.readers(value) if u in library]
                for each in self.rivals[name]:
                    free[each] = max([free.get(each, 0), *(level + 1 for level in read)])
        return free

    def _stored_wide(self, name: str, value: Value) -> bool:
        if name == "p":
            return True
        return (
            not name.startswith("report ")
            and domain_of(self.rule.state(name).type, self.view) in WIDE
        )

    def _needed(self, slot: str) -> int:
        """The first stage at which something is computed from a slot's result."""
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


def _ordered(sink: Sink) -> Sink:
    return Sink(sink.kind, sink.name, sink.value, sink.earliest, max(sink.earliest, sink.latest))
