"""find_levels: the earliest stage at which each value of each variant can be computed.

Input: straight variants. Output: for each a `Levelled`: reductions taken out as slots, the
values that the library computes, and the stage of every value. A reduction's result is there
one stage after its operand, except for a sum over a row, which closes in the tile that holds
the row; library work runs at the end of a stage, so what it makes is there one stage later.
Shared slots are at one stage in all variants: the latest that any of them needs. So are loops whose
passes tie parameters together.

Does not do: decide when anything is computed (search.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from optdsl.ir.coupling import EVALUATIONS, in_loops, rank
from optdsl.ir.nodes import Builder, Value, operands, reachable
from optdsl.ir.rewrite import rebuild, rewrite
from optdsl.ops import OPS, Kind
from optdsl.passes.variants import STATISTICS, Straight
from optdsl.schedule.plan import Domain, domain_of
from optdsl.types import DType

LIBRARY_OPS = frozenset({"loop", "loop_result", "index", "put_index", "part"})
SMALL = frozenset({Domain.COL, Domain.MATRIX, Domain.TENSOR, Domain.GROUP, Domain.ALL})
WIDE = frozenset({Domain.FULL, Domain.ROW})


@dataclass
class Levelled:
    """One variant, ready to be scheduled. `reductions` by slot; `level` of every value, `slots`
    of every slot; `library` are the values that torch's routines compute. `between` is what is
    worked out between stages from memory, by slot: evaluations of the model, none of which is to
    come, in any variant, from stage `settled` on; and reductions over parameters whose results have
    axes of their own, of what the library reduced within each. `loops` are those whose passes tie
    parameters together, each with a slot for its own stage."""

    outputs: dict[str, Value]
    reductions: dict[str, Value]
    library: frozenset[Value]
    shared: frozenset[str]
    between: dict[str, Value] = field(default_factory=dict)
    settled: int = 0
    level: dict[Value, int] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    loops: dict[Value, str] = field(default_factory=dict)

    @property
    def roots(self) -> list[Value]:
        coupled = (*self.reductions.values(), *self.between.values())
        return [*self.outputs.values(), *(value.args[0] for value in coupled)]

    def behind(self, slot: str) -> int:
        """The stage behind which what is `between` stages is worked out; -1 for the caller's own
        evaluation."""
        return self.slots[slot] - 1


def find_levels(builder: Builder, variants: list[Straight], view: str) -> list[Levelled]:
    found = [_separate(builder, each, view) for each in variants]
    shared: dict[str, int] = {
        slot: 1 if slot in each.reductions else 0 for each in found for slot in each.shared
    }
    while True:
        before = dict(shared)
        for each in found:
            slots = _local_levels(each, shared)
            for slot in each.shared:
                shared[slot] = max(shared[slot], slots[slot])
        if shared == before:
            evaluated = {
                slot for each in found for slot, v in each.between.items() if v.op in EVALUATIONS
            }
            # What a loop leaves is there one stage after it.
            loops = {slot for each in found for loop, slot in each.loops.items() if _asks(loop)}
            ends = [*(shared[slot] for slot in evaluated), *(shared[slot] + 1 for slot in loops)]
            for each in found:
                each.settled = max(ends, default=0)
            return found


def _asks(loop: Value) -> bool:
    """Whether a loop evaluates the model."""
    return any(value.op in EVALUATIONS for value in in_loops([loop]))


def _tying_loops(roots: list[Value]) -> dict[Value, str]:
    """The outermost loops whose passes tie parameters together, with their slots."""
    within = in_loops(roots)
    loops = [v for v in reachable(roots) if v.op == "loop" and v not in within]
    ranks = {loop: rank(loop) for loop in loops}
    return {loop: f"loop_{first}" for loop, first in ranks.items() if first is not None}


def library_values(roots: list[Value], view: str) -> frozenset[Value]:
    """Values that torch's batched routines compute: matrix products, loops and their bodies,
    whatever is worked out from a value whose shape no kernel pass can visit, draws that are not one
    for each element of p or that the library reads, and numbers between two such values, which
    would else part a library pass in two."""
    found: set[Value] = set()
    looping = in_loops(roots)
    order = reachable(roots)
    for value in order:
        kind = OPS[value.op].kind
        if value not in looping and (
            not value.type.on_device
            or not (
                kind is Kind.MATRIX
                or (kind is Kind.RANDOM and not drawn_in_kernels(value, view))
                or value.op in LIBRARY_OPS
                or _odd(value, view)
                or any(_odd(arg, view) for arg in value.args)
            )
        ):
            continue
        found.add(value)
    read = {arg for value in found for arg in operands(value)}
    found |= {v for v in read if OPS[v.op].kind is Kind.RANDOM and v.type.on_device}
    return frozenset(found | _between(order, found, view))


def drawn_in_kernels(value: Value, view: str) -> bool:
    """Of a draw: whether it is one for each element of p, so that it costs no memory."""
    return domain_of(value.type, view) is Domain.FULL


def _between(order: list[Value], library: set[Value], view: str) -> set[Value]:
    """Numbers of a parameter that are worked out from what the library computes, and that it
    reads."""
    read: set[Value] = set()
    numbers: set[Value] = set()
    for value in reversed(order):
        if value in read and value not in library and _is_number(value, view):
            numbers.add(value)
        if value in library or value in numbers:
            read.update(operands(value))
    found: set[Value] = set()
    for value in order:
        if value in numbers and any(arg in library or arg in found for arg in value.args):
            found.add(value)
    return found


def _is_number(value: Value, view: str) -> bool:
    return (
        OPS[value.op].kind is Kind.MAP
        and value.type.on_device
        and value.type.dtype is not DType.BOOL
        and domain_of(value.type, view) in (Domain.TENSOR, Domain.MATRIX)
    )


def _odd(value: Value, view: str) -> bool:
    return value.type.on_device and domain_of(value.type, view) is Domain.SHAPED


def closes_in_row(value: Value, view: str) -> bool:
    """A reduction of a FULL value over its columns: a tile that holds the row has the result."""
    return (
        OPS[value.op].kind is Kind.REDUCE
        and value.attr("over") is None
        and domain_of(value.type, view) is Domain.ROW
        and domain_of(value.args[0].type, view) is Domain.FULL
    )


def _separate(builder: Builder, variant: Straight, view: str) -> Levelled:
    """Replace reductions that need a barrier by `result` leaves."""
    shared: dict[str, Value] = {}
    between: dict[str, Value] = {}
    for slot, (op, value) in variant.contributions.items():
        own = value
        if op in STATISTICS:
            own = _in_memory(builder, value, view)
        elif op not in EVALUATIONS:
            own = _within_each(builder, value, view)
        apart = own.op in EVALUATIONS | STATISTICS or _odd(own, view)
        (between if apart else shared)[slot] = own
    coupled = (*shared.values(), *between.values())
    roots = [*variant.outputs.values(), *(value.args[0] for value in coupled)]
    library = library_values(roots, view)
    reductions: dict[str, Value] = {}

    def step_of(original: set[Value]) -> Callable[[Value], Value]:
        def step(value: Value) -> Value:
            if value.op == "result" and _odd(value, view):
                slot = value.attr("slot")
                return builder.make("evaluated", (), value.type, value.span, slot=slot)
            if OPS[value.op].kind is not Kind.REDUCE or value in original:
                return value
            if closes_in_row(value, view) or _odd(value.args[0], view):
                return value
            slot = _slot_name(value, {**reductions, **shared})
            reductions[slot] = value
            return builder.make("result", (), value.type, value.span, slot=slot)

        return step

    done = rewrite(builder, roots, step_of({v for v in library if OPS[v.op].kind is Kind.REDUCE}))
    for slot, value in shared.items():
        reductions[slot] = rebuild(builder, value, (done[value.args[0]],))
    outputs = {name: done[value] for name, value in variant.outputs.items()}
    handed = {s: rebuild(builder, v, (done[v.args[0]],)) for s, v in between.items()}
    each = Levelled(outputs, reductions, frozenset(), frozenset((*shared, *between)), handed)
    each.library = library_values(each.roots, view)
    each.loops = _tying_loops(each.roots)
    each.shared |= {*each.loops.values()}
    return each


def _in_memory(builder: Builder, value: Value, view: str) -> Value:
    """A statistic of what lies in memory: of a number of each parameter the library makes a copy,
    since no kernel writes one."""
    operand = value.args[0]
    if domain_of(operand.type, view) not in SMALL:
        return value
    n, m = operand.type.shape.rows, operand.type.shape.cols
    copy = builder.make("reshape", (operand,), operand.type, operand.span, n=n, m=m, fill=None)
    return rebuild(builder, value, (copy,))


def _within_each(builder: Builder, value: Value, view: str) -> Value:
    """A reduction over parameters of what no kernel can visit, as one over what the library leaves
    of each parameter."""
    operand = value.args[0]
    if value.attr("axis") == () or not (_odd(operand, view) or _odd(value, view)):
        return value
    type_ = operand.type.with_(shape=value.type.shape)
    attrs = dict(value.attrs)
    part = builder.make(value.op, (operand,), type_, value.span, **{**attrs, "over": None})
    return builder.make(value.op, (part,), value.type, value.span, **{**attrs, "axis": None})


def _slot_name(value: Value, taken: dict[str, Value]) -> str:
    """A readable name: sum_g2 for sum(g * g), max_row for max(row)."""
    operand = value.args[0]
    hint = operand.name or ""
    if not hint and operand.op == "mul" and operand.args[0] is operand.args[1]:
        hint = f"{operand.args[0].name or ''}2"
    base = re.sub(r"\W", "_", f"{value.op.removesuffix('_of')}_{hint}").rstrip("_")
    for other, known in taken.items():
        if known is value:
            return other
    name, count = base, 2
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    return name


def _local_levels(each: Levelled, shared: dict[str, int]) -> dict[str, int]:
    """Fill `each.level`; the stage at which every slot's result is there."""
    slots = dict(shared)
    level: dict[Value, int] = {}
    pending = {**each.reductions, **each.between}
    # A reduction's operand may need another's result: take them as they become computable.
    order: list[tuple[str, Value]] = []
    while pending:
        ready = [
            slot
            for slot, value in pending.items()
            if not any(
                v.op in ("result", "evaluated")
                and v.attr("slot") in pending
                and v.attr("slot") not in shared
                for v in reachable(value.args)
            )
        ]
        order.extend((slot, pending.pop(slot)) for slot in ready)
    for slot, value in order:
        _fill(value.args[0], each, slots, level)
        if slot in each.between:
            own = value.op == "loss_at" and value.args[0].op == "param"
            slots[slot] = max(slots.get(slot, 0), 0 if own else level[value.args[0]] + 1)
            continue
        slots[slot] = max(
            slots.get(slot, 1), level[value.args[0]] + _after(value.args[0], each.library)
        )
    for value in each.outputs.values():
        _fill(value, each, slots, level)
    _sink_library(each, level)
    slots |= {slot: level[loop] for loop, slot in each.loops.items()}
    each.level, each.slots = level, slots
    return slots


def _sink_library(each: Levelled, level: dict[Value, int]) -> None:
    """Library values that only the library uses move down to the first stage that uses them, so
    that an identity matrix is made where it is multiplied."""
    kept = set(each.roots)
    earliest: dict[Value, int] = {}
    taken_apart: dict[Value, list[Value]] = {}
    for value in level:
        if value.op == "part":
            taken_apart.setdefault(value.args[0], []).append(value)
    for value in reversed(reachable(each.roots)):
        if value in each.library and value not in kept and value in earliest:
            level[value] = max(level[value], earliest[value])
        if value in taken_apart:  # its parts, which are users of its own, lie where it does
            level.update(dict.fromkeys(taken_apart[value], level[value]))
        for arg in operands(value):
            at = level[value] if value in each.library else level[arg]
            earliest[arg] = min(earliest.get(arg, at), at)


def _after(operand: Value, library: frozenset[Value]) -> int:
    """How many stages later a reduction of `operand` is there."""
    return 2 if operand in library else 1


def _fill(root: Value, each: Levelled, slots: dict[str, int], level: dict[Value, int]) -> None:
    library = each.library
    for value in reachable([root]):
        if value in level:
            continue
        if value.op in ("result", "evaluated"):
            level[value] = slots[value.attr("slot")]
            continue
        level[value] = max(
            (
                level[arg] + (1 if arg in library and value not in library else 0)
                for arg in operands(value)
            ),
            default=0,
        )
        if value in each.loops:
            level[value] = max(level[value], slots[each.loops[value]])
