"""Where the numbers of a kernel pass lie, as C: pointers, indices, results, partials.

Input: a pass of a plan. Output: how a leaf is read, where a store goes, and the declarations that
these need. Relies on: the tables of runtime/program.py. Does not do: expressions, loops (cpu.py).
"""

from __future__ import annotations

import math
import re

from optdsl.diagnostics import InternalError
from optdsl.ir.nodes import Value, reachable
from optdsl.schedule.plan import (
    Buffer,
    Domain,
    Entry,
    KernelPass,
    Plan,
    Reduction,
    Variant,
)
from optdsl.types import Storage

C_TYPES = {
    Storage.PARAM: ("param", "widen_param", "narrow_param"),
    Storage.BF16: ("bf16", "widen_bf16", "narrow_bf16"),
    Storage.FP16: ("fp16", "widen_fp16", "narrow_fp16"),
    Storage.FLOAT32: ("float", "", ""),
}
"""Element type, and the functions that load and store it; all others are handed over as `real`."""

REAL = ("real", "", "")

FIRST = {"sum": "0", "max_of": "-INFINITY", "min_of": "INFINITY"}
"""What an accumulator starts as."""

_SIZES = {
    "numel": "shape[0]",
    "rows": "shape[1]",
    "cols": "shape[2]",
    "batch": "shape[3]",
    "short": "(shape[1] < shape[2] ? shape[1] : shape[2])",
    "long": "(shape[1] > shape[2] ? shape[1] : shape[2])",
}


class Places:
    """The places of one pass."""

    def __init__(self, plan: Plan, variant: Variant, kernel: KernelPass) -> None:
        self.slots, self.kernel, self.view = plan.slots, kernel, plan.rule.view
        self.rows = kernel.layout == "rows"
        self.buffers = {each.name: (i, each) for i, each in enumerate(variant.buffers)}
        self.stored = variant.stored
        self.stream = variant.stream
        self.overlapping = variant.overlapping(kernel)
        sinks = [each for phase in kernel.phases for each in (*phase.rows, *phase.partials)]
        self.written = {each.buffer for each in kernel.stores}
        roots = [each.value for each in kernel.stores] + [each.value for each in sinks]
        leaves = reachable(roots)
        used = self.written | {each.attr("buffer") for each in leaves if each.op == "load"}
        self.touched = [each for each in variant.buffers if each.name in used]
        read = {each.attr("slot") for each in leaves if each.op == "result"}
        # Results of which a tensor has many, in the order in which they lie.
        self.arrays = [s for s in self._of(Domain.MATRIX) + self._of(Domain.COL) if s in read]
        domains = {each.domain for each in self.touched} | {self.slots[each] for each in read}
        # A task lies in one matrix of a batch; columns and numbers of its matrix are looked up.
        self.in_columns = self.rows and self.view == "last" and Domain.COL in domains
        self.in_matrix = Domain.MATRIX in domains and kernel.domain is not Domain.MATRIX

    def _of(self, domain: Domain) -> list[str]:
        """The slots of `domain`, in the order in which their results lie."""
        return [slot for slot, each in self.slots.items() if each is domain]

    # ---------------------------------------------------------------- leaves

    def leaf(self, value: Value) -> str:
        """How a value without operands is read. Raises InternalError where it cannot be."""
        match value.op:
            case "const":
                return _constant(value.attr("value"))
            case "load":
                return self.called(1, self.buffers[value.attr("buffer")][1])
            case "scalar":
                return f"real(scalars[{value.attr('index')}])"
            case "result":
                return f"real({self._result(value.attr('slot'))})"
            case "draw_key":
                at = f"scalars[{value.attr('at')}]"
                return f"draw_key(pointers[{self.stream}], {value.attr('site')}, {at})"
            case "element":
                return self._index(Domain.FULL)
            case "row_result":
                return f"real({plain(value.attr('slot'))}_total)"
            case "size" if value.attr("name") in _SIZES:
                known = {**_SIZES, "cols": "cols"} if self.rows else _SIZES
                return f"real({known[value.attr('name')]})"
        raise self.broken(f"{value.op} {value.attrs} cannot be read in a kernel")

    def spelt(self, buffer: Buffer) -> tuple[str, str, str]:
        """Element type, and what loads and stores it: names of macros where a class may choose.
        What is smaller than p lies in memory as it is computed."""
        if buffer.name in self.stored:
            name = plain(buffer.name)
            return f"{name}_stored", f"{name}_widen", f"{name}_narrow"
        return C_TYPES.get(buffer.storage, REAL) if buffer.domain is Domain.FULL else REAL

    def called(self, which: int, buffer: Buffer, text: str = "") -> str:
        """`text`, else the current element of `buffer`, as an argument of one of its functions."""
        function, text = self.spelt(buffer)[which], text or self.place(buffer)
        return f"{function}({text})" if function else text

    def place(self, buffer: Buffer) -> str:
        """The element of `buffer` that belongs to the current one."""
        return f"{plain(buffer.name)}_at[{self._index(buffer.domain)}]"

    def _index(self, domain: Domain) -> str:
        if domain is self.kernel.domain:
            return "base + c" if self.rows else "i"
        if domain in (Domain.TENSOR, Domain.GROUP, Domain.ALL):
            return "0"
        if domain is Domain.MATRIX:
            return "b"
        if self.rows and domain is Domain.ROW:
            return "r"
        if self.rows and domain is Domain.COL:
            return "c"
        raise self.broken(f"a value of {domain} is not in reach")

    def _result(self, slot: str) -> str:
        domain = self.slots[slot]
        order = self._of(domain).index(slot)
        match domain:
            case Domain.ALL:
                return f"results[{order}]"
            case Domain.GROUP:
                return f"results[{_sum('shape[6]', order)}]"
            case Domain.TENSOR:
                return f"results[{_sum('shape[5]', order)}]"
        return f"{plain(slot)}_at[{self._index(domain)}]"

    def broken(self, text: str) -> InternalError:
        return InternalError("codegen/cpu", f"{self.kernel.name}: {text}")

    def streams(self) -> list[str]:
        """The pointers with which the pass goes through memory, where it is long enough to ask
        ahead: those of parameters' size."""
        if self.kernel.domain is not Domain.FULL:
            return []
        return [f"{plain(b.name)}_at" for b in self.touched if b.domain is Domain.FULL]

    # ---------------------------------------------------------------- declarations

    def declarations(self) -> list[str]:
        """What stands before a pass's lines: pointers, and accumulators of the task."""
        lines = [*self._matrix()]
        for buffer in self.touched:
            kind = self.spelt(buffer)[0]
            kind = kind if buffer.name in self.written else f"const {kind}"
            start = f"pointers[{self.buffers[buffer.name][0]}]"
            if self.in_columns and buffer.domain is Domain.COL:
                start = f"({kind} *){start} + b * cols"
            if buffer.entry is not None:
                start = _sum(f"({kind} *){start}", *_offset(buffer.entry))
            alone = "" if buffer.name in self.overlapping else "restrict "
            lines.append(f"{kind} *{alone}{plain(buffer.name)}_at = {start};")
        for slot in self.arrays:
            start = f"results + {self._array(slot)}"
            lines.append(f"const double *restrict {plain(slot)}_at = {start};")
        return lines + self._accumulators()

    def _matrix(self) -> list[str]:
        if not (self.in_matrix or self.in_columns):
            return []
        if self.rows or self.kernel.domain is Domain.ROW:
            return ["const long long b = lo / shape[1];"]
        if self.kernel.domain is Domain.COL:
            return ["const long long b = lo / shape[2];"]
        # Flat tasks are cut at the borders of matrices only where they reduce over them.
        if any(each.domain is Domain.MATRIX for each in self.kernel.reductions):
            return ["const long long b = lo / (shape[1] * shape[2]);"]
        raise self.broken("a flat pass reads what is one per matrix")

    def _array(self, slot: str) -> str:
        """Where the results of `slot` begin."""
        place, order = "shape[7]", self._of(self.slots[slot]).index(slot)
        if self.slots[slot] is Domain.MATRIX:
            return _sum(place, order, "shape[3]")
        batch = "shape[3] * " if self.view == "last" else ""
        place = _sum(place, len(self._of(Domain.MATRIX)), "shape[3]")
        place = _sum(place, order, f"{batch}shape[2]")
        return f"{place} + b * cols" if self.in_columns else place

    def _accumulators(self) -> list[str]:
        """Sums per column stand in the table of partials itself."""
        lines = []
        for each, place in self._partials():
            name, first = plain(each.slot), FIRST[each.op]
            if each.domain is Domain.COL:
                lines.append(f"double *restrict {name}_at = partials + {place};")
                lines.append(f"for (long long c = 0; c < cols; c++) {name}_at[c] = {first};")
            else:
                lines.append(f"double {name}_total = {first};")
        return lines

    def _partials(self) -> list[tuple[Reduction, str]]:
        """The reductions that leave partials, and where each begins."""
        found, single, columns = [], 0, 0
        for each in self.kernel.reductions:
            found.append((each, _sum(_sum("task[3]", single), columns, "cols")))
            if each.domain is not Domain.COL:
                single += 1
            elif self.rows:
                columns += 1
            else:
                raise self.broken("columns are reduced in a pass that does not know them")
        return found

    def closing(self) -> list[str]:
        """The partials of the task, once all of it was visited."""
        return [
            f"partials[{place}] = {plain(each.slot)}_total;"
            for each, place in self._partials()
            if each.domain is not Domain.COL
        ]


def _offset(entry: Entry) -> tuple[int | str, str]:
    """Where an entry of a state begins, as a number of units."""
    if entry.scalar is None:
        return entry.number.attr("value"), "shape[0]"
    return f"(long long)scalars[{entry.scalar}]", "shape[0]"


def _sum(start: str, count: int | str, unit: str = "") -> str:
    """`start + count * unit` as one would write it by hand."""
    if not count:
        return start
    if not unit:
        return f"{start} + {count}"
    return f"{start} + {unit}" if count == 1 else f"{start} + {count} * {unit}"


def plain(name: str) -> str:
    """A buffer's or slot's name as part of an identifier."""
    return re.sub(r"\W", "_", name)


def _constant(value: float | int | bool | str) -> str:
    """A literal of the rule, rounded once to what values are computed in."""
    if isinstance(value, str):
        raise InternalError("codegen/cpu", f"the string {value!r} is no number")
    if isinstance(value, int):
        return str(int(value)) if abs(value) < 2**31 else f"real({value}.0)"
    if math.isnan(value):
        return "real(NAN)"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    if value.is_integer() and 0 < abs(value) < 2**31:
        return str(int(value))
    return f"real({value!r})"
