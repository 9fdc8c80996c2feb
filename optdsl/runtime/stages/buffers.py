"""Where the buffers of a class lie: addresses for kernels, batched views for library passes.

Input: a class's tables, its members, its states. Output: the `pointers` table, and `Batch`es.

Temps of all plans on a device share one arena, since they live within a step. A temp of n
parameters of one shape and scalar row lies in one strided block, each on 64 bytes, so that a
library pass sees [n, rows, cols] without a copy.

Relies on: packing.py, holdings.py, library.py, tables.py. Does not do: gradients' addresses
(engine.py).
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optdsl.randomness import stream
from optdsl.runtime.arrays import Ints
from optdsl.runtime.parameters.cohorts import Cohort, Member
from optdsl.runtime.parameters.gradients import Gradients
from optdsl.runtime.program import Library, Program, Temp
from optdsl.runtime.stages.library import Batch
from optdsl.runtime.stages.packing import Able, Packing
from optdsl.runtime.stages.tables import ClassTable, ResultLayout
from optdsl.runtime.states.holdings import Holdings, is_shared
from optdsl.runtime.storage.choice import compute_dtype

ALIGNMENT = 64
"""Bytes; a cache line. Whole elements of every dtype, and enough for vector loads."""

Placed = Sequence[tuple[Cohort, Mapping[str, Any]]]


def padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


class Arena:
    """The temps of one device. `generation` counts its moves; each voids the plans made before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generation = 0
        self.memory = torch.empty(0, dtype=torch.uint8, device=device)
        self._end = 0

    def start(self) -> None:
        """Begins the layout of a plan."""
        self._end = 0

    def reserve(self, count: int) -> int:
        """The offset of `count` bytes."""
        start, self._end = self._end, self._end + padded(count)
        return start

    def settle(self) -> None:
        """Grows the memory to what was reserved, after which `address` and `view` are valid."""
        if self._end > self.memory.numel():
            self.generation += 1
            self.memory = torch.empty(0, dtype=torch.uint8, device=self.device)
            self.memory = torch.empty(self._end, dtype=torch.uint8, device=self.device)

    @property
    def address(self) -> int:
        return self.memory.data_ptr()

    def view(
        self, offset: int, dtype: torch.dtype, shape: Sequence[int], strides: Sequence[int]
    ) -> Tensor:
        whole = self.memory.view(dtype)
        return whole.as_strided(tuple(shape), tuple(strides), offset // whole.element_size())


class SharedTemps:
    """Temps of a group or of the run, which the classes of a step share. Offsets into `arena`."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self._offsets: dict[tuple[str, int], int] = {}

    def offset(self, name: str, group_index: int) -> int:
        key = name, group_index
        if key not in self._offsets:
            self._offsets[key] = self.arena.reserve(8)
        return self._offsets[key]


class ClassBuffers:
    """The buffers of one class. Set `gradients` before a batch runs."""

    def __init__(
        self,
        program: Program,
        table: ClassTable,
        members: Sequence[Member],
        placed: Placed,
        holdings: Holdings,
        shared: SharedTemps,
        able: Able,
    ) -> None:
        self.program, self.table, self.members = program, table, members
        self.placed, self.holdings, self.shared = placed, holdings, shared
        self.arena = shared.arena
        self.real = compute_dtype(members[0].p.dtype)
        self.gradients: Gradients | None = None
        self.packing = Packing(holdings, table.variant, members, able)
        self.parameters = [self._parameter(index) for index in range(len(members))]
        self.temps = {temp.name: temp for temp in table.variant.temps}
        self.planes = {plane.name: plane for plane in table.variant.planes}
        self.states: dict[str, list[Tensor]] = {}
        self.inputs: list[Tensor] = []
        self.groups: dict[tuple[Any, ...], list[int]] = {}
        for index, entry in enumerate(table.entries[: len(members)]):
            key = (entry.sizes, entry.row)
            self.groups.setdefault(key, []).append(index)
        self._blocks: dict[str, dict[tuple[Any, ...], int]] = {}
        self._relative: list[int] = []
        for column, name in enumerate(table.variant.buffers):
            self._place(column, name)
        for column, name in enumerate(table.variant.stored, len(table.variant.buffers)):
            if name in self.packing.by_task:
                table.pointers[: len(members), column] = self.packing.beside[name]
        if table.variant.draws:
            streams = [stream(holdings.seed(each), each.index) for each in members]
            table.pointers[: len(members), -1] = streams
        # An address must outlive a `.data` that is given to a parameter or state by hand.
        tensors = [
            *self.parameters,
            *self.inputs,
            *(each for many in self.states.values() for each in many),
        ]
        self.kept = [each.untyped_storage() for each in tensors]

    def settle(self) -> None:
        """Turns temps' offsets into addresses, once the arena has its place."""
        for column in self._relative:
            self.table.pointers[:, column] += self.arena.address

    @property
    def types(self) -> dict[str, torch.dtype]:
        """As what kernels find the elements of each buffer in `Variant.stored`."""
        found = {"p": self.parameters, **self.states}
        return {
            name: self.packing.type_of(name, found[name][0]) for name in self.table.variant.stored
        }

    @property
    def codecs(self) -> dict[str, str]:
        """The names of the codecs of those that kernels, or the driver, load and save by task."""
        return {name: codec.name for name, codec in self.packing.by_task.items()}

    def draw(self) -> None:
        """Makes the keys of this step's random roundings."""
        packing, variant = self.packing, self.table.variant
        if packing.random:
            updates = [self.placed[entry.row][0].e.t for entry in self.table.entries]
            packing.draw(np.array(updates[: len(self.members)], np.int64))
            if packing.draws:
                column = len(variant.buffers) + variant.stored.index("p")
                self.table.pointers[: len(self.members), column] = packing.keys

    @property
    def draws(self) -> bool:
        """Whether tasks find keys of random roundings in the table of pointers."""
        return self.packing.draws

    def drawn(self) -> Ints:
        """What keys are made of, besides the number of the update: a row for each member, of its
        seed, its scalar row and its number."""
        rows = [entry.row for entry in self.table.entries[: len(self.members)]]
        return np.stack([self.packing.seeds, np.array(rows), self.packing.numbers], axis=1)

    def _parameter(self, index: int) -> Tensor:
        """The tensor that a step reads and writes as p."""
        codec, parts = self.holdings.parameter(self.members[index])
        return self.packing.place("p", index, codec, parts)

    def _place(self, column: int, name: str) -> None:
        """Writes the addresses of buffer `name`, for a temp its offsets in the arena."""
        pointers, count = self.table.pointers, len(self.members)
        if name == "p":
            pointers[:count, column] = [each.data_ptr() for each in self.parameters]
        elif name in self.temps:
            self._relative.append(column)
            pointers[:, column] = self._place_temp(self.temps[name])
        elif name in self.holdings.states or name in self.planes:
            plane = self.planes.get(name)
            pointers[:, column] = self._place_state(plane.state if plane else name)
        elif name != "g":
            pointers[:, column] = self._place_input(name)

    def _state(self, name: str, index: int) -> Tensor:
        """The tensor that a step reads and writes as the state `name`."""
        member, row = self.members[index], self.table.entries[index].row
        cohort, h = self.placed[row]
        state = self.holdings.states[name]
        parts = self.holdings.parts(state, member, h, cohort.e)
        return self.packing.place(name, index, self.holdings.codec(state, member), parts)

    def _place_state(self, name: str) -> list[int]:
        tensors = [self._state(name, index) for index in range(len(self.members))]
        self.states[name] = tensors
        addresses = [each.data_ptr() for each in tensors]
        by_group = {
            member.group_index: address
            for member, address in zip(self.members, addresses, strict=True)
        }
        rest = self.table.entries[len(self.members) :]
        if not is_shared(self.holdings.states[name]):
            return [*addresses, *(0 for _ in rest)]
        return [*addresses, *(by_group[entry.group_index] for entry in rest)]

    def _place_input(self, name: str) -> list[int]:
        """The addresses of an input; one with axes of its own is seen by library passes alone."""
        declared = self.holdings.inputs.declared[name]
        if declared.domain == "shaped":
            return [0] * len(self.table.entries)
        tensors = [self.holdings.inputs.of(name, member) for member in self.members]
        self.inputs.extend(tensors)
        by_group = {
            member.group_index: tensor.data_ptr()
            for member, tensor in zip(self.members, tensors, strict=True)
        }
        rest = self.table.entries[len(self.members) :]
        shared = [by_group[entry.group_index] if declared.over else 0 for entry in rest]
        return [*(each.data_ptr() for each in tensors), *shared]

    def _place_temp(self, temp: Temp) -> Any:
        entries = self.table.entries
        if temp.domain in ("group", "all"):
            groups = [e.group_index if temp.domain == "group" else -1 for e in entries]
            return [self.shared.offset(temp.name, group) for group in groups]
        offsets = np.zeros(len(entries), np.int64)
        blocks = self._blocks.setdefault(temp.name, {})
        for key, indices in self.groups.items():
            each = padded(math.prod(self._dims(temp, indices[0])) * self.real.itemsize)
            blocks[key] = start = self.arena.reserve(each * len(indices))
            offsets[indices] = start + each * np.arange(len(indices))
        return offsets

    def _sizes(self, index: int) -> Mapping[str, int]:
        cohort, h = self.placed[self.table.entries[index].row]
        own = self.holdings.sizes(self.members[index], h, cohort.e)
        return ChainMap(own, self.holdings.inputs.axes)

    def size(self, text: str) -> int:
        """A size that the rule names, of the first parameter."""
        return self._sizes(0)[text]

    def _dims(self, buffer: Any, index: int) -> tuple[int, ...]:
        """The shape of `buffer` (a Temp or State) in the matrix view of one parameter."""
        if buffer.domain == "shaped":
            sizes = self._sizes(index)
            dims = tuple(each if isinstance(each, int) else sizes[each] for each in buffer.shape)
            # Library passes give everything an axis for the matrices of a parameter.
            whole = self.program.view == "last" and "batch" not in buffer.shape
            return (*dims[:-2], 1, *dims[-2:]) if whole and isinstance(buffer, Temp) else dims
        return self._domain_dims(buffer.domain, index)

    def _domain_dims(self, domain: str, index: int) -> tuple[int, ...]:
        sizes = self.table.entries[index].sizes
        rows = sizes.rows if domain in ("full", "row") else 1
        cols = sizes.cols if domain in ("full", "col") else 1
        if self.program.view != "last":
            return rows, cols
        return sizes.batch if domain != "tensor" else 1, rows, cols

    # ------------------------------------------------------------ library passes

    def batches(self, library: Library, results: ResultLayout) -> list[Batch]:
        """One batch for each shape and scalar row of the class."""
        return [self._batch(library, key, results) for key in self.groups]

    def _batch(self, library: Library, key: tuple[Any, ...], results: ResultLayout) -> Batch:
        indices = self.groups[key]
        index, row = indices[0], key[1]
        dims = [(self._numbers(name, index), name) for name in (*library.reads, *library.writes)]
        return Batch(
            library,
            len(indices),
            {name: self._reader(name, key) for name in library.reads},
            [self._writer(name, key) for name in library.writes],
            self._result_places(indices, results),
            lambda: [float(each) for each in self.table.scalars[row]],
            self._sizes(index),
            self._precision(library),
            sum(count for count, _ in dims) * self.real.itemsize,
            [
                (self.holdings.seed(self.members[each]), self.members[each].index)
                for each in indices
            ],
            self.members[index].group_index,
        )

    def _precision(self, library: Library) -> torch.dtype:
        """What a pass is worked out in."""
        chosen = self.holdings.choice.products
        if chosen is None or not library.products or self.real is torch.float64:
            return self.real
        return chosen

    def _numbers(self, name: str, index: int) -> int:
        known = (self.temps, self.holdings.states, self.holdings.inputs.declared)
        buffer: Any = next((each[name] for each in known if name in each), None)
        if buffer is None:
            return self.table.entries[index].sizes.numel
        return math.prod(self._dims(buffer, index))

    def _temp_view(self, temp: Temp, key: tuple[Any, ...]) -> Tensor:
        indices = self.groups[key]
        dims = self._dims(temp, indices[0])
        step = padded(math.prod(dims) * self.real.itemsize) // self.real.itemsize
        strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
        shape = (len(indices), *dims)
        return self.arena.view(self._blocks[temp.name][key], self.real, shape, (step, *strides))

    def _tensors(self, name: str, indices: Sequence[int]) -> list[Tensor]:
        if name == "p":
            return [self.parameters[index] for index in indices]
        if name == "g":
            assert self.gradients is not None
            found = [self.gradients.tensors[self.members[index].index] for index in indices]
            return [each for each in found if each is not None]
        if name in self.planes:
            plane = self.planes[name]
            rows = [self.table.scalars[self.table.entries[index].row] for index in indices]
            numbers = [int(plane.of(row)) for row in rows]
            tensors = self._tensors(plane.state, indices)
            return [tensor[number] for tensor, number in zip(tensors, numbers, strict=True)]
        return [self.states[name][index] for index in indices]

    def read(self, name: str, index: int) -> Tensor:
        """What lies in a buffer for one parameter."""
        key = self._key(index)
        place = self.groups[key].index(index)
        return self._reader(name, key)(place, place + 1)[0]

    def number(self, name: str) -> Tensor | None:
        """A copy of a temp of the run, or of the first parameter's group; None where the class has
        no such temp."""
        if name not in self.temps:
            return None
        return self._reader(name, self._key(0))(0, 1).clone()

    def write(self, name: str, index: int, value: Tensor) -> None:
        """Writes a temp of one parameter, or one that it shares with its group or with all."""
        temp, key = self.temps[name], self._key(index)
        if temp.domain in ("group", "all"):
            self._reader(name, key)(0, 1).copy_(value.reshape(()))
            return
        place = self.groups[key].index(index)
        view = self._temp_view(temp, key)[place]
        view.copy_(value.reshape(view.shape))

    def _key(self, index: int) -> tuple[Any, ...]:
        entry = self.table.entries[index]
        return entry.sizes, entry.row

    def _reader(self, name: str, key: tuple[Any, ...]) -> Callable[[int, int], Tensor]:
        indices = self.groups[key]
        if name in self.temps:
            temp = self.temps[name]
            if temp.domain in ("group", "all"):
                index = self.table.variant.buffers.index(name)
                offset = int(self.table.pointers[indices[0], index]) - self.arena.address
                number = self.arena.view(offset, self.real, (), ())
                return lambda lo, hi: number
            view = self._temp_view(temp, key)
            return lambda lo, hi: view[lo:hi]
        if name in self.holdings.inputs.declared:
            return self._input_reader(name, indices)
        state = self.holdings.states.get(name)
        if state is not None and is_shared(state):
            tensor = self.states[name][indices[0]]
            return lambda lo, hi: tensor
        dims = self._dims(state, indices[0]) if state else self._domain_dims("full", indices[0])

        def stacked(lo: int, hi: int) -> Tensor:
            tensors = self._tensors(name, indices[lo:hi])
            return torch.stack([each.detach().reshape(dims) for each in tensors])

        return stacked

    def _input_reader(self, name: str, indices: Sequence[int]) -> Callable[[int, int], Tensor]:
        inputs = self.holdings.inputs

        def read(lo: int, hi: int) -> Tensor:
            tensors = [inputs.of(name, self.members[index]) for index in indices[lo:hi]]
            declared = inputs.declared[name]
            if declared.domain in ("group", "all"):
                return tensors[0].reshape(())
            if declared.over:  # one for all
                one = tensors[0].unsqueeze(-3) if self.program.view == "last" else tensors[0]
                return one.expand(len(tensors), *one.shape)
            return torch.stack(tensors)

        return read

    def _writer(self, name: str, key: tuple[Any, ...]) -> Callable[[int, int, Tensor], None]:
        indices = self.groups[key]
        if name in self.temps and self.temps[name].domain in ("group", "all"):
            read = self._reader(name, key)

            def share(lo: int, hi: int, value: Tensor) -> None:
                read(lo, hi).copy_(value.reshape(-1)[0])  # the same for all

            return share
        if name in self.temps:
            view = self._temp_view(self.temps[name], key)

            def keep(lo: int, hi: int, value: Tensor) -> None:
                view[lo:hi].copy_(value)

            return keep

        def store(lo: int, hi: int, value: Tensor) -> None:
            tensors = self._tensors(name, indices[lo:hi])
            shape = (len(tensors), *tensors[0].shape)
            if value.numel() != math.prod(shape):  # one for all, such as an identity
                value = value.expand(len(tensors), *value.shape)
            for tensor, each in zip(tensors, value.reshape(shape), strict=True):
                tensor.copy_(each)

        return store

    def _result_places(self, indices: Sequence[int], results: ResultLayout) -> dict[str, Tensor]:
        """Where in the flat results each slot's numbers stand, in the shape of `_domain_dims`."""
        places = {}
        for slot, (domain, _) in results.places.items():
            if domain in ("group", "all"):
                group = self.table.entries[indices[0]].group_index
                where = np.array(results.shared(slot, group))
            else:
                dims = self._domain_dims(domain, indices[0])
                shapes = self.table.shapes[list(indices)]
                first = np.array([results.of_tensor(slot, shape) for shape in shapes])
                along = np.arange(math.prod(dims)).reshape(dims)
                where = first.reshape(-1, *(1 for _ in dims)) + along
            places[slot] = torch.from_numpy(where.astype(np.int64)).to(self.arena.device)
        return places
