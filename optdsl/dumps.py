"""What a stage of the compiler leaves, as text: for `--dump-after` and `show`.

Input: a stage's result. Output: text. Relies on: ir.text for values.
Does not do: read anything back but a typed rule (ir.reading).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optdsl.ir.fold import host_text
from optdsl.ir.nodes import Builder, Rule, Value
from optdsl.ir.reading import PLACE
from optdsl.ir.text import rule_text, values_text
from optdsl.passes.variants import Branch, Split
from optdsl.schedule.levels import Levelled
from optdsl.schedule.plan import Decision, KernelPass, LibraryPass, Plan, Variant
from optdsl.schedule.search import Choice
from optdsl.source import Span
from optdsl.syntax import ast

Path = tuple[tuple[Value, bool], ...]


def dump_text(result: object) -> str:
    """The text of what any stage left; ends with a newline."""
    match result:
        case ast.Node():
            lines = tree_lines(result)
        case Rule():
            return rule_text(result)
        case Split():
            lines = _split(result)
        case Plan():
            lines = plan_lines(result)
        case [*variants]:
            lines = (line for i, each in enumerate(variants) for line in _variant_of(i, each))
        case _:
            return str(result)
    return "\n".join(lines) + "\n"


def condition_text(path: Path) -> str:
    """Host conditions with the side taken: `t % k == 0 and not nesterov`; empty for none."""
    return " and ".join(_side_text(value, side) for value, side in path)


_OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


def _side_text(value: Value, side: bool) -> str:
    if not side and value.op in _OPPOSITE:
        builder = Builder()
        return host_text(builder.make(_OPPOSITE[value.op], value.args, value.type))
    text = host_text(value)
    compound = value.op in ("and", "or", "name_matches")
    if compound:
        text = f"({text})"
    return text if side else f"not {text}"


# ---------------------------------------------------------------- tree


def tree_lines(node: ast.Node, label: str = "", depth: int = 0) -> Iterator[str]:
    """A node a line, with its plain fields; what lies below it is indented."""
    plain, below = [], []
    for field in node.__match_args__:
        value = getattr(node, field)
        nodes = isinstance(value, tuple) and any(isinstance(each, ast.Node) for each in value)
        if isinstance(value, ast.Node) or nodes:
            below.append((field, value))
        elif not isinstance(value, Span) and value not in (None, ()):
            plain.append(f" {field}={value!r}")
    line, column = node.span.source.position(node.span.start)
    yield f"{'  ' * depth}{label}{type(node).__name__}{''.join(plain)}  @{line}:{column}"
    for field, value in below:
        for each in value if isinstance(value, tuple) else (value,):
            yield from tree_lines(each, f"{field}: ", depth + 1)


# ---------------------------------------------------------------- stages


def _values(outputs: Sequence[tuple[str, Value]], indent: str) -> Iterator[str]:
    for line in values_text(outputs).splitlines():
        if not line.startswith("source "):
            yield indent + PLACE.sub("", line)


def _tree(tree: Branch | Decision | int, indent: str = "") -> Iterator[str]:
    if isinstance(tree, int):
        yield f"{indent}variant {tree}"
        return
    yield f"{indent}if {host_text(tree.condition)}"
    yield from _tree(tree.then, indent + "  ")
    yield f"{indent}else"
    yield from _tree(tree.otherwise, indent + "  ")


def _heading(index: int, path: Path) -> str:
    condition = condition_text(path)
    return f"variant {index}" + (f"  # {condition}" if condition else "")


def _split(split: Split) -> Iterator[str]:
    yield from _tree(split.tree)
    for index, variant in enumerate(split.variants):
        yield ""
        yield _heading(index, variant.path)
        shared = [(f"{slot} ({op})", v) for slot, (op, v) in variant.contributions.items()]
        yield from _values([*variant.outputs.items(), *shared], "  ")


def _variant_of(index: int, result: object) -> Iterator[str]:
    """One variant's part of the result of find_levels or choose_passes."""
    if isinstance(result, Levelled):
        yield from _levels(index, result)
    if isinstance(result, Choice):
        yield from _choice(index, result)


def _levels(index: int, levelled: Levelled) -> Iterator[str]:
    yield f"variant {index}"
    reduced = [(f"slot {slot}", value) for slot, value in levelled.reductions.items()]
    yield from _values([*levelled.outputs.items(), *reduced], "  ")
    for level in sorted(set(levelled.level.values())):
        at = [value for value, each in levelled.level.items() if each == level]
        named = sorted({_name(value) for value in at if value.type.on_device})
        yield f"  from stage {level}: {', '.join(named)}"
    library = sorted({_name(value) for value in levelled.library})
    if library:
        yield f"  by the library: {', '.join(library)}"


def _choice(index: int, choice: Choice) -> Iterator[str]:
    yield f"variant {index}: {choice.bytes:g} bytes per parameter"
    for sink, stage in choice.stage.items():
        what = f"{sink.kind} {sink.name or _name(sink.value)}"
        yield f"  stage {stage}: {what} (could be {sink.earliest} to {sink.latest})"
    for stage, loads in enumerate(choice.loads):
        yield f"  stage {stage}: loads {', '.join(sorted(_name(value) for value in loads))}"
    for value in choice.temps:
        yield f"  kept for later passes: {_name(value)}"


def _name(value: Value) -> str:
    if value.op in ("param", "grad"):
        return {"param": "p", "grad": "g"}[value.op]
    if value.op in ("state", "input"):
        return str(value.attr("name"))
    if value.op == "result":
        return str(value.attr("slot"))
    return value.name or f"{value.op}%{value.id}"


# ---------------------------------------------------------------- plan


def plan_lines(plan: Plan) -> Iterator[str]:
    """The passes of every variant, over loads, scalars and results."""
    yield f"plan {plan.rule.name} view={plan.rule.view}"
    yield from _tree(plan.decision)
    for slot, domain in plan.slots.items():
        yield f"slot {slot} {domain}"
    for variant in plan.variants:
        yield ""
        yield from _variant(variant)


def _variant(variant: Variant) -> Iterator[str]:
    yield _heading(variant.index, variant.path)
    for buffer in variant.buffers:
        part = f" {buffer.text}" if buffer.entry else ""
        yield f"  buffer {buffer.name} {buffer.role} {buffer.domain} {buffer.storage}{part}"
    for index, scalar in enumerate(variant.scalars):
        yield f"  scalar {index} = {host_text(scalar)}"
    for each in variant.passes:
        if isinstance(each, LibraryPass):
            yield f"  stage {each.stage} library {each.name}"
            yield from _values([(f"store {s.buffer}", s.value) for s in each.outputs], "    ")
        else:
            yield from _kernel(each)
    for model in variant.models:
        where = f"at {model.point}" if model.point else "where the parameters are"
        yield f"  behind stage {model.stage} {model.op} {where} gives {model.slot}"
    for join in variant.joins:
        what = f"{join.op} over {join.over} of {join.part}"
        yield f"  behind stage {join.stage} {what} gives {join.slot}"
    for note in variant.notes:
        yield f"  note {note}"


def _kernel(kernel: KernelPass) -> Iterator[str]:
    yield f"  stage {kernel.stage} kernel {kernel.name} over {kernel.domain}, {kernel.layout}"
    for number, phase in enumerate(kernel.phases):
        if len(kernel.phases) > 1:
            yield f"    phase {number}"
        rows = [(f"row {r.slot} {r.op}", r.value) for r in phase.rows]
        partials = [(f"reduce {r.slot} {r.op} {r.domain}", r.value) for r in phase.partials]
        stores = [(f"store {s.buffer}", s.value) for s in phase.stores]
        yield from _values([*rows, *partials, *stores], "    ")
