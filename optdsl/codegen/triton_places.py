"""Where a Triton kernel finds things: buffers, scalars, results, sizes.

Input: a pass and its variant. Output: texts of loads, stores and pointers. Every pointer stands at
the first element of the program's task, so that what a lane adds is small and of 32 bits: `i` in a
flat pass, `c` in a pass over rows, whose pointers already stand one at each row. p and the states
of its size, whose storage a class chooses, have a place (NAME_at) in the stead of a pointer.

Relies on: the tables of runtime/program.py, runtime/triton/storage.py.
Does not do: expressions (body.py), frames (triton.py).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator

from optdsl.diagnostics import InternalError
from optdsl.ir.nodes import Value, reachable
from optdsl.schedule.plan import Domain, Entry, KernelPass, Phase, Plan, Reduction, Variant
from optdsl.types import DType, Storage

SIZES = {"numel": 0, "rows": 1, "cols": 2, "batch": 3}
"""Columns of the shapes table."""

CLOSE = {"sum": "tl.sum({})", "max_of": "greatest({}, None)", "min_of": "least({}, None)"}
CLOSE_ROWS = {
    "sum": "tl.sum({}, axis=1)[:, None]",
    "max_of": "greatest({}, 1)[:, None]",
    "min_of": "least({}, 1)[:, None]",
}
CLOSE_COLS = {
    "sum": "tl.sum({}, axis=0)[None, :]",
    "max_of": "greatest({}, 0)[None, :]",
    "min_of": "least({}, 0)[None, :]",
}


class Places:
    """The places of one pass."""

    def __init__(self, plan: Plan, variant: Variant, kernel: KernelPass) -> None:
        self.kernel = kernel
        self.slots = plan.slots
        self.tiled = kernel.layout == "rows"
        self.buffers = {each.name: each for each in variant.buffers}
        leaves = reachable(value for phase in kernel.phases for value in _values(phase))
        touched = _loads(leaves) | {each.buffer for each in kernel.stores}
        self.used = [name for name in self.buffers if name in touched]
        self.results = {each.attr("slot") for each in leaves if each.op == "result"}
        self.every = variant.stored
        self.overlapping = variant.overlapping(kernel)
        self.stored = [name for name in variant.stored if name in touched]
        self.types = [f"{name}_type" for name in self.stored]
        self.stream, self.columns = variant.stream, variant.columns
        self._check_order()

    def _check_order(self) -> None:
        """A buffer that a phase writes is not read by a later one: other lanes may not see it."""
        written: set[str] = set()
        for phase in self.kernel.phases:
            late = _loads(reachable(_values(phase))) & written
            if late:
                text = f"{self.kernel.name} reads {sorted(late)} behind its own store"
                raise InternalError("codegen.triton", text)
            written |= {each.buffer for each in phase.stores}

    @property
    def names(self) -> list[str]:
        """What the kernel calls where its buffers begin."""
        return [f"{each}_at" if each in self.stored else f"{each}_ptr" for each in self.used]

    def leaf(self, value: Value) -> str:
        """The text of a value that no op of the table computes."""
        if value.op == "const":
            return literal(value.attr("value"))
        if value.op == "size":
            return size(value.attr("name"))
        if value.op == "load":
            buffer = self.buffers[value.attr("buffer")]
            name = buffer.name
            if name in self.stored:
                return f"load({name}_at, {self._span}, {self._lanes}, {name}_type).to(REAL)"
            return f"{self._loaded(f'{name}_ptr', buffer.domain)}.to(REAL)"
        if value.op == "row_result":
            slot = value.attr("slot")
            return CLOSE_ROWS[self._row_reduction(slot).op].format(f"{slot}_acc")
        if value.op == "draw_key":
            at = f"tl.load({plus('scalars', value.attr('at'))})"
            first = "r * cols" if self.tiled else "lo"
            return f"draw_key(tl.load(table + {self.stream}), {value.attr('site')}, {at}, {first})"
        if value.op == "element":  # counted from the first one, which the key has
            return "c" if self.tiled else "i"
        if value.op == "scalar":
            loaded = f"tl.load({plus('scalars', value.attr('index'))})"
        elif value.op == "result":
            loaded = self._result(value.attr("slot"))
        else:
            raise InternalError("codegen.triton", f"{value.op} in the kernel {self.kernel.name}")
        return f"{loaded} != 0" if value.type.dtype is DType.BOOL else f"{loaded}.to(REAL)"

    def store(self, name: str, value: str) -> str:
        """The text that writes `value` to a buffer."""
        if name in self.stored:
            return f"save({name}_at, {self._span}, {value}, {name}_type)"
        lanes = self.lanes(self.buffers[name].domain)
        if lanes is None:
            text = f"{self.kernel.name} stores {name} once a task"
            raise InternalError("codegen.triton", text)
        return f"tl.store({name}_ptr{lanes[0]}, {value}, {lanes[1]})"

    @property
    def _span(self) -> str:
        return "start, cols" if self.tiled else "start, end"

    @property
    def _lanes(self) -> str:
        return "BLOCK" if self.tiled else "LANES"

    def _row_reduction(self, slot: str) -> Reduction:
        reductions = (each for phase in self.kernel.phases for each in phase.rows)
        return next(each for each in reductions if each.slot == slot)

    def lanes(self, domain: Domain) -> tuple[str, str] | None:
        """What is added to a pointer of `domain`, and the mask; None for one element a task."""
        if not self.tiled:
            return (" + i", "mask") if domain is self.kernel.domain else None
        return {
            Domain.FULL: (" + c", "mask"),
            Domain.COL: (" + c", "in_cols"),
            Domain.ROW: ("", "in_rows"),
        }.get(domain)

    def _loaded(self, pointer: str, domain: Domain) -> str:
        lanes = self.lanes(domain)
        if lanes is None:
            return f"tl.load({pointer})"
        offset, mask = lanes
        return f"tl.load({pointer}{offset}, {mask}, other=0.0)"

    def _result(self, slot: str) -> str:
        domain = self.slots[slot]
        if self.lanes(domain) is not None:
            return self._loaded(f"{slot}_ptr", domain)
        return f"tl.load({self._result_at(slot)})"

    def _result_at(self, slot: str) -> str:
        """The address of the task's first number of a result."""
        domain = self.slots[slot]
        k = [each for each, its in self.slots.items() if its is domain].index(slot)
        matrices = sum(its is Domain.MATRIX for its in self.slots.values())
        if domain is Domain.ALL:
            return plus("results", k)
        if domain is Domain.GROUP:
            return plus("results + tl.load(shape + 6)", k)
        if domain is Domain.TENSOR:
            return plus("results + tl.load(shape + 5)", k)
        own = "lo" if domain is self.kernel.domain else ("b * cols", "b")[domain is Domain.MATRIX]
        if domain is Domain.MATRIX:
            terms = [times(k, "batch"), own]
        else:
            terms = [times(matrices, "batch"), times(k, "batch * cols"), own]
        return " + ".join(["results + tl.load(shape + 7)", *filter(None, terms)])

    def pointers(self) -> Iterator[str]:
        """Lines that point each buffer, and each result of many, at the task's first element."""
        for position, (name, buffer) in enumerate(self.buffers.items()):
            if name in self.stored:
                beside = len(self.buffers) + self.every.index(name)
                where = f"table, {position}, {beside}, {'r * cols' if self.tiled else 'lo'}"
                rows = ", in_rows" if self.tiled else ""
                yield f"{name}_at = kept({where}, {name}_type, ALIGNED{rows})"
            elif name in self.used:
                address = plus("table", position)
                element = "P" if buffer.storage is Storage.PARAM else "REAL"
                # A class is aligned where its full buffers are; rows' and columns' may not be.
                aligned = "ALIGNED" if buffer.domain is Domain.FULL else "False"
                pointer = f"element_pointer({address}, {element}, {aligned})"
                entry = _offset(buffer.entry) if buffer.entry else ""
                yield f"{name}_ptr = {pointer}{entry}{self._origin(buffer.domain)}"
        for slot, domain in self.slots.items():
            if slot in self.results and self.lanes(domain) is not None:
                yield f"{slot}_ptr = {self._result_at(slot)}"

    def _origin(self, domain: Domain) -> str:
        if not self.tiled and domain is self.kernel.domain:
            return " + lo"
        if domain is Domain.MATRIX:
            return " + b"
        rows = {Domain.FULL: " + r * cols", Domain.ROW: " + r", Domain.COL: " + b * cols"}
        return rows.get(domain, "") if self.tiled else ""

    def matrix(self) -> str:
        """Which matrix of the batch the task works on; a task never works on two."""
        unit = {Domain.FULL: "(rows * cols)", Domain.ROW: "rows", Domain.COL: "cols"}
        return f"b = lo // {'rows' if self.tiled else unit.get(self.kernel.domain, '1')}"


def _values(phase: Phase) -> list[Value]:
    reductions = (*phase.rows, *phase.partials)
    return [each.value for each in reductions] + [each.value for each in phase.stores]


def _loads(values: Iterable[Value]) -> set[str]:
    """The buffers that `values` load."""
    return {each.attr("buffer") for each in values if each.op == "load"}


def literal(number: float | bool) -> str:
    """A Python literal; what float32 cannot hold is made in the dtype of values, since Triton takes
    a literal beside nothing but literals for a float32."""
    if isinstance(number, bool):
        return str(number)
    value = float(number)
    if not math.isfinite(value):
        return f'float("{value}")'
    try:
        exact = struct.unpack("f", struct.pack("f", value))[0] == value
    except OverflowError:
        exact = False
    return repr(value) if exact else f"tl.full([], {value!r}, REAL)"


def size(name: str) -> str:
    """A size of p's matrix view as a value."""
    if name in SIZES:
        return f"{name}.to(REAL)"
    if name in ("short", "long"):
        return f"tl.{'minimum' if name == 'short' else 'maximum'}(rows, cols).to(REAL)"
    raise InternalError("codegen.triton", f"the size {name} is not in the shapes table")


def _offset(entry: Entry) -> str:
    """What is added for an entry of a state; nothing for the first."""
    if entry.scalar is not None:
        return f" + tl.load({plus('scalars', entry.scalar)}).to(tl.int64) * numel"
    number = entry.number.attr("value")
    return f" + {times(number, 'numel')}" if number else ""


def plus(base: str, number: int) -> str:
    return f"{base} + {number}" if number else base


def times(number: int, text: str) -> str:
    return "" if number == 0 else text if number == 1 else f"{number} * {text}"
