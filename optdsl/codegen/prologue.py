"""The scalar rows of a step worked out on the device, from the same values as the host's functions.

Input: a plan. Output: for each scalar row a Triton kernel, a program a row, and a host function
`inputs_N(h, e)` that gives the numbers it reads, besides t and steps: hyperparameters, sizes,
attributes. Where t, or whether the step happens at all, is known to the device alone (in a CUDA
graph, under a gradient scaler), nothing else tells kernels their numbers.

Relies on: script.py and host.py for lines, the op table's `triton` column, at float64.
Does not do: the decision between variants, which is the host's: `hosted` says where it needs t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from optdsl.codegen.body import bare, place, place_of
from optdsl.codegen.host import Host
from optdsl.codegen.literals import Call, call, literal, tuple_of
from optdsl.codegen.script import Script, Text
from optdsl.codegen.templates import render
from optdsl.codegen.triton import FRAME, IMPORTED, triton_kernels
from optdsl.codegen.triton_places import literal as number
from optdsl.diagnostics import InternalError
from optdsl.ir.fold import host_text
from optdsl.ir.nodes import Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.schedule.plan import Decision, LibraryPass, Plan, Variant, is_known
from optdsl.types import DType

COLUMNS = ("hyper", "attribute", "size", "first", "name_matches")
"""What the host tells the device once, or when it changes."""
PARAMETERS = ("counts", "inputs", "gate", "live", "scalars", "row", "runs", "unscaled")


@dataclass
class Prologues:
    """Writes the prologues of one plan; equal scalar rows have one. `kernels` and `functions` are
    their texts; both are empty where the host must look in each step."""

    plan: Plan
    host: Host
    kernels: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hosted = list(dict.fromkeys(_hosted(self.plan)))
        for variant in [] if self.hosted else self.plan.variants:
            name = self.host.scalars[variant.index]
            if name not in self.calls:
                self._write(name, variant)

    def call(self, variant: Variant) -> Call | str:
        """The variant's `prologue`, as its `Variant` says it."""
        return self.calls.get(self.host.scalars[variant.index], "None")

    def _write(self, name: str, variant: Variant) -> None:
        columns: dict[Value, int] = {}
        for value in reachable(variant.scalars):
            if value.op in COLUMNS:
                columns[value] = len(columns) + 1  # the first is the sign of the gradient
        inputs = name.replace("scalars", "inputs")
        self.functions.append(self.host.inputs(inputs, name, list(columns)))
        self.kernels.append(_kernel(name, variant, columns))
        places = [
            (column, value.attr("name"), value.attr("index"))
            for value, column in columns.items()
            if value.op == "hyper"
        ]
        self.calls[name] = call(
            "Prologue",
            kernel=literal(name),
            inputs=inputs,
            hypers=tuple_of([literal(each) for each in places]),
        )


def triton_source(plan: Plan, prologues: Prologues | None = None) -> str:
    """The Triton module of a plan: its prologues, then its kernels."""
    if prologues is None:
        host = Host(plan)
        host.texts()  # which names the functions of scalar rows
        prologues = Prologues(plan, host)
    return triton_kernels(plan, prologues.kernels)


def _hosted(plan: Plan) -> Iterator[str]:
    """The statements for which the host must know t in each step, or does work itself."""
    for condition in _conditions(plan.decision):
        if any(value.op in ("t", "steps") for value in reachable([condition])):
            yield _said(condition, f"`{host_text(condition)}` chooses the passes")
        else:
            yield from _drawn(condition)
    for state in plan.rule.host_states:
        yield f"`{state.name}` is a number that the host keeps"
    for given in plan.rule.inputs:
        yield f"`{given.name}` comes with each step"
    for variant in plan.variants:
        if variant.evaluates:
            yield "the model is evaluated in the middle of it"
        for join in variant.joins:
            yield f"`{join.part}` of all parameters is put together by the host"
        for _, entry in variant.planes:
            state = plan.rule.state(entry.state)
            if not is_known(entry.number, state.type.shape.dims[0]):
                where = f" ({place(state.span)})" if state.span else ""
                yield f"the host tests whether there is `{entry.text}`{where}"
        for root in variant.scalars:
            if any(v.type.dtype is DType.STRING or v.op == "loop" for v in reachable([root])):
                yield _said(root, "a number depends on text or on a loop")
            yield from _drawn(root)
        for each in variant.passes:
            if isinstance(each, LibraryPass):
                yield _said(_leading(each), "matrices, sorting and draws are the work of torch")


def _drawn(root: Value) -> Iterator[str]:
    if any(OPS[value.op].kind is Kind.RANDOM for value in reachable([root])):
        yield _said(root, "a number for all parameters is drawn by the host")


def _leading(library: LibraryPass) -> Value:
    """A value by which to name a library pass."""
    values = reachable([store.value for store in library.outputs])
    placed = [value for value in values if value.span is not None]
    work = [value for value in placed if OPS[value.op].kind in (Kind.MATRIX, Kind.RANDOM)]
    return (work or placed or values)[0]


def _said(value: Value, text: str) -> str:
    below = (each for each in reachable([value]) if each.span is not None)
    place = place_of(value) or next(map(place_of, below), "")
    return f"{text} ({place})" if place else text


def _conditions(decision: Decision | int) -> Iterator[Value]:
    if isinstance(decision, Decision):
        yield decision.condition
        yield from _conditions(decision.then)
        yield from _conditions(decision.otherwise)


def _kernel(name: str, variant: Variant, columns: dict[Value, int]) -> str:
    def spell(value: Value, text: Text) -> str | None:
        if value in columns:
            loaded = f"tl.load(inputs + {columns[value]})"
            return f"{loaded} != 0.0" if value.type.dtype is DType.BOOL else loaded
        if value.op == "const":
            return number(value.attr("value")).replace("REAL", "tl.float64")
        if value.op == "choose":
            return f"tl.where({', '.join(bare(text(arg)) for arg in value.args)})"
        if OPS[value.op].kind is not Kind.MAP:
            raise InternalError("codegen/prologue", f"{value.op} in the scalars of {name}")
        return None

    def called(value: Value) -> str | None:
        if value not in columns:
            return None
        attrs = dict(value.attrs)
        return "_".join(map(str, (attrs.get("name", value.op), *attrs.get("index", ()))))

    taken = {*PARAMETERS, *FRAME, *IMPORTED, "t", "steps", "g_scale", "tl", "triton"}
    script = Script(spell, lambda value: "triton", taken, called)
    given = [v for v in reachable(variant.scalars) if v.op in ("t", "steps", "g_scale")]
    script.names.update((value, value.op) for value in given)
    for index, (value, text) in enumerate(
        zip(variant.scalars, script.write(variant.scalars), strict=True)
    ):
        text = f"({text}).to(tl.float64)" if value.type.dtype is DType.BOOL else bare(text)
        place = "scalars" if not index else f"scalars + {index}"
        script.add(f"tl.store({place}, {text})", value)
    return render(
        "triton/scalars.py.j2",
        name=name,
        said=f"The function {name} on the device, a program a row.",
        columns=len(columns) + 1,
        width=len(variant.scalars),
        lines=script.lines,
    )
