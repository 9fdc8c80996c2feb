"""The parts of plans that are written by hand: values by short names, buffers, kernel passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from optdsl.ir.nodes import (
    AttributeDecl,
    Builder,
    Hyper,
    Requirement,
    Rule,
    StateDecl,
    Value,
)
from optdsl.ops import OPS, Kind, Result
from optdsl.schedule.plan import (
    Buffer,
    Domain,
    KernelPass,
    Pass,
    Phase,
    Plan,
    Reduction,
    Variant,
)
from optdsl.source import Source, Span
from optdsl.types import BATCH, DType, Instances, Place, Shape, Storage, Type, join_types

Operand = Value | float | int


def shape_of(domain: Domain, view: str) -> Shape:
    """The type's shape of a value of `domain` under `view`."""
    lead = (BATCH,) if view == "last" else ()
    return {
        Domain.FULL: Shape(lead, "rows", "cols"),
        Domain.ROW: Shape(lead, "rows", 1),
        Domain.COL: Shape(lead, 1, "cols"),
        Domain.MATRIX: Shape(lead, 1, 1),
    }.get(domain, Shape())


def type_of(domain: Domain, view: str) -> Type:
    instances = {Domain.GROUP: Instances.GROUP, Domain.ALL: Instances.RUN}
    return Type(
        instances.get(domain, Instances.PARAM),
        shape_of(domain, view),
        Place.DEVICE,
        DType.REAL,
    )


@dataclass
class Sketch:
    """Builds a rule's values by short names; `at(line)` gives the next ones their place."""

    name: str
    text: str
    view: str = "rows"
    builder: Builder = field(default_factory=Builder)
    scalars: list[Value] = field(default_factory=list)
    slots: dict[str, Domain] = field(default_factory=dict)
    line: int = 1

    def __post_init__(self) -> None:
        self.source = Source(f"{self.name.lower()}.opt", self.text)

    def at(self, line: int) -> Sketch:
        self.line = line
        return self

    @property
    def span(self) -> Span:
        start = self.source.line_starts[self.line - 1]
        return Span(self.source, start, start + len(self.source.line_text(self.line)))

    def value(self, operand: Operand) -> Value:
        return operand if isinstance(operand, Value) else self.builder.const(operand)

    def make(self, op: str, *operands: Operand, name: str | None = None) -> Value:
        """A MAP op over device or host values, typed by broadcast."""
        args = [self.value(each) for each in operands]
        row = OPS[op]
        assert row.kind is Kind.MAP and row.arity == len(args), op
        joined = join_types([each.type for each in args], DType.REAL)
        assert joined is not None, op
        if row.result is Result.BOOL:
            joined = joined.with_(dtype=DType.BOOL)
        made = self.builder.make(op, args, joined, self.span)
        made.name = made.name or name
        return made

    def leaf(self, op: str, type: Type, hint: str | None = None, **attrs: Any) -> Value:
        made = self.builder.make(op, (), type, self.span, **attrs)
        made.name = made.name or hint
        return made

    def load(self, buffer: str, domain: Domain = Domain.FULL) -> Value:
        return self.leaf("load", type_of(domain, self.view), buffer=buffer)

    def result(self, slot: str, domain: Domain, name: str | None = None) -> Value:
        return self.leaf("result", type_of(domain, self.view), name, slot=slot)

    def row_result(self, slot: str, name: str | None = None) -> Value:
        return self.leaf("row_result", type_of(Domain.ROW, self.view), name, slot=slot)

    def host(self, op: str, dtype: DType = DType.REAL, **attrs: Any) -> Value:
        return self.leaf(op, Type(Instances.GROUP, Shape(), Place.HOST, dtype), **attrs)

    def hyper(self, name: str, *index: int) -> Value:
        return self.host("hyper", name=name, index=index)

    def scalar(self, host: Operand, name: str | None = None) -> Value:
        """An entry of the scalar table with the value of the host expression `host`."""
        value = self.value(host)
        if value not in self.scalars:
            self.scalars.append(value)
        index = self.scalars.index(value)
        type = Type(Instances.PARAM, Shape(), Place.HOST, DType.REAL)
        return self.leaf("scalar", type, name, index=index)

    def reduce(self, slot: str, value: Value, domain: Domain, op: str = "sum") -> Reduction:
        if not (domain is Domain.ROW and value.type.shape.cols != 1):
            self.slots[slot] = domain
        return Reduction(slot, op, value, domain)

    def library(
        self, op: str, *args: Value, type: Type, name: str | None = None, **attrs: Any
    ) -> Value:
        made = self.builder.make(op, args, type, self.span, **attrs)
        made.name = made.name or name
        return made

    def require(self, condition: Value, text: str) -> Requirement:
        return Requirement(condition, text, self.span)

    def plan(
        self,
        hypers: dict[str, Any],
        buffers: list[Buffer],
        passes: list[Pass],
        *,
        requirements: tuple[Requirement, ...] = (),
        attributes: tuple[AttributeDecl, ...] = (),
        initial: dict[str, Value] | None = None,
    ) -> Plan:
        """A plan with one variant."""
        variant = Variant(
            0, (), tuple(buffers), tuple(passes), tuple(self.scalars), states_of(buffers)
        )
        rule = self.rule(hypers, buffers, requirements, attributes, initial or {})
        return Plan(rule, 0, (variant,), dict(self.slots))

    def rule(
        self,
        hypers: dict[str, Any],
        buffers: list[Buffer],
        requirements: tuple[Requirement, ...] = (),
        attributes: tuple[AttributeDecl, ...] = (),
        initial: dict[str, Value] | None = None,
    ) -> Rule:
        zero = self.builder.const(0.0)
        states = tuple(
            StateDecl(
                each.name,
                each.name,
                type_of(each.domain, self.view),
                each.storage,
                (initial or {}).get(each.name, zero),
                each.name,
                span=self.span,
            )
            for each in buffers
            if each.role == "state"
        )
        return Rule(
            name=self.name,
            doc=f"{self.name}, planned by hand.",
            source=self.source,
            builder=self.builder,
            hypers=tuple(Hyper(name, default, self.span) for name, default in hypers.items()),
            attributes=attributes,
            inputs=(),
            states=states,
            requirements=requirements,
            view=self.view,
            param=None,
            updates={},
            dims={},
        )


def states_of(buffers: list[Buffer]) -> tuple[str, ...]:
    return tuple(each.name for each in buffers if each.role == "state")


def parameter() -> Buffer:
    return Buffer("p", "param", Domain.FULL, Storage.PARAM, ("rows", "cols"))


def gradient() -> Buffer:
    return Buffer("g", "grad", Domain.FULL, Storage.PARAM, ("rows", "cols"))


def state(name: str, domain: Domain = Domain.FULL, storage: Storage = Storage.COMPUTE) -> Buffer:
    shapes: dict[Domain, tuple[int | str, ...]] = {
        Domain.FULL: ("rows", "cols"),
        Domain.ROW: ("rows", 1),
        Domain.COL: (1, "cols"),
    }
    return Buffer(name, "state", domain, storage, shapes.get(domain, ()))


def temp(name: str, domain: Domain = Domain.FULL) -> Buffer:
    return Buffer(name, "temp", domain, Storage.COMPUTE, ("rows", "cols"))


def kernel(
    stage: int, name: str, *phases: Phase, layout: str = "flat", domain: Domain = Domain.FULL
) -> KernelPass:
    return KernelPass(stage, name, domain, layout, phases)
