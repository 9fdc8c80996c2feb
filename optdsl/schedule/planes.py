"""lay_planes: entries of a state that has one for each number of an axis, as states of p's size.

`past[t % 3] = g` of `state past: [3, *p]` touches a third of it. Where the host knows the number,
that entry lies in memory as a state of p's size does, only elsewhere in each step: a kernel reads
and writes it where it is, and nothing else of the state moves.

Input: a rule, its split. Output: the split, in whose variants such entries are states of their own,
its `planes`, and the whole state is gone. What is read of an entry behind an assignment is what was
assigned, behind one to an entry that may be another a choice between the two; so the planes of a
step's values are those before it, and which of two that prove to be one is written last is no
question: both get the same.
Relies on: nothing. What is not of p's size is kept as it is computed, so planes are.
Does not do: states of which anything but entries is used, or entries by numbers that a loop counts
(the library's work), the test that there is such an entry (the runtime's).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from optdsl.ir.coupling import in_loops
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Builder, Plane, Rule, StateDecl, Value, operands, reachable
from optdsl.ir.rewrite import rebuild, rewrite
from optdsl.passes.lay_blocks import in_rows
from optdsl.passes.variants import Split, Straight
from optdsl.schedule.plan import Domain, are_apart, domain_of
from optdsl.types import DType, Shape, Storage, Type, join_types


def lay_planes(rule: Rule, split: Split) -> None:
    """Gives the variants of `split` planes."""
    for variant in split.variants:
        for state in rule.states:
            entry = entry_type(state)
            if entry is not None and domain_of(entry, rule.view) is Domain.FULL:
                _Laying(rule, variant, state, entry).lay()


def seen_by(rule: Rule, variant: Straight) -> Rule:
    """`rule` with the states that `variant` knows."""
    own = in_rows(rule, variant.blocks)
    return replace(own, states=(*own.states, *variant.planes))


def in_wholes(rule: Rule, variant: Straight) -> Straight:
    """`variant` over the states of `rule` alone, of which planes are entries."""
    planes = {each.name: each.plane for each in variant.planes if each.plane is not None}
    builder = rule.builder

    def whole(plane: Plane) -> Value:
        state = rule.state(plane.state)
        return builder.make("state", (), state.type, state.span, name=state.name)

    def step(value: Value) -> Value:
        plane = planes.get(value.attr("name")) if value.op == "state" else None
        if plane is None:
            return value
        return builder.make("index", (whole(plane), plane.entry), value.type, value.span)

    shared = [value.args[0] for _, value in variant.contributions.values()]
    done = rewrite(builder, [*variant.outputs.values(), *shared], step)
    outputs: dict[str, Value] = {}
    for name, value in variant.outputs.items():
        plane = planes.get(name)
        if plane is None:
            outputs[name] = done[value]
            continue
        before = outputs.get(plane.state, whole(plane))
        args = before, plane.entry, done[value]
        outputs[plane.state] = builder.make("put_index", args, before.type, value.span)
    contributions = _over(builder, variant, done)
    return replace(variant, outputs=outputs, contributions=contributions, planes=())


def _over(
    builder: Builder, variant: Straight, done: dict[Value, Value]
) -> dict[str, tuple[str, Value]]:
    """The contributions of `variant` over rewritten operands."""
    return {
        slot: (op, rebuild(builder, value, (done[value.args[0]],)))
        for slot, (op, value) in variant.contributions.items()
    }


def entry_type(state: StateDecl) -> Type | None:
    """The type of one entry along the first axis of a state with such an axis before p's."""
    shape = state.type.shape
    if not shape.lead:
        return None
    return state.type.with_(shape=Shape(shape.lead[1:], shape.rows, shape.cols))


@dataclass
class _Laying:
    """The planes of one state in one variant, each of `type`. `chain` holds the old state and all
    that assignments of entries make of it; `known` what was read of an entry of one of these."""

    rule: Rule
    variant: Straight
    state: StateDecl
    type: Type
    chain: set[Value] = field(default_factory=set)
    planes: dict[Value, StateDecl] = field(default_factory=dict)
    known: dict[tuple[Value, Value], Value] = field(default_factory=dict)

    @property
    def builder(self) -> Builder:
        return self.rule.builder

    @property
    def roots(self) -> list[Value]:
        shared = self.variant.contributions.values()
        return [*self.variant.outputs.values(), *(value.args[0] for _, value in shared)]

    def lay(self) -> None:
        for value in reachable(self.roots):
            if self._extends(value):
                self.chain.add(value)
        if not self.chain or not self._reads_entries_alone():
            return
        done = rewrite(self.builder, self.roots, self._step)
        self.variant.contributions = _over(self.builder, self.variant, done)
        outputs: dict[str, Value] = {}
        for name, value in self.variant.outputs.items():
            if name != self.state.name:
                outputs[name] = done[value]
                continue
            for entry in _entries(done[value]):
                outputs[self._plane(entry).name] = self._read(done[value], entry)
        self.variant.outputs = outputs
        self.variant.planes = (*self.variant.planes, *self.planes.values())

    def _extends(self, value: Value) -> bool:
        """Whether `value` is the old state, or made of the chain by assignments of entries."""
        if value.op == "state":
            return bool(value.attr("name") == self.state.name)
        if value.op == "put_index":
            return value.args[0] in self.chain
        if value.op != "where" or domain_of(value.args[0].type, self.rule.view) is Domain.SHAPED:
            return False
        return self.chain.issuperset(value.args[1:])

    def _reads_entries_alone(self) -> bool:
        """Whether nothing else is made of the chain than the state's new value."""
        looping = in_loops(self.roots)
        outputs = dict(self.variant.outputs)
        new = outputs.pop(self.state.name, None)
        shared = self.variant.contributions.values()
        others = (*outputs.values(), *(value.args[0] for _, value in shared))
        users = [v for v in reachable(self.roots) if self.chain.intersection(operands(v))]
        return (
            (new is None or new in self.chain)
            and self.chain.isdisjoint(others)
            and looping.isdisjoint((*self.chain, *users))
            and all(self._is_entry(user) for user in users if user not in self.chain)
        )

    def _is_entry(self, user: Value) -> bool:
        return user.op == "index" and user.args[0] in self.chain

    # ------------------------------------------------------------ values

    def _step(self, value: Value) -> Value:
        if self._extends(value):  # over rewritten operands it is another value
            self.chain.add(value)
        return self._read(*value.args) if self._is_entry(value) else value

    def _read(self, whole: Value, entry: Value) -> Value:
        """The entry of `whole`, a value of the chain."""
        key = whole, entry
        if key not in self.known:
            self.known[key] = self._found(whole, entry)
        return self.known[key]

    def _found(self, whole: Value, entry: Value) -> Value:
        if whole.op == "state":
            name = self._plane(entry).name
            return self.builder.make("state", (), self.type, whole.span, name=name)
        if whole.op == "where":
            sides = (self._read(each, entry) for each in whole.args[1:])
            return self.builder.make("where", (whole.args[0], *sides), self.type, whole.span)
        base, at, value = whole.args
        if _normal(self.builder, at) is _normal(self.builder, entry):
            return value
        other = self._read(base, entry)
        if are_apart(at, entry):
            return other
        same = self._same(at, entry)
        return self.builder.make("where", (same, value, other), self.type, whole.span)

    def _same(self, one: Value, other: Value) -> Value:
        """Whether two entries are the same one."""
        pair = sorted((one, other), key=lambda each: each.id)
        whole = [self._whole(_normal(self.builder, each)) for each in pair]
        type_ = join_types([each.type for each in whole], DType.BOOL)
        assert type_ is not None
        return self.builder.make("eq", whole, type_, pair[1].span)

    def _whole(self, entry: Value) -> Value:
        """The number that counts: that of 1.5 is 1."""
        if entry.type.dtype is DType.INT:
            return entry
        return self.builder.make("floor", (entry,), entry.type, entry.span)

    # ------------------------------------------------------------ planes

    def _plane(self, entry: Value) -> StateDecl:
        entry = _normal(self.builder, entry)
        if entry not in self.planes:
            self.planes[entry] = StateDecl(
                *(self._name(entry), self.state.key, self.type, Storage.COMPUTE, None),
                *(self.state.birth, self.state.scope, self.state.span),
                Plane(self.state.name, entry),
            )
        return self.planes[entry]

    def _name(self, entry: Value) -> str:
        """A readable name: m_0, m_cluster; past_entry for what has no name."""
        hint = entry.attr("name") if entry.op == "hyper" else entry.name or "entry"
        number = _number(entry) if is_const(entry) else hint
        base = re.sub(r"\W", "_", f"{self.state.name}_{number}")
        states = (*self.rule.states, *self.variant.planes, *self.planes.values())
        taken = {"p", "g", *(e.name for e in states), *(e.name for e in self.rule.inputs)}
        name, count = base, 2
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        return name


def _entries(value: Value) -> Iterator[Value]:
    """The entries that a value of a chain assigns, the first ones first."""
    if value.op == "put_index":
        yield from _entries(value.args[0])
        yield value.args[1]
    elif value.op == "where":
        for side in value.args[1:]:
            yield from _entries(side)


def _normal(builder: Builder, entry: Value) -> Value:
    """`entry`, of a literal the whole number that it stands for."""
    return builder.const(_number(entry), entry.span) if is_const(entry) else entry


def _number(entry: Value) -> int:
    return int(entry.attr("value"))
