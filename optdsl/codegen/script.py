"""Values as lines of Python: what host functions and library passes are made of.

Input: values, and a function that spells leaves. Output: lines `name = expression  # file:line`,
loops as Python loops, and the text of each root. Values used once that the rule does not name are
written inside their user's line, as long as it fits. What ties parameters together in loops
stands in one order in all variants.

Relies on: the op table's `host` and `torch` columns, body.py for parentheses.
Does not do: the function around the lines, shapes.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from optdsl.codegen.body import DEPTH, NOUNS, bare, fill_text, place_of
from optdsl.codegen.literals import LINE_LENGTH
from optdsl.ir.coupling import couples, rank
from optdsl.ir.nodes import LoopBody, Value, operands, reachable
from optdsl.ops import OPS, Kind
from optdsl.types import DType

Text = Callable[[Value], str]
AMBIGUOUS = ("l", "O", "I")
"""Names that a reader takes for a number."""


@dataclass
class Script:
    """Writes the lines of one function. `taken` holds names that it must not use.

    `spell(value, text)` gives a value's text where it is more than its op's row in the table, None
    elsewhere; `text` spells its operands. `column` names the op table's column for a value.
    `called(value)` names a leaf that gets a line even where it is used once.
    """

    spell: Callable[[Value, Text], str | None]
    column: Callable[[Value], str]
    taken: set[str]
    called: Callable[[Value], str | None] = lambda value: None
    indent: str = "    "
    lines: list[str] = field(default_factory=list)
    names: dict[Value, str] = field(default_factory=dict)
    uses: Counter[Value] = field(default_factory=Counter)
    carried: set[Value] = field(default_factory=set)
    depth: dict[Value, int] = field(default_factory=dict)
    turns: tuple[str, ...] = ()
    """The rank of each loop around that ties parameters together, and the number of its pass."""

    def write(self, roots: Iterable[Value]) -> list[str]:
        """Adds the lines that `roots` need; their texts, each an expression that fits in a line of
        its own one block further in, with its place."""
        wanted = list(roots)
        self._count(wanted)
        self._block(wanted, None)
        for root in wanted:
            self._fitted(root, partial(self._entry, root))
        return [self.text(root) for root in wanted]

    def text(self, value: Value) -> str:
        """`value` as an expression over names."""
        if value in self.names:
            return self.names[value]
        if value.op == "loop_result":
            return self.names[loop_variable(value)]
        special = self.spell(value, self.text)
        if special is not None:
            return special
        return fill_text(self._row_text(value), [self.text(arg) for arg in value.args])

    def name(self, value: Value, hint: str) -> str:
        """A name for `value` that nothing else has."""
        name = self.names[value] = self.reserve(hint)
        return name

    def reserve(self, hint: str) -> str:
        """A name that nothing else has."""
        name = self._free(hint)
        self.taken.add(name)
        return name

    def assign(self, value: Value) -> None:
        """A line for `value`."""
        line = self._fitted(value, lambda: self._assignment(value))
        self.name(value, self._hint(value))
        self.add(line, value if value.args else None)

    def add(self, line: str, value: Value | None = None) -> None:
        """A line at the present depth, with the place in the rule that `value` comes from behind
        it, or above where it is long."""
        place = "" if value is None else place_of(value)
        behind = f"{self.indent}{line}  # {place}" if place else f"{self.indent}{line}"
        if len(behind) <= LINE_LENGTH or not place:
            self.lines.append(behind)
        else:
            self.lines += [f"{self.indent}# {place}", f"{self.indent}{line}"]

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """One block further in; names made there end with it."""
        names, indent = dict(self.names), self.indent
        self.indent += "    "
        yield
        self.names, self.indent = names, indent

    # ---------------------------------------------------------------- lines

    def _hint(self, value: Value) -> str:
        return value.name or self.called(value) or NOUNS.get(value.op, leaf_name(value))

    def _free(self, hint: str) -> str:
        """A name like `hint` that nothing has."""
        base = re.sub(r"\W", "_", hint)
        base = f"{base}_" if keyword.iskeyword(base) or base in AMBIGUOUS else base
        name, count = base, 2
        while name in self.taken:
            name, count = f"{base}{count}", count + 1
        return name

    def _assignment(self, value: Value) -> str:
        return f"{self._free(self._hint(value))} = {bare(self.text(value))}"

    def _entry(self, value: Value) -> str:
        """`value` in the scalar row: the longest line that a root becomes."""
        return f"    {bare(self.text(value))},  # 00: {place_of(value)}"

    def _fitted(self, value: Value, spell: Callable[[], str]) -> str:
        """What `spell` makes of `value`, whose operands get lines of their own until it fits."""
        while not self.fits(line := spell()) and self._cut(value):
            pass
        return line

    def fits(self, line: str) -> bool:
        """Whether `line` is one at the present depth; its place may stand above it."""
        return len(self.indent) + len(line) <= LINE_LENGTH

    def _cut(self, value: Value) -> bool:
        """Whether `value`'s text could be made shorter, by a line for the longest operand that fits
        in one. Of two tensors that the host chooses from, one alone is computed: those stay."""
        sided = value.op in ("choose", "where") and not value.args[0].type.on_device
        texts = {
            each: len(self.text(each))
            for each in value.args[: 1 if sided and value.type.on_device else None]
            if each not in self.names and each.op not in ("const", "size", "loop_result")
        }
        if value in self.names or not texts:
            return False
        longest = max(texts, key=lambda each: texts[each])
        if self.fits(self._assignment(longest)) or not self._cut(longest):
            self.assign(longest)
        return True

    # ---------------------------------------------------------------- blocks

    def _row_text(self, value: Value) -> str:
        text: str = getattr(OPS[value.op], self.column(value))
        return text

    def _count(self, roots: list[Value]) -> None:
        """How often each value is written."""
        self.uses = Counter(roots)
        for value in reachable(roots):
            for position, arg in enumerate(value.args):
                text = self._row_text(value) if OPS[value.op].kind is not Kind.LEAF else ""
                self.uses[arg] += max(1, text.count(f"{{{position}}}"))
            self.uses.update(operands(value)[len(value.args) :])
            if value.op == "loop":
                self.carried |= {*value.args[1:], *value.attr("body").results}

    def _block(self, roots: list[Value], inside: frozenset[Value] | None) -> None:
        """Lines for what `roots` need of `inside` (None: of everything)."""
        values = reachable(roots, into_loops=False)
        ranks = [(rank(value), value) for value in values if inside is None or value in inside]
        ranked = sorted((first, value.id, value) for first, value in ranks if first is not None)
        first = [each for *_, v in ranked for each in reachable([v], into_loops=False)]
        for value in dict.fromkeys((*first, *values)):
            if value in self.names or (inside is not None and value not in inside):
                continue
            if value.op == "loop":
                self._loop(value)
            elif value.op != "loop_result" and self._has_line(value):
                self.assign(value)

    def _has_line(self, value: Value) -> bool:
        if couples(value):
            return True
        if not value.args:
            often = self.uses[value] > 1 and value.op != "const"
            return often or self.called(value) is not None
        deep = 1 + max(0 if arg in self.names else self.depth.get(arg, 1) for arg in value.args)
        self.depth[value] = deep
        named = value.name is not None and value not in self.carried
        return named or self.uses[value] > 1 or deep > DEPTH

    def _loop(self, loop: Value) -> None:
        body: LoopBody = loop.attr("body")
        ends = [*body.results, *([body.until] if body.until is not None else [])]
        inside = depending(ends)
        self._lift(ends, inside)
        for arg, start in zip(body.args, loop.args[1:], strict=True):
            self._start(arg, start)
        counter, first, around = "_", rank(loop), self.turns
        if body.index is not None and (self.uses[body.index] or first is not None):
            counter = self.name(body.index, body.index.name or "k")
        count = self.text(loop.args[0])
        if loop.args[0].type.dtype is DType.BOOL:  # what the host reads: once or not at all
            counter = "0"
            self.add(f"if {bare(count)}:", loop)
        else:
            self.add(f"for {counter} in range(int({count})):", loop)
        if first is not None:
            self.turns = (*around, str(first), counter)
        with self.deeper():
            self._block(ends, inside)
            self._next_pass(body)
        self.turns = around
        self.names[loop] = ""  # a loop has no text; loop_result finds its variables

    def _start(self, arg: Value, start: Value) -> None:
        """The line that gives a loop's variable its first value."""
        hint = arg.name or start.name or "carried"
        line = self._fitted(start, lambda: f"{self._free(hint)} = {self.text(start)}")
        self.name(arg, hint)
        self.add(line, start)

    def _next_pass(self, body: LoopBody) -> None:
        if body.until is not None and body.until not in self.names:
            self.assign(body.until)  # it speaks of this pass's values
        variables = ", ".join(self.names[arg] for arg in body.args)
        results = ", ".join(self.text(each) for each in body.results)
        if len(self.indent) + len(variables) + len(results) > LINE_LENGTH - 20:
            for each in body.results:
                if each not in self.names:
                    self.assign(each)
            results = ", ".join(self.text(each) for each in body.results)
        place = None if all(each in self.names for each in body.results) else body.results[0]
        self.add(f"{variables} = {results}", place)
        if body.until is not None:
            self.add(f"if {self.names[body.until]}:")
            self.add("    break")

    def _lift(self, ends: list[Value], inside: frozenset[Value]) -> None:
        """Lines, before the loop, for what its body computes from outside values alone."""
        for value in reachable(ends):
            for arg in operands(value):
                if value in inside and arg not in inside and arg.args and arg not in self.names:
                    self._block([arg], None)
                    if arg not in self.names and arg.op != "loop_result":
                        self.assign(arg)


def leaf_name(value: Value) -> str:
    """What a leaf is called: its attribute's name, or its own."""
    return next(
        (str(each) for key, each in value.attrs if key in ("name", "buffer", "slot")), value.op
    )


def loop_variable(value: Value) -> Value:
    """The loop_arg whose variable a loop_result is found in once the loop is over."""
    body: LoopBody = value.args[0].attr("body")
    found: Value = body.args[value.attr("index")]
    return found


def depending(ends: list[Value]) -> frozenset[Value]:
    """The values under `ends` that change from pass to pass of a loop, this one or one within."""
    inside: set[Value] = set()
    for value in reachable(ends):
        if value.op == "loop_arg" or any(arg in inside for arg in operands(value)):
            inside.add(value)
    return frozenset(inside)
