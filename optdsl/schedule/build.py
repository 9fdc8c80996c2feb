"""build_variant: a choice of stages as the passes of a plan.

Input: a levelled variant and its `Choice`. Output: `plan.Variant`: kernel passes over FULL
values, small passes (columns, parameters, groups, the run), library passes; every value written
over the plan's leaves. States smaller than a row are written in a last stage of their own, when
nobody reads them any more.

Relies on: needs, search. Does not do: any choice; texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from optdsl.ir.coupling import EVALUATIONS, couples, device_operands
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import LoopBody, Rule, Value, operands, reachable
from optdsl.ops import OPS, Kind
from optdsl.schedule.drawn import drawn_from
from optdsl.schedule.levels import SMALL, Levelled, closes_in_row
from optdsl.schedule.needs import Needs, Sink
from optdsl.schedule.plan import (
    Buffer,
    Domain,
    Entry,
    Join,
    KernelPass,
    LibraryPass,
    ModelPass,
    Pass,
    Phase,
    Reduction,
    Store,
    Variant,
    domain_of,
)
from optdsl.schedule.scalars import ScalarTable
from optdsl.schedule.search import Choice
from optdsl.types import DType, Instances, Place, Shape, Storage, Type

REPORT = "report "
LEAVES = {"param": "p", "grad": "g"}


@dataclass
class VariantBuilder:
    """Writes one variant. `prefix` begins the names of its kernels."""

    rule: Rule
    index: int
    prefix: str
    variant: Levelled
    needs: Needs
    choice: Choice
    path: tuple[tuple[Value, bool], ...]
    slots: dict[str, Domain]
    temps: dict[Value, str] = field(default_factory=dict)
    stored_as: dict[Value, str] = field(default_factory=dict)
    used: dict[str, Buffer] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scalars = ScalarTable(self.rule.builder)

    def domain(self, value: Value) -> Domain:
        return domain_of(value.type, self.rule.view)

    def build(self) -> Variant:
        self._name_slots()
        self._name_temps()
        passes: list[Pass] = []
        level = self.variant.level
        after = [level[v] + 1 for v in self.variant.library if v in level]
        last = max([self.needs.stages, *after])
        for stage in range(last):
            passes.extend(self._full_pass(stage))
            passes.extend(self._small_reductions(stage))
            passes.extend(self._library_pass(stage))
        last = max(last, self.variant.settled)
        passes.extend(self._small_stores(last))
        passes.extend(self._reports(last))
        between = self._between()
        touched = {each.entry.state if each.entry else each.name for each in self.used.values()}
        states = tuple(s.name for s in self.rule.states if s.name in touched and s.plane is None)
        return Variant(
            self.index,
            self.path,
            self._buffers(),
            tuple(passes),
            tuple(self.scalars.values),
            states,
            *between,
        )

    def _between(self) -> tuple[tuple[ModelPass, ...], tuple[Join, ...]]:
        """The evaluations of the model, and the reductions whose results no kernel can hold, that
        this variant's parameters take part in."""
        models, joins = [], []
        for slot, value in sorted(self.variant.between.items()):
            point, stage = value.args[0], self.variant.behind(slot)
            buffer = self.buffer(self.temps[point], point) if point in self.temps else None
            if value.op in EVALUATIONS:
                models.append(ModelPass(stage, value.op, slot, buffer))
            else:
                assert buffer is not None
                k = dict(value.attrs).get("k")
                joins.append(Join(stage, value.op, slot, buffer, value.attr("over"), k))
        return tuple(sorted(models, key=lambda each: each.stage)), tuple(joins)

    # ------------------------------------------------------------ names

    def _name_slots(self) -> None:
        """One slot table for all variants: equal names must have equal domains."""
        for slot, value in self.variant.reductions.items():
            domain, name = self.domain(value), slot
            if self.slots.get(name, domain) is not domain:
                name = f"{slot}_v{self.index}"
            self.slots[name] = domain
            self.renamed[slot] = name

    def _name_temps(self) -> None:
        taken = {"p", "g", *(s.name for s in self.rule.states), *(i.name for i in self.rule.inputs)}
        values = [*self.choice.temps, *self.needs.handed_over, *self.needs.library_outputs]
        for value in dict.fromkeys(values):
            base = re.sub(r"\W", "_", value.name or "temp")
            name, count = (f"{base}_batch" if value.name else base), 2
            while name in taken:
                name, count = f"{base}_batch{count}", count + 1
            taken.add(name)
            self.temps[value] = name
        for sink in self.choice.stage:
            if sink.kind == "store" and sink.name != "p":
                self.stored_as.setdefault(sink.value, sink.name)

    def _buffers(self) -> tuple[Buffer, ...]:
        """p, g, the states as they are declared, then the rest."""
        order = ["p", "g", *(state.name for state in self.rule.states)]
        rank = {name: position for position, name in enumerate(order)}
        return tuple(sorted(self.used.values(), key=lambda each: rank.get(each.name, len(order))))

    def buffer(self, name: str, value: Value) -> str:
        """Note that the variant touches a buffer."""
        if name in self.used:
            return name
        shape = value.type.shape.dims
        domain, storage, role = self.domain(value), Storage.COMPUTE, "temp"
        entry: Entry | None = None
        if name in ("p", "g"):
            role, storage = ("param" if name == "p" else "grad"), Storage.PARAM
        elif any(state.name == name for state in self.rule.states):
            state = self.rule.state(name)
            role, storage, shape = "state", state.storage, state.type.shape.dims
            domain = domain_of(state.type, self.rule.view)
            if state.plane is not None:
                role = "plane"
                number = state.plane.entry
                place = None if is_const(number) else self.scalars.place(number)
                entry = Entry(state.plane.state, number, place)
        elif any(each.name == name for each in self.rule.inputs):
            role = "input"
        self.used[name] = Buffer(name, role, domain, storage, shape, entry)
        return name

    # ------------------------------------------------------------ values over plan leaves

    def leaf(self, value: Value, name: str) -> Value:
        made = self.rule.builder.make(
            "load", (), value.type, value.span, buffer=self.buffer(name, value)
        )
        made.name = made.name or name
        return self._scaled(made) if name == "g" else made

    def _scaled(self, load: Value) -> Value:
        """The gradient as the rule sees it: `maximize` and a gradient scaler cost a product of what
        is in a register already, which is exact where the factor is 1."""
        type_ = Type(Instances.GROUP, Shape(), Place.HOST, DType.REAL)
        factor = self.scalars.leaf(self.rule.builder.make("g_scale", (), type_))
        made = self.rule.builder.make("mul", (load, factor), load.type, load.span)
        made.name = "g"
        return made

    def over_leaves(self, value: Value, known: dict[Value, Value]) -> Value:
        """`value` over plan leaves; `known` holds what is loaded or computed already."""
        stack = [value]
        while stack:
            each = stack[-1]
            below = [a for a in device_operands(each) if a not in known]
            if each not in known and below:
                stack.extend(reversed(below))  # a host value is one number, whatever it is made of
                continue
            if each not in known:
                known[each] = self._over_leaf(each, known)
            stack.pop()
        return known[value]

    def _over_leaf(self, value: Value, known: dict[Value, Value]) -> Value:
        if not value.type.on_device:
            return self.scalars.leaf(value)
        if value.op in (*LEAVES, "state", "input", "evaluated"):
            return self.leaf(value, self._buffer_of(value))
        if value.op == "result":
            slot = self.renamed.get(value.attr("slot"), value.attr("slot"))
            return self.rule.builder.make("result", (), value.type, value.span, slot=slot)
        if value.op == "loop":
            return self._loop(value, known)
        args = tuple(known[arg] for arg in device_operands(value))
        if OPS[value.op].kind is Kind.RANDOM and value not in self.variant.library:
            args = drawn_from(value, self.scalars)
        attrs = dict(value.attrs)
        if couples(value):
            attrs["scope"] = ()  # who runs this pass executes the statement
        made = self.rule.builder.make(value.op, args, value.type, value.span, **attrs)
        made.name = made.name or value.name
        return made

    def _loop(self, value: Value, known: dict[Value, Value]) -> Value:
        body: LoopBody = value.attr("body")
        results = tuple(self.over_leaves(each, known) for each in body.results)
        until = None if body.until is None else self.over_leaves(body.until, known)
        info = replace(body, results=results, until=until)
        args = tuple(known[arg] for arg in value.args)
        return self.rule.builder.make("loop", args, value.type, value.span, body=info)

    # ------------------------------------------------------------ FULL passes

    def _full_pass(self, stage: int) -> list[Pass]:
        sinks = [sink for sink, at in self.choice.stage.items() if at == stage]
        temps = [value for value in self.choice.temps if self.needs.ready(value) == stage]
        if not sinks and not temps:
            return []
        loads = self.choice.loads[stage]
        values = [*(s.value for s in sinks), *temps]
        inside = self._slice(values, loads)
        phase = self._phases(inside, loads)
        last = max([phase[value] for value in values])
        known = {
            value: self.leaf(value, self._buffer_of(value))
            for value in sorted(loads, key=lambda each: each.id)
        }
        rows: list[list[Reduction]] = [[] for _ in range(last + 1)]
        for value in inside:
            if value not in known and closes_in_row(value, self.rule.view):
                operand = self.over_leaves(value.args[0], known)
                name = (
                    f"row_{value.op.removesuffix('_of')}{len([r for p in rows for r in p]) or ''}"
                )
                rows[phase[value.args[0]]].append(Reduction(name, value.op, operand, Domain.ROW))
                known[value] = self.rule.builder.make(
                    "row_result", (), value.type, value.span, slot=name
                )
        partials: list[list[Reduction]] = [[] for _ in range(last + 1)]
        stores: list[Store] = []
        for sink in sinks:
            value = self.over_leaves(sink.value, known)
            if sink.kind == "reduce":
                reduction = self.variant.reductions[sink.name]
                partials[phase[sink.value]].append(
                    Reduction(self.renamed[sink.name], reduction.op, value, self.domain(reduction))
                )
            else:
                name = sink.name or self.temps[sink.value]
                stores.append(Store(self.buffer(name, sink.value), value))
        stores += [Store(self.buffer(self.temps[v], v), self.over_leaves(v, known)) for v in temps]
        phases = tuple(
            Phase(tuple(rows[i]), tuple(partials[i]), tuple(stores) if i == last else ())
            for i in range(last + 1)
        )
        layout = "rows" if self._needs_rows(inside, sinks) else "flat"
        return [
            KernelPass(stage, self._kernel_name(stage, Domain.FULL), Domain.FULL, layout, phases)
        ]

    def _buffer_of(self, value: Value) -> str:
        """Where a loaded value lies."""
        if value.op in LEAVES:
            return LEAVES[value.op]
        if value.op in ("state", "input"):
            return str(value.attr("name"))
        if value.op == "evaluated":
            return str(value.attr("slot"))
        return self.temps.get(value) or self.stored_as[value]

    def _slice(self, values: list[Value], loads: frozenset[Value]) -> list[Value]:
        """What a pass computes, operands first: everything down to its loads."""
        order: list[Value] = []
        seen: set[Value] = set()
        stack = [(value, False) for value in reversed(values)]
        while stack:
            value, done = stack.pop()
            if done:
                order.append(value)
            elif value not in seen:
                seen.add(value)
                stack.append((value, True))
                if value not in loads:
                    stack.extend((arg, False) for arg in reversed(value.args))
        return order

    def _phases(self, inside: list[Value], loads: frozenset[Value]) -> dict[Value, int]:
        phase: dict[Value, int] = {}
        for value in inside:
            if value in loads:
                phase[value] = 0
                continue
            below = max((phase[arg] for arg in value.args), default=0)
            phase[value] = below + (1 if closes_in_row(value, self.rule.view) else 0)
        return phase

    def _needs_rows(self, inside: list[Value], sinks: list[Sink]) -> bool:
        if self.rule.view == "flat":
            return False
        apart = {Domain.ROW, Domain.COL, Domain.MATRIX}
        results = [self.variant.reductions[s.name] for s in sinks if s.kind == "reduce"]
        stored = [
            self.rule.state(s.name).type for s in sinks if s.kind == "store" and s.name != "p"
        ]
        return any(
            v.type.on_device and self.domain(v) in apart for v in [*inside, *results]
        ) or any(domain_of(type_, self.rule.view) in apart for type_ in stored)

    def _kernel_name(self, stage: int, domain: Domain) -> str:
        # Always with a number: a rule may be called Sqrt or Double, which mean something in C.
        name = f"{self.prefix}_{stage}"
        return name if domain is Domain.FULL else f"{name}_{domain}"

    # ------------------------------------------------------------ small passes

    def _small_reductions(self, stage: int) -> list[Pass]:
        by_domain: dict[Domain, list[Reduction]] = {}
        for slot, reduction in self.variant.reductions.items():
            operand = reduction.args[0]
            domain = self.domain(operand)
            if domain in SMALL and self.needs.ready(operand) == stage:
                value = self._small(operand)
                by_domain.setdefault(domain, []).append(
                    Reduction(self.renamed[slot], reduction.op, value, self.domain(reduction))
                )
        return [
            KernelPass(
                stage,
                self._kernel_name(stage, domain),
                domain,
                "flat",
                (Phase(partials=tuple(reductions)),),
            )
            for domain, reductions in by_domain.items()
        ]

    def _small_stores(self, stage: int) -> list[Pass]:
        by_domain: dict[Domain, list[Store]] = {}
        for name, value in self.variant.outputs.items():
            if name == "p" or name.startswith(REPORT):
                continue
            state = self.rule.state(name)
            domain = domain_of(state.type, self.rule.view)
            if domain in SMALL:
                self.buffer(name, value)
                by_domain.setdefault(domain, []).append(Store(name, self._small(value)))
        return [
            KernelPass(
                stage,
                self._kernel_name(stage, domain),
                domain,
                "flat",
                (Phase(stores=tuple(stores)),),
            )
            for domain, stores in by_domain.items()
        ]

    def _reports(self, stage: int) -> list[Pass]:
        """One pass for each report: of the variants that have it, the first one's counts."""
        found: list[Pass] = []
        for name, value in self.variant.outputs.items():
            if not name.startswith(REPORT):
                continue
            buffer = report_buffer(name.removeprefix(REPORT))
            domain = self.domain(value)
            store = Store(self.buffer(buffer, value), self._small(value))
            kernel = f"{self.prefix}_{stage}_{buffer}"
            found.append(KernelPass(stage, kernel, domain, "flat", (Phase(stores=(store,)),)))
        return found

    def _small(self, value: Value) -> Value:
        known = {
            v: self.leaf(v, name) for v, name in self.temps.items() if v in self.variant.library
        }
        return self.over_leaves(
            value, {v: k for v, k in known.items() if v is not value or v in self.temps}
        )

    # ------------------------------------------------------------ library passes

    def _library_pass(self, stage: int) -> list[Pass]:
        outputs: list[Store] = []
        level = self.variant.level
        known: dict[Value, Value] = {}
        for value, name in self.temps.items():
            if value not in self.variant.library or level[value] < stage:
                known[value] = self.leaf(value, name)
        wanted = [(self.temps[v], v) for v in self.needs.library_outputs if level[v] == stage]
        wanted += [
            (name, value)
            for name, value in self.variant.outputs.items()
            if name != "p"
            and not name.startswith(REPORT)
            and domain_of(self.rule.state(name).type, self.rule.view) is Domain.SHAPED
            and level[value] == stage
        ]
        for name, value in wanted:
            for outer in self._free_in_loops(value):
                self.over_leaves(outer, known)
            outputs.append(Store(self.buffer(name, value), self.over_leaves(value, known)))
        if not outputs:
            return []
        return [LibraryPass(stage, f"{self.prefix}_library_{stage}", tuple(outputs))]

    def _free_in_loops(self, value: Value) -> list[Value]:
        """What loops under `value` read from outside; worked out before them."""
        bodies = [v for v in reachable([value]) if v.op == "loop"]
        return [arg for loop in bodies for arg in operands(loop) if self._is_outside(arg)]

    def _is_outside(self, value: Value) -> bool:
        return not any(each.op == "loop_arg" for each in reachable([value]))


def report_buffer(name: str) -> str:
    """The buffer that a report lies in."""
    return f"report_{name}"
