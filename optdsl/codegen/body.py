"""A kernel pass as lines of one target: which are computed once a task, a row, an element.

Input: a pass of a plan, the column of the op table, and a function that spells leaves. Output:
lines `name = expression` with the place in the rule file that each comes from. Values used once
and not named by the rule are written inside their user's line; the rest keep the rule's names.

Relies on: the schedule, which has put every value's operands within the pass's reach.
Does not do: loops, loads' addresses, types of variables (the target's printer and template).
"""

from __future__ import annotations

import keyword
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from optdsl.ir.nodes import Value, reachable
from optdsl.ops import OPS
from optdsl.schedule.plan import (
    Domain,
    KernelPass,
    Phase,
    Reduction,
    Store,
    domain_of,
    is_gradient,
)
from optdsl.source import Span
from optdsl.types import DType

C_WORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void
volatile while asm typeof main unix linux real param bf16 fp16 NAN INFINITY
widen_param narrow_param widen_bf16 narrow_bf16 widen_fp16 narrow_fp16
task shape pointers scalars partials results tensor lo hi i r c n b start stop base closed
rows cols batch numel draw_key
"""
PYTHON_WORDS = frozenset(keyword.kwlist) | frozenset(keyword.softkwlist)
TRITON_WORDS = "tl triton mask tail offsets BLOCK range print len min max abs"
FUNCTIONS = frozenset(
    name
    for op in OPS.values()
    for text in (op.c, op.triton)
    for name in re.findall(r"\b(?<!\.)(\w+)\(", text)
)
RESERVED = PYTHON_WORDS | FUNCTIONS | set(C_WORDS.split()) | set(TRITON_WORDS.split())
"""Names that a generated line never uses; a rule's variable of that name gets an underscore."""
DEPTH = 9
"""Operations inside one another that a line may hold; AdamW's last has 8."""
RESERVED_ENDINGS = ("_at", "_block", "_total", "_stored", "_widen", "_narrow", "_type")
"""Those of pointers, accumulators and storage, which are named after what they hold."""


@dataclass(frozen=True)
class Line:
    """`name = expression`, with the rule's place in `comment`; `boolean` for a condition."""

    name: str
    expression: str
    comment: str
    boolean: bool
    value: Value


@dataclass(frozen=True)
class Sink:
    """A reduction or store and the value it takes, a name or an expression that needs no
    parentheses around it; `level` is task, row or element."""

    what: Reduction | Store
    name: str
    level: str


@dataclass(frozen=True)
class PhaseLines:
    """The lines of one phase. `row` come before the loop over the row's elements."""

    row: tuple[Line, ...]
    element: tuple[Line, ...]
    rows: tuple[Sink, ...]
    partials: tuple[Sink, ...]
    stores: tuple[Sink, ...]


@dataclass(frozen=True)
class Body:
    """`task` lines are computed once a task and are in reach of all phases."""

    task: tuple[Line, ...]
    phases: tuple[PhaseLines, ...]


def identifier(hint: str) -> str:
    """`hint` as a name that no target reserves."""
    name = re.sub(r"\W", "_", hint)
    if name[:1].isdigit():
        return f"_{name}"
    return f"{name}_" if name in RESERVED or name.endswith(RESERVED_ENDINGS) else name


@dataclass
class _Writer:
    kernel: KernelPass
    column: str
    view: str
    leaf: Callable[[Value], str]
    taken: set[str]
    names: dict[Value, str] = field(default_factory=dict)
    loads: set[str] = field(default_factory=set)
    row_names: dict[Value, str] = field(default_factory=dict)

    def level(self, value: Value) -> str:
        """task, row or element: how often `value` changes."""
        if not value.type.on_device or value.op in ("scalar", "size", "const", "result"):
            if value.op == "result" and self._varies(domain_of(value.type, self.view)):
                return self._level_of(domain_of(value.type, self.view))
            return "task"
        return self._level_of(domain_of(value.type, self.view))

    def _varies(self, domain: Domain) -> bool:
        return self._level_of(domain) != "task"

    def _level_of(self, domain: Domain) -> str:
        if domain is self.kernel.domain or (
            self.kernel.layout == "rows" and domain in (Domain.FULL, Domain.COL)
        ):
            return "element"
        # With a group's hyperparameter a number of the run is typed as one of the group.
        shared = (Domain.GROUP, Domain.ALL)
        if domain in shared and self.kernel.domain in shared:
            return "element"
        if self.kernel.layout == "rows" and domain is Domain.ROW:
            return "row"
        return "task"

    def name(self, value: Value, fallback: str) -> str:
        hint = identifier(value.name or fallback)
        if value.op != "load" and hint in self.loads:
            hint = f"{hint}_new"
        name, count = hint, 2
        while name in self.taken:
            name, count = f"{hint}{count}", count + 1
        self.taken.add(name)
        self.names[value] = name
        return name

    def expression(self, value: Value) -> str:
        """The text of `value` over its operands' names or, inlined, their expressions."""
        if value.op == "full":  # one number for all: every target broadcasts
            return self.operand(value.args[0])
        if OPS[value.op].kind in ("leaf", "control"):
            return self.leaf(value)
        return fill_text(self.text(value), [self.operand(arg) for arg in value.args])

    def text(self, value: Value) -> str:
        text: str = getattr(OPS[value.op], self.column)
        whole = all(arg.type.dtype is not DType.REAL for arg in value.args)
        if self.column == "c" and value.op == "div" and whole:
            return "real({0}) / {1}"  # `where(a, 1, 2)` is an int in C, and int / int rounds down
        return text

    def operand(self, value: Value) -> str:
        return self.names.get(value) or self.expression(value)

    def atom(self, value: Value) -> str:
        text = self.operand(value)
        return text if is_atom(text) else f"({text})"


def fill_text(text: str, operands: list[str]) -> str:
    """`text` with {0}, {1}, ... replaced, in parentheses where the target's grammar needs them."""

    def fill(match: re.Match[str]) -> str:
        operand = operands[int(match[1])]
        before, after = text[: match.start()].rstrip()[-1:], text[match.end() :].lstrip()[:1]
        # x - (y - z) needs them, (x - y) - z does not.
        left = _pull(before) + (before in _OPERATORS)
        needed = max(left, _pull(after))
        if needed > strength(operand):
            return f"({operand})"
        return operand if needed or _OPEN & set(_shallow(operand[1:-1])) else bare(operand)

    return re.sub(r"\{(\d)\}", fill, text)


_OPERATORS = {"+": 2, "-": 2, "*": 3, "/": 3, "@": 3}
_COMPARISONS = ("<", ">", "=")
_OPEN = {"?", ","}
"""What keeps its parentheses wherever it stands: a choice within a choice, a tuple."""


def _pull(neighbour: str) -> int:
    """How tightly the character beside an operand takes hold of it."""
    if neighbour in ("", "(", ")", ",", "?", ":"):
        return 0
    return 1 if neighbour in _COMPARISONS else _OPERATORS.get(neighbour, 4)


def strength(text: str) -> int:
    """How tightly `text` holds together: 4 an atom, 3 a product, 2 a sum, 0 anything else."""
    if is_atom(text):
        return 4
    text = re.sub(r'"[^"]*"', "s", text).replace("[", "(").replace("]", ")")
    found = [
        each for each in _shallow(text) if each in PYTHON_WORDS or not re.match(r"[\w.]", each)
    ]
    return 0 if text.startswith("-") else min([3, *(_OPERATORS.get(each, 0) for each in found)])


def _shallow(text: str) -> Iterator[str]:
    """The words and signs that stand in no parentheses."""
    depth = 0
    for word in re.findall(r"[\w.]+|[()]|[^\w\s()]+", text):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word != ")":
            yield word


def is_atom(text: str) -> bool:
    """A name, a number, a call or something wholly in parentheses: needs none around it."""
    if re.fullmatch(r'[\w.]+(\[[\w"]+\])*|\d[\w.]*e-\d+|"[^"\\]*"', text):
        return True
    match = re.match(r"[\w.]*\(", text)
    if not match or not text.endswith(")"):
        return False
    depth = 0
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and char == ")":
            rest = text[position + 1 :]
            return not rest or (bool(match[0][:-1]) and rest[0] == "." and is_atom(rest[1:]))
    return False


def bare(text: str) -> str:
    """`text` without parentheses around the whole of it."""
    while text.startswith("(") and is_atom(text):
        text = text[1:-1]
    return text


def write_body(
    kernel: KernelPass,
    column: str,
    view: str,
    leaf: Callable[[Value], str],
    taken: Iterable[str] = (),
) -> Body:
    """The lines of `kernel` for the target whose texts stand in `column` of the op table. `taken`
    are names that the target's frame uses."""
    writer = _Writer(kernel, column, view, leaf, set(taken))
    sinks = [_sinks(phase) for phase in kernel.phases]
    slices = [reachable(each.value for each in group) for group in sinks]
    everything = reachable(each.value for group in sinks for each in group)
    # The gradient is loaded and scaled in one line, which has its name.
    scaled = {value.args[0]: value for value in everything if is_gradient(value)}
    for load in (v for part in slices for v in part if v.op == "load"):
        read = scaled.get(load, load)
        if read not in writer.names:
            writer.name(read, load.attr("buffer"))
            writer.loads.add(writer.names[read])
    named = _named(writer, everything, sinks) - scaled.keys()
    once = [v for v in everything if writer.level(v) == "task"]
    once.sort(key=lambda v: v.attr("index") if v.op == "scalar" else math.inf)
    task = _lines(writer, once, named)
    phases = []
    for phase, part in zip(kernel.phases, slices, strict=True):
        before = dict(writer.names), set(writer.taken)
        row = _lines(writer, [v for v in part if writer.level(v) == "row"], named)
        element = _lines(writer, [v for v in part if writer.level(v) == "element"], named)
        phases.append(
            PhaseLines(
                row,
                element,
                _written(writer, phase.rows),
                _written(writer, phase.partials),
                _written(writer, phase.stores),
            )
        )
        writer.names, writer.taken = before
        # A row's name keeps its value in later phases: a loop there may not reuse it (Triton).
        writer.row_names.update({line.value: line.name for line in row})
        writer.taken |= {line.name for line in row}
    return Body(task, tuple(phases))


def _sinks(phase: Phase) -> list[Reduction | Store]:
    return [*phase.rows, *phase.partials, *phase.stores]


def _written(writer: _Writer, sinks: Iterable[Reduction | Store]) -> tuple[Sink, ...]:
    return tuple(Sink(each, writer.atom(each.value), writer.level(each.value)) for each in sinks)


def _named(
    writer: _Writer, values: list[Value], sinks: list[list[Reduction | Store]]
) -> set[Value]:
    """Values that get a line of their own: leaves in memory, what the rule names, what is used
    more than once (also inside one text, as lerp's first operand is), what changes less often than
    its user does, and what would make a line of more than DEPTH nested operations."""
    uses = Counter(each.value for group in sinks for each in group)
    for value in values:
        for position, arg in enumerate(value.args):
            texts = (OPS[value.op].c, OPS[value.op].triton)
            uses[arg] += max([1, *(text.count(f"{{{position}}}") for text in texts)])
            if arg.args and writer.level(arg) != writer.level(value):
                uses[arg] += 2
    named: set[Value] = set()
    depth: dict[Value, int] = {}
    for value in values:
        depth[value] = 1 + max((depth[arg] for arg in value.args if arg not in named), default=0)
        wanted = value.name or uses[value] > 1 or depth[value] > DEPTH
        leaf = value.op in ("load", "scalar", "result", "row_result", "draw_key")
        if leaf or (wanted and value.op not in ("const", "size", "full", "element")):
            named.add(value)
    return named


def _lines(writer: _Writer, values: list[Value], named: set[Value]) -> tuple[Line, ...]:
    lines = []
    for value in values:
        if value not in named:
            continue
        expression = writer.expression(value)
        if value in writer.row_names:
            writer.names[value] = writer.row_names[value]
        name = writer.names.get(value) or writer.name(value, _fallback(value))
        boolean = value.type.dtype is DType.BOOL
        lines.append(Line(name, expression, place_of(value), boolean, value))
    return tuple(lines)


def place_of(value: Value) -> str:
    """The file and line that `value` was written at; "" where the compiler made it."""
    return "" if value.span is None else place(value.span)


def place(span: Span) -> str:
    """The file and line that `span` begins in."""
    return f"{span.source.name.rsplit('/', 1)[-1]}:{span.line}"


NOUNS = {
    "add": "total",
    "sub": "difference",
    "mul": "product",
    "matmul": "product",
    "div": "ratio",
    "neg": "negative",
    "abs": "size",
    "sqrt": "root",
    "fma": "total",
    "lerp": "mean",
    "min": "bound",
    "max": "bound",
    "where": "chosen",
    "and": "condition",
    "or": "condition",
    "sum": "total",
    "draw_key": "key",
    "loss_at": "loss",
    "grad_at": "slope",
}
"""What the result of an operation is called that the rule gives no name."""


def _fallback(value: Value) -> str:
    """What a value is called that the rule gives no name."""
    if value.op == "scalar":
        return f"s{value.attr('index')}"
    if value.op in ("result", "row_result"):
        return str(value.attr("slot"))
    if value.op == "mul" and value.args[0] is value.args[1]:
        return "square"
    return NOUNS.get(value.op, "condition" if value.type.dtype is DType.BOOL else "value")
