"""Kernel passes as C for the CPU.

Input: a plan. Output: one C text without includes; a function a pass, called once a task with the
rows of the task's tensor in the tables (see runtime/program.py).

The text is the same for all dtypes of parameters, which a -D chooses when it is built. Loops over
elements are `omp simd`; a sum is formed per block of BLOCK elements in lanes, blocks are added in
double: the error of a task's partial stays below that of some BLOCK / 8 additions, and its bits
depend on the processor, never on threads.

What a flat pass reads it asks for 1 KiB ahead, which gave AdamW over arrays beyond the caches 1.11
of its speed. A sum over fewer than STREAMS arrays walks through a task at four places by turns, as
more lines are then under way: 1.3 for a norm.

Relies on: body.py for lines and names, the `c` column of the op table, templates/cpu.
Does not do: tasks, the finish of reductions, threads (runtime).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from optdsl import randomness
from optdsl.codegen.body import Body, Line, PhaseLines, Sink, bare, write_body
from optdsl.codegen.cpu_places import C_TYPES, FIRST, REAL, Places, plain
from optdsl.codegen.summary import summary
from optdsl.codegen.templates import render
from optdsl.diagnostics import InternalError
from optdsl.ir.fold import host_text
from optdsl.ir.nodes import Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.schedule.plan import Buffer, Domain, KernelPass, Plan, Reduction, Variant

LINE_LENGTH = 100
SHOWN = 24
"""Values in a host expression that is still shown where its number is read."""
BLOCK = 256
"""Elements of one float32 sum. 16 lines of each operand: enough to hide the lanes' last additions
(blocks of 64 took 1.3 of the time where all lies in L2), few enough to be asked for at once."""
STRIP = 64
"""Elements between requests where nothing is summed: four lines of each operand."""
STREAMS = 3
"""Arrays that keep memory busy by themselves."""

# Combine an accumulator with a value; NaN where either is.
_FOLDS = {"sum": "+", "max_of": "largest", "min_of": "smallest"}
_JOIN = {
    "sum": "{0} += {1};",
    "max_of": "{0} = larger({0}, {1});",
    "min_of": "{0} = smaller({0}, {1});",
}

_FUNCTIONS = {
    **{
        name: f"#define {name}(x) MATH({name})(x)"
        for name in ("exp", "log", "sin", "cos", "tanh", "sqrt", "fabs", "floor", "ceil", "rint")
    },
    "pow": "#define pow(x, y) MATH(pow)(x, y)",
    "fma": "#define fma(x, y, z) MATH(fma)(x, y, z)",
    "INFINITY": "#define INFINITY __builtin_inff()",
    "NAN": '#define NAN __builtin_nanf("")',
    "ahead": (
        "#ifndef ahead  // a build may ask for nothing\n"
        "static inline void ahead(const void *at, long long bytes)\n"
        "{\n"
        "    for (long long i = 1024; i < 1024 + bytes; i += 64)\n"
        "        __builtin_prefetch((const char *)at + i);\n"
        "}\n"
        "#endif"
    ),
    "larger": "static inline real larger(real x, real y) { return x > y || x != x ? x : y; }",
    "smaller": "static inline real smaller(real x, real y) { return x < y || x != x ? x : y; }",
    "sign": "static inline real sign(real x) { return (real)(x > 0) - (real)(x < 0); }",
    "isfinite": ("static inline int isfinite(real x) { return MATH(fabs)(x) < __builtin_inff(); }"),
    # A rounded quotient may be the integer above; the remainder is exact.
    "mod": (
        "static inline real mod(real x, real y)\n"
        "{\n"
        "    const real rest = MATH(fmod)(x, y);\n"
        "    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;\n"
        "}"
    ),
    "floordiv": (
        "static inline real floordiv(real x, real y)\n"
        "{\n"
        "    const real rest = MATH(fmod)(x, y), whole = MATH(rint)((x - rest) / y);\n"
        "    return y == 0 ? x / y : whole - (rest != 0 && (rest < 0) != (y < 0));\n"
        "}"
    ),
    "largest": (
        "#pragma omp declare reduction(largest : real : omp_out = larger(omp_out, omp_in)) \\\n"
        "    initializer(omp_priv = -INFINITY)"
    ),
    "smallest": (
        "#pragma omp declare reduction(smallest : real : omp_out = smaller(omp_out, omp_in)) \\\n"
        "    initializer(omp_priv = INFINITY)"
    ),
}
"""What kernels may call, in an order in which each is defined before it is used."""


def c_source(plan: Plan) -> str:
    """The C text of all kernel passes of `plan`, in order.

    Raises InternalError for a plan that no schedule makes (a value out of its pass's reach).
    """
    kernels = [
        _Kernel(variant, each, Places(plan, variant, each)).text()
        for variant in plan.variants
        for each in variant.passes
        if isinstance(each, KernelPass)
    ]
    file = plan.rule.source.name.rsplit("/", 1)[-1]
    title = f"Kernels of {plan.rule.name} ({file}) for the CPU."
    functions = _definitions("\n".join(kernels))
    text = render(
        "cpu/module.c.j2",
        title=title,
        block=BLOCK,
        functions=functions,
        stored=_stored(plan),
        draws=_draws("".join(kernels)),
        kernels=kernels,
    )
    return "\n".join(_fit(line) for line in text.splitlines()) + "\n"


def _fit(line: str) -> str:
    """`line` in at most LINE_LENGTH columns: its comment before it, the rest broken at spaces."""
    if len(line) <= LINE_LENGTH:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    code, mark, comment = line.strip().partition("  // ")
    more = f"{indent}    "
    lines = textwrap.wrap(
        code,
        LINE_LENGTH - 2,
        initial_indent=indent,
        subsequent_indent=more,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if code.startswith("#"):
        lines = [*(f"{each} \\" for each in lines[:-1]), lines[-1]]
    start = f"{indent}// "
    said = textwrap.wrap(comment, LINE_LENGTH, initial_indent=start, subsequent_indent=start)
    return "\n".join([*said, *lines] if mark else lines)


def _stored(plan: Plan) -> list[list[str]]:
    """For each buffer whose storage a class may choose: its name, and as what a build takes it that
    says nothing, by type, widening and narrowing."""
    buffers = {
        each.name: each
        for variant in plan.variants
        for each in variant.buffers
        if each.name in variant.stored
    }
    return [[plain(n), *C_TYPES.get(each.storage, REAL)] for n, each in buffers.items()]


def _definitions(text: str) -> list[str]:
    """The functions that `text` uses, and those that these use."""
    text = re.sub(r"//.*", "", text)
    used: set[str] = set()
    for name in reversed(_FUNCTIONS):
        needed = [text, *(_FUNCTIONS[each] for each in used)]
        if any(re.search(rf"(?<!MATH\()\b{name}\b", each) for each in needed):
            used.add(name)
    return [definition for name, definition in _FUNCTIONS.items() if name in used]


def _draws(text: str) -> str:
    """The functions that draw what `text` draws."""
    random = [op.name for op in OPS.values() if op.kind is Kind.RANDOM]
    names = [name for name in random if re.search(rf"\b{name}\(", re.sub(r"//.*", "", text))]
    constants = {"log": randomness.LOG, "sine": randomness.SINE, "log_2": randomness.LOG_2}
    return render("cpu/draws.c.j2", names=names, **constants) if names else ""


@dataclass
class _Kernel:
    """Prints one pass."""

    variant: Variant
    kernel: KernelPass
    places: Places

    def text(self) -> str:
        places, rows = self.places, self.places.rows
        body = write_body(self.kernel, "c", places.view, places.leaf)
        lines = self._rows(body) if rows else self._flat(body)
        return render(
            f"cpu/{self.kernel.layout}.c.j2",
            name=self.kernel.name,
            pad=" " * len(self.kernel.name),
            comment=summary(self.variant, self.kernel).replace("*/", "* /"),
            setup=[*places.declarations(), *map(self._line, body.task)],
            lines=lines,
            closing=places.closing(),
        )

    def _line(self, line: Line) -> str:
        kind = "int" if line.boolean else "real"
        if line.value.op == "draw_key":
            kind = "struct words"
        text = f"const {kind} {line.name} = {bare(line.expression)};"
        comment = "" if line.value.op == "load" else line.comment
        if line.value.op == "scalar":
            host = self.variant.scalars[line.value.attr("index")]
            if len(reachable([host])) <= SHOWN:
                comment = bare(host_text(host))
        comment = " ".join(comment.split()).rstrip("\\")  # a string may hold what ends a line
        return f"{text}  // {comment}" if comment not in ("", line.name) else text

    def _flat(self, body: Body) -> list[str]:
        (phase,) = body.phases
        lines = [self._line(each) for each in phase.element]
        lines += [self._store(sink) for sink in phase.stores]
        ahead = self.places.streams()
        return self._loop(lines, phase.partials, "i", "lo", "hi", ahead)

    def _rows(self, body: Body) -> list[str]:
        """The lines of one row: its phases one after another, in one scope."""
        lines: list[str] = []
        declared: set[Value] = set()
        for phase in body.phases:
            self._forbid_reload(phase, body)
            lines += [
                f"double {plain(sink.what.slot)}_total = {FIRST[sink.what.op]};"
                for sink in phase.rows
                if isinstance(sink.what, Reduction)
            ]
            # What an earlier phase has read of the row is kept: it may have been overwritten.
            lines += [self._line(each) for each in phase.row if each.value not in declared]
            declared |= {each.value for each in phase.row}
            lines += self._row_phase(phase)
        return lines

    def _row_phase(self, phase: PhaseLines) -> list[str]:
        by_row = [s for s in phase.partials if s.level == "row"]
        by_element = [s for s in (*phase.rows, *phase.partials) if s.level != "row"]
        stores = [s for s in phase.stores if self._target(s).domain is not Domain.ROW]
        inner = [self._line(each) for each in phase.element]
        inner += [self._store(sink) for sink in stores]
        lines = self._loop(inner, by_element, "c", "0", "cols") if by_element or stores else []
        lines += [self._store(sink) for sink in phase.stores if sink not in stores]
        return lines + [_join(f"{plain(_reduced(s).slot)}_total", s) for s in by_row]

    def _forbid_reload(self, phase: PhaseLines, body: Body) -> None:
        """What a phase has written, no later one may load."""
        later = body.phases[body.phases.index(phase) + 1 :]
        loads = {e.value.attr("buffer") for p in later for e in p.element if e.value.op == "load"}
        both = loads & {self._target(sink).name for sink in phase.stores}
        if both:
            raise self.places.broken(f"{sorted(both)} are written and then loaded")

    def _target(self, sink: Sink) -> Buffer:
        if isinstance(sink.what, Reduction):
            raise self.places.broken("a reduction is no store")
        return self.places.buffers[sink.what.buffer][1]

    def _store(self, sink: Sink) -> str:
        buffer = self._target(sink)
        within = {self.kernel.domain, *([Domain.ROW] if self.places.rows else [])}
        if buffer.domain not in within:
            raise self.places.broken(f"{buffer.name}, of {buffer.domain}, cannot be written here")
        return f"{self.places.place(buffer)} = {self.places.called(2, buffer, bare(sink.name))};"

    def _loop(
        self,
        lines: list[str],
        sinks: Sequence[Sink],
        index: str,
        first: str,
        end: str,
        ahead: Sequence[str] = (),
    ) -> list[str]:
        """A loop over elements in lanes, in blocks where something is reduced; the arrays `ahead`
        are asked for in advance."""
        folds: dict[str, list[str]] = {}
        blocks, after, inner = [], [], list(lines)
        for sink in sinks:
            reduction = _reduced(sink)
            name = plain(reduction.slot)
            if reduction.domain is Domain.COL:
                inner.append(_join(f"{name}_at[c]", sink))
                continue
            folds.setdefault(_FOLDS[reduction.op], []).append(f"{name}_block")
            blocks.append(f"real {name}_block = {FIRST[reduction.op]};")
            inner.append(_join(f"{name}_block", sink))
            after.append(_JOIN[reduction.op].format(f"{name}_total", f"{name}_block"))
        clauses = [f"reduction({fold} : {', '.join(names)})" for fold, names in folds.items()]
        text = render(
            "cpu/loop.c.j2",
            blocks=blocks,
            clauses="".join(f" {each}" for each in clauses),
            lines=inner,
            after=after,
            size=BLOCK if blocks else STRIP if ahead else 0,
            streams=bool(blocks) and 0 < len(ahead) < STREAMS,
            ahead=ahead,
            index=index,
            first=first,
            end=end,
        )
        return text.splitlines()


def _reduced(sink: Sink) -> Reduction:
    if not isinstance(sink.what, Reduction):
        raise InternalError("codegen/cpu", f"{sink.name} is stored, not reduced")
    return sink.what


def _join(accumulator: str, sink: Sink) -> str:
    return _JOIN[_reduced(sink).op].format(accumulator, bare(sink.name))
