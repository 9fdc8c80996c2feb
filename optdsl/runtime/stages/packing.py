"""Between how the buffers of a class are kept and what its kernels find: values to compute with.

Input: the members of a class, the codecs of p and of their states. Output: the tensors whose
addresses kernels get. What a kernel does not find as it is kept is loaded before, and saved behind,
either each task (by the target, in what a core has at hand: a CPU's cache, a GPU's registers) or
the whole step, by torch: where a pass reads again what an earlier one wrote, which must be what was
computed, where a library pass works on it, and where the target cannot do it itself (see `Able`).

Relies on: holdings.py, stored.py, rounding.py. Does not do: temps, batches (buffers.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optdsl.runtime.arrays import Ints
from optdsl.runtime.parameters.cohorts import Member
from optdsl.runtime.parameters.copies import copied_whole
from optdsl.runtime.program import Kernel, Library, Program, Variant
from optdsl.runtime.stages.tables import LARGEST_BLOCK
from optdsl.runtime.states.holdings import Holdings
from optdsl.runtime.storage.choice import ELEMENTS, compute_dtype
from optdsl.runtime.storage.rounding import Stochastic, rounding_keys
from optdsl.runtime.storage.stored import PLAIN, BlockCodec, Codec, Parts


@dataclass(frozen=True)
class Unpacked:
    """The `values` of a member's p or state, in memory of their own while a step works on them."""

    name: str
    position: int
    codec: Codec
    parts: Parts
    values: Tensor


def copies(program: Program, storage: Mapping[str, str]) -> bool:
    """Whether a step works on copies of states where each is stored as `storage` says by its name,
    otherwise than it is computed."""
    return any(
        copied_whole(name, each.kernels, each.libraries, codes=kind not in ELEMENTS)
        for name, kind in storage.items()
        for each in program.variants
        if kind != "float32"
    )


@dataclass(frozen=True)
class Able:
    """Codecs with which a target's tasks load and save buffers themselves: `whole` where they are
    made of whole blocks of codes, `anywhere` in all. `in_rows` says that its tasks of rows can be,
    whatever the rows' length."""

    whole: frozenset[str] = frozenset()
    anywhere: frozenset[str] = frozenset()
    in_rows: bool = True

    def fits(self, variant: Variant, member: Member) -> bool:
        """Whether tasks, which never cross from one matrix of a batch to the next, can be made of
        whole blocks of codes."""
        sizes = member.sizes
        if sizes.batch > 1 and sizes.numel // sizes.batch % LARGEST_BLOCK:
            return False
        in_rows = any(each.layout == "rows" for each in variant.kernels)
        even = variant.blocks is None and sizes.cols % LARGEST_BLOCK == 0
        return self.in_rows or not in_rows or even


class Packing:
    """Of one class. `by_task` gives the codecs of the buffers that the target loads and saves, by
    their names. `beside` are the addresses of what lies
    beside them. Where `random`, `keys` are drawn anew for each step."""

    def __init__(
        self,
        holdings: Holdings,
        variant: Variant,
        members: Sequence[Member],
        able: Able,
    ) -> None:
        self.holdings, self.variant, self.members = holdings, variant, members
        self.real = compute_dtype(members[0].p.dtype)
        fits = all(able.fits(variant, member) for member in members)
        self.able = able.anywhere | able.whole if fits else able.anywhere
        self.by_task: dict[str, Codec] = {}
        self.beside: dict[str, list[int]] = {}
        self.keys = np.zeros(len(members), np.int64)
        self._unpacked: list[Unpacked] = []
        self.seeds = np.array([holdings.seed(member) for member in members], np.int64)
        self.numbers = np.array([member.index for member in members], np.int64)
        passes: list[Kernel | Library] = [*variant.kernels, *variant.libraries]
        self.writes = frozenset(name for each in passes for name in each.writes)
        self.random = False

    @property
    def hosted(self) -> bool:
        """Whether a step that only the device knows of would not do: what torch packs again was
        rounded again, though nothing stepped, and at random it takes t from the host."""
        return any(not each.codec.plain for each in self._unpacked)

    @property
    def blocks(self) -> bool:
        """Whether a task loads or saves codes."""
        return any(isinstance(codec, BlockCodec) for codec in self.by_task.values())

    @property
    def draws(self) -> bool:
        """Whether tasks round at random, and so find keys in the table of pointers."""
        return any(isinstance(codec, Stochastic) for codec in self.by_task.values())

    def place(self, name: str, position: int, codec: Codec, parts: Parts) -> Tensor:
        """What kernels and library passes find of one member's buffer `name`."""
        own = parts[0]
        copied = self._copied(name, codes=not codec.plain)
        if codec.plain and own.is_contiguous() and not own.is_neg():
            again = own.dtype is not self.real and name != "p" and copied
            return self._unpack(name, position, codec, parts, self.real) if again else own
        if codec.plain:
            return self._unpack(name, position, codec, parts, own.dtype)
        self.random |= isinstance(codec, Stochastic)
        if codec.name not in self.able or copied:
            return self._unpack(name, position, codec, parts, self.real)
        if not own.is_contiguous() or own.is_neg():
            own = self._unpack(name, position, PLAIN[own.dtype], [own], own.dtype)
        self.by_task[name] = codec
        self.beside.setdefault(name, []).append(parts[1].data_ptr() if len(parts) > 1 else 0)
        return own

    def type_of(self, name: str, placed: Tensor) -> torch.dtype:
        """The dtype of the elements that kernels find of a buffer, for which `place` gave that."""
        return self.real if name in self.by_task else placed.dtype

    def draw(self, updates: Ints) -> None:
        """Makes the keys of this step's random roundings, for the numbers of the members'
        updates."""
        self.keys[:] = rounding_keys(self.seeds, self.numbers, updates)

    def load(self) -> int:
        """Before a step: what is loaded for the whole of it. Returns the number of tensors."""
        if self._unpacked:
            with torch.no_grad():
                for each in self._unpacked:
                    shape = tuple(each.values.shape)
                    each.values.copy_(each.codec.load(each.parts, shape))
        return len(self._unpacked)

    def save(self) -> None:
        """Behind a step: what it changed of that."""
        if self._unpacked:
            with torch.no_grad():
                for each in self._unpacked:
                    if each.name in self.writes:
                        key = int(self.keys[each.position])
                        each.codec.save(each.values, each.parts, key)

    def _unpack(
        self, name: str, position: int, codec: Codec, parts: Parts, dtype: torch.dtype
    ) -> Tensor:
        values = self.holdings.unpacked(self.members[position], name, dtype)
        self._unpacked.append(Unpacked(name, position, codec, parts, values))
        return values

    def _copied(self, name: str, *, codes: bool) -> bool:
        return copied_whole(name, self.variant.kernels, self.variant.libraries, codes=codes)
