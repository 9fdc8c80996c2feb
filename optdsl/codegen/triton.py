"""A plan's kernel passes as Triton: one `@triton.jit` kernel a pass, for all tensors of a class.

Input: a plan. Output: the text of a Python module that imports triton and
`optdsl.runtime.triton.math` and defines the kernels, named as their passes. A kernel reads the
tables that runtime/program.py describes; one program works one task. Its other parameters:

    P, REAL   the gradient's dtype and the one that values are computed in
    NAME_type how p, or a state of its size, lies in memory (see runtime/triton/storage.py)
    BLOCK     columns of a block (layout rows), or not less than the elements of any task (flat)
    ROWS      rows of a tile: a power of two, not less than the rows of any task
    WHOLE     what is worked as a whole (flat): elements of an access of 128 bits, blocks of codes
    ALIGNED   every pointer is a multiple of 16 bytes and, in layout rows, cols one of 16; numel,
              too, where entries of a state have pointers of their own

Relies on: body.py for the lines, triton_places.py for addresses, templates/triton/ for the frames.
Does not do: launching and block sizes (runtime/triton/launch.py), host functions (host.py).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from optdsl.codegen.body import (
    Line,
    PhaseLines,
    Sink,
    bare,
    fill_text,
    place_of,
    write_body,
)
from optdsl.codegen.literals import LINE_LENGTH
from optdsl.codegen.summary import summary
from optdsl.codegen.templates import render
from optdsl.codegen.triton_places import CLOSE, CLOSE_COLS, SIZES, Places, literal, plus
from optdsl.diagnostics import InternalError
from optdsl.ops import OPS
from optdsl.schedule.plan import Domain, KernelPass, Plan, Reduction, Store, Variant
from optdsl.types import DType

IMPORTED = (
    *("both", "div", "either", "element_pointer", "exp", "greatest", "isfinite", "least", "log"),
    *("maximum", "minimum", "power", "round_even", "sign", "sqrt", "tanh"),
)
STORAGE = ("kept", "load", "save")
DRAWS = ("draw_key", "exponential", "rand", "randn")
"""What kernels import of triton/math.py, of triton/storage.py and of triton/draws.py."""
FRAME = (
    *("tasks", "pointers", "shapes", "scalars", "partials", "results", "live", "P", "REAL"),
    *("BLOCK", "ROWS", "LANES", "WHOLE", "ALIGNED", "task", "tensor", "lo", "n", "end"),
    *("start", "shape", "table", "out", "i", "r", "c", "b", "mask", "in_rows", "in_cols", "rows"),
    *("cols", "numel", "batch"),
)
"""Names of the frames, which the rule's variables may not take."""


def triton_kernels(plan: Plan, prologues: Sequence[str] = ()) -> str:
    """The kernels of all variants, behind `prologues`, as the text of one module: the same bytes
    for the same plan.

    Raises InternalError for a plan that this target cannot express.
    """
    kernels = {f"prologue {index}": text for index, text in enumerate(prologues)}
    for variant in plan.variants:
        for each in variant.passes:
            if isinstance(each, KernelPass):
                text = _kernel(plan, variant, each)
                if kernels.setdefault(each.name, text) != text:
                    raise InternalError("codegen.triton", f"two passes are called {each.name}")
    imports = []
    for module, functions in (("draws", DRAWS), ("math", IMPORTED), ("storage", STORAGE)):
        used = [each for each in functions if _mentions(kernels.values(), each)]
        if used:
            left = f"from optdsl.runtime.triton.{module} import "
            imports.append(_wrapped(left, used, "", 0, brackets=True))
    text = render("triton/module.py.j2", imports=imports, kernels=list(kernels.values()))
    return "\n".join(_fit(line) for line in text.splitlines()) + "\n"


def _kernel(plan: Plan, variant: Variant, kernel: KernelPass) -> str:
    places = Places(plan, variant, kernel)
    reductions = [each for phase in kernel.phases for each in (*phase.rows, *phase.partials)]
    taken = {
        *IMPORTED,
        *STORAGE,
        *DRAWS,
        *FRAME,
        *places.names,
        *(f"{each}_ptr" for each in plan.slots),
    }
    for each in reductions:
        taken |= {f"{each.slot}{suffix}" for suffix in ("_acc", "_part", "_tail")}
    body = write_body(kernel, "triton", plan.rule.view, places.leaf, taken)
    task = [spelt(line) for line in body.task]
    if places.tiled:
        return _rows(places, variant, task, body.phases)
    return _flat(places, variant, task, [line.name for line in body.task], body.phases[0])


# ---------------------------------------------------------------- flat


def _flat(
    places: Places, variant: Variant, task: list[str], names: list[str], phase: PhaseLines
) -> str:
    """A function for one block of elements, and the kernel that calls it for a task's whole blocks
    and for its tail."""
    element = [*map(spelt, phase.element), *_stores(places, phase.stores)]
    for sink in phase.partials:
        element.append(_commented(f"{_slot(sink)}_part = {_masked(sink, 'mask')}", sink))
    # The numbers of a group may be worked out of those of the run, which are read where they lie.
    known = [*places.names, *(f"{each}_ptr" for each in places.slots), *names, *SIZES, "results"]
    arguments = [name for name in known if _mentions(element, name)]
    name = f"{places.kernel.name}_part"
    offsets = _offsets(places.kernel)
    totals = [_Total(each, f"out{offsets[each.slot]}") for each in places.kernel.reductions]
    constants = [name for name in ("REAL", *places.types) if _mentions(element, name)]
    declared = [*arguments, "start", "end", *_constants(["LANES", *constants])]

    def call(suffix: str, start: str, end: str, lanes: str, depth: int) -> str:
        targets = ", ".join(f"{each.slot}{suffix}" for each in totals)
        left = f"{targets} = {name}(" if targets else f"{name}("
        return _wrapped(left, [*arguments, start, end, lanes, *constants], ")", depth)

    return render(
        "triton/flat.py.j2",
        name=places.kernel.name,
        said=_said(variant, places.kernel),
        part=_wrapped(f"def {name}(", declared, "):", 0),
        element=element,
        numbered=_mentions(element, "i") or _mentions(element, "mask"),
        masked=_mentions(element, "mask"),
        returned=", ".join(f"{each.slot}_part" for each in totals),
        start=_start(places, variant, task, [*element, *arguments]),
        constants=_signature(("P", "REAL", *places.types, "BLOCK", "WHOLE", "ALIGNED")),
        buffers=places.columns,
        full=places.kernel.domain is Domain.FULL,
        block=call("_part", "0", "end", "BLOCK", 4),
        tail=call("_tail", "end", "n", "WHOLE", 8),
        totals=totals,
    )


@dataclass(frozen=True)
class _Total:
    """A reduction's accumulator, as the frames spell it; `target` is the place of its partial."""

    what: Reduction
    target: str

    @property
    def slot(self) -> str:
        return self.what.slot

    def first(self, shape: str) -> str:
        return f"{self.slot}_acc = tl.full({shape}, {_identity(self.what)}, REAL)"

    def plus(self, value: str) -> str:
        """One step of the accumulation."""
        name = f"{self.slot}_acc"
        if self.what.op == "sum":
            return f"{name} += {value}"
        return f"{name} = {fill_text(OPS[self.what.op].triton, [name, value])}"

    def closed(self, name: str) -> str:
        """All elements of a block as one number."""
        return CLOSE[self.what.op].format(name)


# ---------------------------------------------------------------- rows


def _rows(places: Places, variant: Variant, task: list[str], phases: Sequence[PhaseLines]) -> str:
    """A kernel for a tile of whole rows, which visits its columns once a phase."""
    offsets = _offsets(places.kernel)
    parts = [_phase(places, phase, offsets) for phase in phases]
    texts = [text for part in parts for text in (*part.before, *part.loop, *part.after)]
    return render(
        "triton/rows.py.j2",
        name=places.kernel.name,
        said=_said(variant, places.kernel),
        constants=_signature(("P", "REAL", *places.types, "ROWS", "BLOCK", "ALIGNED")),
        buffers=places.columns,
        start=_start(places, variant, task, texts),
        phases=parts,
    )


@dataclass(frozen=True)
class _Part:
    """A phase: lines before the loop over columns, in it, and after it."""

    before: list[str]
    loop: list[str]
    after: list[str]


def _phase(places: Places, phase: PhaseLines, offsets: dict[str, str]) -> _Part:
    before, loop, after = [spelt(line) for line in phase.row], [], []
    for sink in (*phase.rows, *phase.partials):
        assert isinstance(sink.what, Reduction)
        total = _Total(sink.what, f"out{offsets.get(sink.what.slot, '')}")
        if sink.level == "row" and sink in phase.partials:
            part = f"{total.slot}_part"
            before.append(_commented(f"{part} = {_masked(sink, 'in_rows')}", sink))
            before.append(f"tl.store({total.target}, {total.closed(part)})")
        elif sink.what.domain is Domain.COL:
            column = CLOSE_COLS[sink.what.op].format(_masked(sink, "mask"))
            loop.append(_commented(f"tl.store({total.target} + c, {column}, in_cols)", sink))
        else:
            before.append(total.first("[ROWS, BLOCK]"))
            loop.append(_commented(total.plus(_masked(sink, "mask")), sink))
            if sink in phase.partials:
                after.append(f"tl.store({total.target}, {total.closed(f'{total.slot}_acc')})")
    before += _stores(places, [sink for sink in phase.stores if sink.level == "row"])
    loop += _stores(places, [sink for sink in phase.stores if sink.level != "row"])
    return _Part(before, [*map(spelt, phase.element), *loop] if loop else [], after)


def _offsets(kernel: KernelPass) -> dict[str, str]:
    """Where each reduction's partial stands in those of a task: a column's are `cols` numbers."""
    offsets, numbers, columns = {}, 0, 0
    for each in kernel.reductions:
        wide = {0: "", 1: " + cols"}.get(columns, f" + {columns} * cols")
        offsets[each.slot] = plus("", numbers) + wide
        columns += each.domain is Domain.COL
        numbers += each.domain is not Domain.COL
    return offsets


# ---------------------------------------------------------------- lines


def _start(places: Places, variant: Variant, task: list[str], later: Sequence[str]) -> list[str]:
    """What a program works out before its first element; nothing that nobody reads."""
    pointers = list(places.pointers())
    read = [*pointers, *task, *later]
    matrix = [places.matrix()] if _mentions(read, "b") else []
    lines = []
    for name, column in SIZES.items():
        if _mentions([*read, *matrix], name) and not (places.tiled and name == "cols"):
            lines.append(f"{name} = tl.load({plus('shape', column)})")
    if any(places.buffers[each].entry for each in places.used) and _mentions(pointers, "numel"):
        lines += [
            "if ALIGNED:",
            "    numel = tl.multiple_of(numel, 16)  # entries lie side by side",
        ]
    if _mentions(read, "scalars"):
        lines.append(f"scalars += tl.load(shape + 4) * {len(variant.scalars)}")
    if places.kernel.reductions:
        lines.append("out = partials + tl.load(task + 3)")
    return [*lines, *matrix, *pointers, *task]


def _stores(places: Places, sinks: Sequence[Sink]) -> Iterator[str]:
    """Lines that write; where that may be what other lanes read from elsewhere, behind them all."""
    names = {sink.what.buffer for sink in sinks if isinstance(sink.what, Store)}
    if not names.isdisjoint(places.overlapping):
        yield "tl.debug_barrier()  # one entry of a state may be another"
    for sink in sinks:
        assert isinstance(sink.what, Store)
        yield _commented(places.store(sink.what.buffer, _value(sink)), sink)


def _masked(sink: Sink, mask: str) -> str:
    """A reduction's value, its identity where there is no element."""
    what = sink.what
    assert isinstance(what, Reduction)
    return f"tl.where({mask}, {_value(sink)}, {_identity(what)})"


def _value(sink: Sink) -> str:
    """What a sink takes, as a number and as an argument."""
    if sink.what.value.type.dtype is DType.BOOL:
        return f"({sink.name}).to(REAL)"
    return bare(sink.name)


def _constants(names: Iterable[str]) -> list[str]:
    return [f"{name}: tl.constexpr" for name in names]


def _signature(names: Iterable[str]) -> str:
    """A kernel's constants, as the last lines of its parameters."""
    lines = _wrapped("", _constants(names), "", 0).splitlines()
    if len(lines) == 1:
        return f"{lines[0]},"
    return "\n".join(lines).strip()


def _slot(sink: Sink) -> str:
    assert isinstance(sink.what, Reduction)
    return sink.what.slot


def _identity(reduction: Reduction) -> str:
    return literal(OPS[reduction.op].identity or 0.0)


def _said(variant: Variant, kernel: KernelPass) -> list[str]:
    """The comment above a kernel."""
    return textwrap.wrap(summary(variant, kernel), LINE_LENGTH - 2, break_on_hyphens=False)


def spelt(line: Line) -> str:
    text = f"{line.name} = {bare(line.expression)}"
    return f"{text}  # {line.comment}" if line.comment else text


def _commented(text: str, sink: Sink) -> str:
    """`text` with the rule's place where the sink's value has no line of its own."""
    place = place_of(sink.what.value)
    return f"{text}  # {place}" if place and not re.fullmatch(r"\w+", sink.name) else text


def _fit(line: str) -> str:
    """`line` in at most LINE_LENGTH columns: its comment before it, the rest broken at spaces, all
    of which stand in parentheses then."""
    if len(line) <= LINE_LENGTH:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    code, mark, comment = line.strip().partition("  # ")
    head, equals, tail = code.partition(" = ")
    if equals and re.fullmatch(r"\w+", head):
        first, middle, last = [f"{indent}{head} = ("], tail, [f"{indent})"]
    else:
        first, middle, last = [], code, []
    lines = textwrap.wrap(
        middle,
        LINE_LENGTH,
        initial_indent=f"{indent}    " if first else indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join([*([f"{indent}# {comment}"] if mark else []), *first, *lines, *last])


def _mentions(texts: Iterable[str], name: str) -> bool:
    word = re.compile(rf"(?<![\w.]){name}\b")
    return any(word.search(line.split("  # ")[0]) for text in texts for line in text.splitlines())


def _wrapped(
    left: str, items: Sequence[str], right: str, depth: int, *, brackets: bool = False
) -> str:
    """`left`, the items with commas, `right`: on one line where that fits, else over several.
    `brackets` adds parentheses for the second form, where `left` opens none."""
    line = left + ", ".join(items) + right
    if depth + len(line) <= LINE_LENGTH:
        return line
    opened, closed = (f"{left}(", f"){right}") if brackets else (left, right)
    lines, pad = [""], " " * (depth + 4)
    for item in items:
        if lines[-1] and len(pad) + len(lines[-1]) + len(item) + 2 > LINE_LENGTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{item},"
    return "\n".join([opened, *(pad + each for each in lines), " " * depth + closed])
