"""Reads the text form of a typed rule back: for tests, and for the reference target.

Input: what `text.rule_text` wrote. Output: an equal rule, whose text is the same.

Where the text has no sources' texts, the rule has blank ones, in which every place has its line and
column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from optdsl.diagnostics import InternalError
from optdsl.ir.nodes import (
    AttributeDecl,
    Builder,
    Hyper,
    InputDecl,
    LoopBody,
    Requirement,
    Rule,
    Scope,
    StateDecl,
    Value,
)
from optdsl.ir.text import type_text
from optdsl.source import Source, Span
from optdsl.types import Dim, DType, Instances, Place, Shape, Storage, Type


def read_rule(text: str) -> Rule:
    """The rule of a text that `rule_text` wrote. Raises InternalError for any other."""
    try:
        return _Reader(text).rule()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InternalError("ir.text", f"not the text of a rule: {error}") from None


PLACE = re.compile(r" @(\d+):(\d+):(\d+)-(?:(\d+):)?(\d+)$")
_DECODER = json.JSONDecoder()


@dataclass
class _Line:
    """A line that is read from left to right; `span` is its place."""

    text: str
    span: Span | None
    at: int = 0

    def skip(self, text: str) -> bool:
        """Pass over `text` and the blanks behind it, if it stands here."""
        found = self.text.startswith(text, self.at)
        if found:
            self.at += len(text)
            while self.text[self.at : self.at + 1] == " ":
                self.at += 1
        return found

    def take(self, pattern: str) -> str:
        match = re.compile(pattern).match(self.text, self.at)
        if match is None:
            raise ValueError(f"{pattern!r} is wanted at column {self.at + 1} of {self.text!r}")
        self.skip(match[0])
        return match[0]

    def word(self) -> str:
        return self.take(r"\w+")

    def number(self) -> int:
        return int(self.take(r"%\d+")[1:])

    def json(self) -> Any:
        value, end = _DECODER.raw_decode(self.text, self.at)
        self.skip(self.text[self.at : end])
        return _tuples(value)

    def field(self, name: str) -> Any:
        self.take(f"{name}=")
        return self.json()

    def dim(self) -> Dim:
        if self.text.startswith('"', self.at):
            return str(self.json())
        word = self.word()
        return int(word) if word.isdigit() else word

    def type(self) -> Type:
        first = self.word()
        places = {"static": Place.STATIC, "host": Place.HOST}
        place = places.get(first, Place.DEVICE)
        instances = Instances[(self.word() if first in places else first).upper()]
        self.take(r"\[")
        dims: list[Dim] = []
        while not self.skip("]"):
            dims.append(self.dim())
            self.skip(",")
        shape = Shape(tuple(dims[:-2]), *dims[-2:]) if dims else Shape()
        return Type(instances, shape, place, DType(self.word()))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass
class _Reader:
    text: str
    values: list[Value] = field(default_factory=list)
    builder: Builder = field(default_factory=Builder)

    def rule(self) -> Rule:
        lines = self.text.split("\n")[:-1]
        sources = _sources(lines)
        found: dict[str, list[Any]] = {}
        for text in lines:
            match = PLACE.search(text)
            span = None if match is None else _span(sources, match)
            line = _Line(text[: match.start()] if match else text, span)
            if line.text.startswith("%"):
                self.values.append(self.value(line))
                continue
            kind = line.word()
            found.setdefault(kind, []).append(getattr(self, f"read_{kind}")(line))
        head = found["rule"][0]
        return Rule(
            **head,
            source=sources[0],
            builder=self.builder,
            hypers=tuple(found.get("hyper", ())),
            attributes=tuple(found.get("attribute", ())),
            inputs=tuple(found.get("input", ())),
            states=tuple(found.get("state", ())),
            requirements=tuple(found.get("require", ())),
            param=found.get("p", [None])[0],
            updates=dict(found.get("update", ())),
            dims=dict(found.get("dim", ())),
            evaluated=found.get("eval", [None])[0],
            reports=dict(found.get("report", ())),
            static_conditions=tuple(found.get("static", ())),
            host_states=tuple(found.get("host_state", ())),
            host_updates=dict(found.get("host_update", ())),
        )

    def value(self, line: _Line) -> Value:
        if line.number() != len(self.values):
            raise ValueError(f"values are not in order at {line.text!r}")
        line.take("=")
        op = line.word()
        args = []
        while line.text.startswith("%", line.at):
            args.append(self.ref(line))
        attrs: dict[str, Any] = {}
        while not line.skip(":"):
            name = line.word()
            line.take("=")
            attrs[name] = line.json()
        type_ = line.type()
        if op == "const":
            value = self.builder.const(attrs["value"], line.span)
        else:
            if op == "loop":
                attrs["body"] = self.body(attrs["body"])
            value = self.builder.make(op, args, type_, line.span, **attrs)
        if value.type != type_:
            raise ValueError(f"{line.text!r} has the type {type_text(value.type)}")
        if line.at < len(line.text):
            value.name = line.json()
        return value

    def body(self, fields: dict[str, Any]) -> LoopBody:
        def of(number: int | None) -> Value | None:
            return None if number is None else self.values[number]

        args, results = ([self.values[each] for each in fields[k]] for k in ("args", "results"))
        return LoopBody(tuple(args), tuple(results), of(fields["until"]), of(fields["index"]))

    def ref(self, line: _Line) -> Value:
        return self.values[line.number()]

    def read_source(self, line: _Line) -> None:
        pass  # found before, by _sources

    def read_rule(self, line: _Line) -> dict[str, Any]:
        name = line.word()
        line.take("view=")
        view = line.word()
        gradient = line.field("reads_gradient")
        return {"name": name, "view": view, "reads_gradient": gradient, "doc": line.field("doc")}

    def read_hyper(self, line: _Line) -> Hyper:
        return Hyper(line.word(), line.field("default"), line.span)

    def read_attribute(self, line: _Line) -> AttributeDecl:
        return AttributeDecl(line.word(), line.field("default"), line.span)

    def read_input(self, line: _Line) -> InputDecl:
        name = line.word()
        line.take(":")
        return InputDecl(name, line.type(), line.span)

    def read_state(self, line: _Line) -> StateDecl:
        name = line.word()
        line.take(":")
        type_, key = line.type(), line.field("key")
        line.take("storage=")
        storage = Storage(line.word())
        line.take("birth=")
        birth = line.word()
        initial = self.ref(line) if line.skip("initial=") else None
        scope: list[tuple[Value, bool]] = []
        while line.skip("where"):
            condition = self.ref(line)
            line.take("=")
            scope.append((condition, bool(line.json())))
        ends: Scope = tuple(scope)
        return StateDecl(name, key, type_, storage, initial, birth, ends, line.span)

    read_host_state = read_state

    def read_require(self, line: _Line) -> Requirement:
        assert line.span is not None
        return Requirement(self.ref(line), line.field("text"), line.span)

    def read_dim(self, line: _Line) -> tuple[str, Value]:
        return line.json(), self.ref(line)

    def read_static(self, line: _Line) -> Value:
        return self.ref(line)

    read_p = read_eval = read_static

    def read_update(self, line: _Line) -> tuple[str, Value]:
        return line.word(), self.ref(line)

    read_report = read_host_update = read_update


def _places(lines: list[str]) -> Iterator[tuple[int, int, int]]:
    """Source, line and column of every begin and end of a place."""
    for match in filter(None, map(PLACE.search, lines)):
        source, line, column, last, end = (int(each or 0) for each in match.groups())
        yield source, line, column
        yield source, last or line, end


def _sources(lines: list[str]) -> list[Source]:
    """The sources; those without their text blank, but large enough for every place in them."""
    found = [line.split(" ", 2)[2] for line in lines if line.startswith("source ")]
    widths: list[dict[int, int]] = [{} for _ in found]
    for source, line, column in _places(lines):
        widths[source][line] = max(widths[source].get(line, 0), column - 1)
    sources = []
    for each, width in zip(found, widths, strict=True):
        name, end = _DECODER.raw_decode(each)
        blank = "\n".join(" " * width.get(i + 1, 0) for i in range(max([1, *width])))
        sources.append(Source(name, _DECODER.decode(each[end:]) if each[end:] else blank))
    return sources


def _span(sources: list[Source], match: re.Match[str]) -> Span:
    source, line, column, last, end = (int(each or 0) for each in match.groups())
    starts = sources[source].line_starts
    first, after = starts[line - 1] + column - 1, starts[(last or line) - 1] + end - 1
    return Span(sources[source], first, after)
