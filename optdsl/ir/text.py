"""The text form of a typed rule: printed by dumps, read back by reading.py.

Input: a `Rule`, or values. Output: their text, one value a line.

    source 0 "adamw.opt"
    rule AdamW view=rows reads_gradient=true doc="..."
    hyper lr default=0.001 @0:1:17-26
    %0 = param : param [rows, cols] real "p"
    %1 = hyper index=[] name="lr" : host group [] real
    %2 = mul %1 %0 : param [rows, cols] real "u" @0:4:10-20
    p %2

Values are numbered by their order; `"u"` is the name that the rule gives one, `@0:4:10-20` its
place (source, line, first and end column; `-5:20` where it ends on another line). Attributes are
JSON.

Does not do: keep the sources' texts, but where it is asked to: `source 0 "adamw.opt" "optimizer…"`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from optdsl.ir.nodes import LoopBody, Rule, StateDecl, Value, reachable
from optdsl.source import Source, Span
from optdsl.types import Type


def rule_text(rule: Rule, *, sources: bool = False) -> str:
    """The text of `rule`; `read_rule` makes an equal rule of it, whose text is the same. With
    `sources` it holds what its files say, too."""
    return _Writer(_rule_roots(rule), rule.source, texts=sources).rule(rule)


def values_text(outputs: Iterable[tuple[str, Value]]) -> str:
    """The text of named values and all that they are computed from, for dumps of any stage."""
    named = list(outputs)
    writer = _Writer([value for _, value in named], None)
    lines = [*writer.values(), *(f"{name} {writer.ref(value)}" for name, value in named)]
    return "\n".join([*writer.source_lines(), *lines]) + "\n"


def _rule_roots(rule: Rule) -> list[Value]:
    roots = [value for _, value in rule.outputs()]
    roots += [value for value in (rule.evaluated,) if value is not None]
    roots += [each.condition for each in rule.requirements]
    states = (*rule.states, *rule.host_states)
    roots += [each.initial for each in states if each.initial is not None]
    roots += [condition for each in states for condition, _ in each.scope]
    roots += rule.host_updates.values()
    return [*roots, *rule.dims.values(), *rule.static_conditions]


@dataclass
class _Writer:
    """`numbers` count the values in the order of their making, in which operands come first."""

    roots: Sequence[Value]
    source: Source | None
    texts: bool = False
    sources: list[Source] = field(default_factory=list)
    numbers: dict[Value, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.source is not None:
            self.sources.append(self.source)
        self.order = sorted(_with_loop_values(self.roots), key=lambda value: value.id)
        self.numbers = {value: number for number, value in enumerate(self.order)}

    def rule(self, rule: Rule) -> str:
        lines = [
            f"rule {rule.name} view={rule.view} "
            f"reads_gradient={_json(rule.reads_gradient)} doc={_json(rule.doc)}"
        ]
        lines += [
            f"hyper {each.name} default={_json(each.default)}{self.place(each.span)}"
            for each in rule.hypers
        ]
        lines += [
            f"attribute {each.name} default={_json(each.default)}{self.place(each.span)}"
            for each in rule.attributes
        ]
        lines += [
            f"input {each.name} : {type_text(each.type)}{self.place(each.span)}"
            for each in rule.inputs
        ]
        lines += self.values()
        lines += [self.state(each) for each in rule.states]
        lines += [f"host_{self.state(each)}" for each in rule.host_states]
        lines += [
            f"require {self.ref(each.condition)} text={_json(each.text)}{self.place(each.span)}"
            for each in rule.requirements
        ]
        lines += [f"dim {_json(name)} {self.ref(value)}" for name, value in rule.dims.items()]
        lines += [f"static {self.ref(value)}" for value in rule.static_conditions]
        lines += [f"p {self.ref(rule.param)}"] if rule.param is not None else []
        lines += [f"update {name} {self.ref(value)}" for name, value in rule.updates.items()]
        lines += [f"host_update {n} {self.ref(value)}" for n, value in rule.host_updates.items()]
        lines += [f"report {name} {self.ref(value)}" for name, value in rule.reports.items()]
        lines += [f"eval {self.ref(rule.evaluated)}"] if rule.evaluated is not None else []
        return "\n".join([*self.source_lines(), *lines]) + "\n"

    def source_lines(self) -> list[str]:
        return [
            f"source {i} {_json(each.name)}" + (f" {_json(each.text)}" if self.texts else "")
            for i, each in enumerate(self.sources)
        ]

    def ref(self, value: Value) -> str:
        return f"%{self.numbers[value]}"

    def values(self) -> list[str]:
        return [self.value(value) for value in self.order]

    def value(self, value: Value) -> str:
        parts = [f"{self.ref(value)} = {value.op}", *map(self.ref, value.args)]
        for name, attribute in value.attrs:
            if isinstance(attribute, LoopBody):
                parts.append(self.body(attribute))
            elif not (value.op == "const" and name == "text"):
                parts.append(f"{name}={_json(attribute)}")
        name = "" if value.name is None else f" {_json(value.name)}"
        return f"{' '.join(parts)} : {type_text(value.type)}{name}{self.place(value.span)}"

    def body(self, body: LoopBody) -> str:
        ends = {"until": body.until, "index": body.index}
        fields = {
            "args": [self.numbers[each] for each in body.args],
            "results": [self.numbers[each] for each in body.results],
            **{name: None if each is None else self.numbers[each] for name, each in ends.items()},
        }
        return f"body={_json(fields)}"

    def state(self, state: StateDecl) -> str:
        initial = "" if state.initial is None else f" initial={self.ref(state.initial)}"
        scope = " ".join(f"where {self.ref(value)}={_json(side)}" for value, side in state.scope)
        return (
            f"state {state.name} : {type_text(state.type)} key={_json(state.key)} "
            f"storage={state.storage} birth={state.birth}{initial}"
            f"{' ' + scope if scope else ''}{self.place(state.span)}"
        )

    def place(self, span: Span | None) -> str:
        if span is None:
            return ""
        if span.source not in self.sources:
            self.sources.append(span.source)
        line, column = span.source.position(span.start)
        last, end = span.source.position(span.end)
        number = self.sources.index(span.source)
        return f" @{number}:{line}:{column}-{end if last == line else f'{last}:{end}'}"


def _with_loop_values(roots: Sequence[Value]) -> set[Value]:
    """All values under `roots`, the arguments and counters of loops among them, read or not."""
    found: set[Value] = set(reachable(roots))
    for value in list(found):
        if value.op == "loop":
            body: LoopBody = value.attr("body")
            found.update(body.args, () if body.index is None else (body.index,))
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def type_text(type_: Type) -> str:
    """`host group [] real`, `param [rows, cols] real`; a dimension that is no name is quoted."""
    shape = type_.shape
    dims = () if shape.is_scalar else shape.dims
    texts = [str(d) if isinstance(d, int) or d.isidentifier() else _json(d) for d in dims]
    place = "" if type_.on_device else f"{type_.place.name.lower()} "
    return f"{place}{type_.instances.name.lower()} [{', '.join(texts)}] {type_.dtype}"
