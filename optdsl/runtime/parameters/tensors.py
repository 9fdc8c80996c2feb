"""What lies where: parameters, gradients, and whether they still do.

Input: tensors and parameter groups. Output: addresses, and whether anything moved.

A step asks four questions of each parameter, and Python takes 60 to 130 ns for each answer, longer
than a kernel takes for 64 elements. tensors.c asks torch itself, at some 10 ns; where there is no
compiler, or where torch's C interface is not as it is known here (`_tried` finds out, once), Python
asks.

Relies on: native.py, tensors.c, torch's stable C interface. Does not do: anything with values.
"""

from __future__ import annotations

import ctypes
import operator
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from optdsl.runtime.arrays import Ints
from optdsl.runtime.native import NativeError, build, runtime_text
from optdsl.runtime.parameters.shards import dtensor, locals_of

PLAIN = (Tensor, Parameter)
"""Types whose gradient is what autograd holds: a subclass may answer otherwise, but for DTensors,
which are known."""

SYMBOLS = {
    "libc10": ("_ZNK3c1010TensorImpl4gradEv",),
    "libtorch_cpu": (
        "aoti_torch_get_data_ptr",
        "aoti_torch_get_dtype",
        "aoti_torch_get_layout",
        "aoti_torch_is_contiguous",
        "aoti_torch_get_numel",
        "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE",
    ),
}
"""What tensors.c asks, in the order of its `struct torch`."""


REFUSED, MOVED = 1, 2
"""What optdsl_gradients returns where it does not know, and where a gradient lies elsewhere."""


class Direct(NamedTuple):
    """The functions of tensors.c, and the address of the `struct torch` that they take."""

    moved: Any
    gradients: Any
    written: Any
    torch: int
    kept: Any


class Tensors:
    """Tensors that C may ask: kept alive, and the addresses of their Python objects."""

    __slots__ = ("_asked", "count", "cut", "direct", "objects", "tensors")

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self.count = len(self.tensors)
        self.objects: Ints = np.array(list(map(id, self.tensors)), np.int64)
        kinds = set(map(type, self.tensors))
        self.cut = len(kinds) == 1 and dtensor() in kinds
        self.direct = direct() if self.cut or kinds.issubset(PLAIN) else None
        self._asked = (self.count, address(self.objects))

    def addresses(self) -> Ints:
        """Where they lie."""
        return np.fromiter(map(Tensor.data_ptr, locals_of(self.tensors)), np.int64, self.count)

    def written(self) -> None:
        """Tells autograd that kernels changed their values by address: it then refuses a stale
        graph as ever."""
        if self.direct is None:
            torch.autograd.graph.increment_version(self.tensors)
        else:
            self.direct.written(self.direct.torch, *self._asked)


class Listing:
    """The parameters of an optimizer as a step found them: `tensors` are those of `listed`, what
    `groups` hold one after the other, each once."""

    def __init__(
        self, groups: Sequence[Mapping[str, Any]], listed: list[Tensor], tensors: Tensors
    ) -> None:
        self.tensors = tensors
        self.places = tensors.addresses()
        self._groups, self._listed = list(groups), listed
        self._ends: Ints = np.cumsum([len(group["params"]) for group in groups], dtype=np.int64)
        self._known: Ints = np.array(list(map(id, groups)), np.int64)
        once = len(listed) == tensors.count and all(map(operator.is_, listed, tensors.tensors))
        local = offset_of_local(tensors.tensors) if tensors.cut else 0
        self._direct = tensors.direct if once and local is not None else None
        self._gradients = np.zeros(tensors.count, np.int64)
        objects, places = address(tensors.objects), address(self.places)
        self._groups_asked = (
            *("params", len(groups), address(self._known), address(self._ends)),
            *(objects, places, local),
        )
        self._gradients_asked = (
            *(tensors.count, objects, "grad"),
            *(places, address(self._gradients), local),
        )

    @property
    def asks_directly(self) -> bool:
        """Whether C asks the tensors."""
        return self._direct is not None

    def gradients(self) -> tuple[Ints | None, bool]:
        """Where the gradients lie, till this is asked again, if C asks and each of them is there
        and lies as its parameter does, else None; and whether one lies elsewhere than before."""
        if self._direct is None:
            return None, True
        found = self._direct.gradients(self._direct.torch, *self._gradients_asked)
        return None if found == REFUSED else self._gradients, found == MOVED

    def moved(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether `groups` hold others, or one of them lies elsewhere."""
        if self._direct is None:
            return self._moved(groups)
        return bool(self._direct.moved(self._direct.torch, groups, *self._groups_asked))

    def _moved(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        if len(groups) != len(self._groups) or not all(map(operator.is_, groups, self._groups)):
            return True
        listed = [each for group in groups for each in group["params"]]
        return (
            len(listed) != len(self._listed)
            or not all(map(operator.is_, listed, self._listed))
            or not np.array_equal(self.tensors.addresses(), self.places)
        )


def address(table: Ints) -> int:
    """Where an array lies; numpy takes a microsecond to say so."""
    return int(table.ctypes.data)


@cache
def direct() -> Direct | None:
    """The functions of tensors.c, or None where there is no compiler or torch is not as it was."""
    try:
        # Not ctypes.CDLL: it would let go of Python's lock.
        library = ctypes.PyDLL(str(build(runtime_text("parameters/tensors.c"))))
        symbols = [
            ctypes.cast(getattr(_torch_library(name), symbol), ctypes.c_void_p).value
            for name, wanted in SYMBOLS.items()
            for symbol in wanted
        ]
    except (NativeError, OSError, AttributeError):
        return None
    return _tried(library, symbols)


def _torch_library(name: str) -> ctypes.CDLL:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    return ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / f"{name}.{suffix}"))


def _tried(library: Any, symbols: Sequence[int | None]) -> Direct | None:
    """The functions, where they say of a few tensors what Python says of them."""
    without, transposed, usual = (Parameter(torch.zeros(2, 3)) for _ in range(3))
    transposed.grad, usual.grad = torch.zeros(3, 2).T, torch.zeros(2, 3)
    offset = _offset([without, transposed, usual, usual.grad])
    if offset is None:
        return None
    grad = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(cast(int, symbols[0]))
    undefined = ctypes.c_void_p.from_address(grad(without._cdata)).value
    table = (ctypes.c_void_p * 9)(*symbols, undefined, offset)
    pointer, number, python = ctypes.c_void_p, ctypes.c_longlong, ctypes.py_object
    tables = 4 * [pointer]
    moved = _function(library.optdsl_moved, pointer, python, python, number, *tables, number)
    gradients = _function(
        *(library.optdsl_gradients, pointer, number),
        *(pointer, python, pointer, pointer, number),
    )
    written = _function(library.optdsl_written, pointer, number, pointer)
    found = Direct(moved, gradients, written, ctypes.addressof(table), (library, table))
    return found if _agrees(found, [(without, False), (transposed, False), (usual, True)]) else None


def _function(function: Any, *arguments: Any) -> Any:
    function.argtypes, function.restype = arguments, ctypes.c_longlong
    return function


def _agrees(found: Direct, cases: Sequence[tuple[Parameter, bool]]) -> bool:
    """Whether the functions take the gradients that they can, and find them where Python does."""
    for p, taken in cases:
        objects, places, gradients = (np.zeros(1, np.int64) for _ in range(3))
        objects[0], places[0] = id(p), p.data_ptr()
        asked = found.torch, 1, address(objects)
        tables = address(places), address(gradients)
        if found.gradients(*asked, "grad", *tables, 0) != (MOVED if taken else REFUSED):
            return False
        if taken and gradients[0] != cast(Tensor, p.grad).data_ptr():
            return False
        before = p._version
        found.written(*asked)
        if p._version != before + 1:
            return False
    return True


def _offset(tensors: Sequence[Tensor]) -> int | None:
    """Where in a Python tensor the address of torch's own stands."""
    return _standing(tensors, [each._cdata for each in tensors])


def offset_of_local(tensors: Sequence[Tensor]) -> int | None:
    """Where in a DTensor the address of the tensor stands that lies here."""
    return _standing(tensors, list(map(id, locals_of(tensors))))


def _standing(tensors: Sequence[Tensor], wanted: Sequence[int]) -> int | None:
    """Where in the objects of `tensors`, all of one type, the words `wanted` stand."""
    size = ctypes.sizeof(ctypes.c_void_p)
    for offset in range(2 * size, type(tensors[0]).__basicsize__, size):
        words = [ctypes.c_size_t.from_address(id(each) + offset).value for each in tensors]
        if words == list(wanted):
            return offset
    return None
