"""What is known of a value before it is computed: instances x shape x place x dtype.

Each of the four broadcasts by itself, from the smaller to the larger:

    instances  CONST < RUN < GROUP < PARAM   how many there are: one, one per run (over = all), ...
    shape      (lead axes) x rows x cols     how many numbers one instance has
    place      STATIC < HOST < DEVICE        known when built | a Python number | in memory
    dtype      bool, int, real, string

Every shape is a matrix with leading axes: a scalar is [1, 1], an n-vector [n, 1], p is
[rows, cols]; `[samples, *p]` has the lead axis `samples`; with `view last` the axes before
the last two are the lead axis `batch`.

Does not do: sizes as numbers. A dimension is a literal or the text of a host expression, and two
dimensions are equal when their texts are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

Dim = int | str
Axis = int | str | tuple[()] | None
"""What a reduction goes over within a parameter: rows (0), columns (1), a named axis, all (None) or
nothing, so that only `over` says what it takes in."""


class Instances(IntEnum):
    """One per: program, run (every parameter), parameter group, parameter."""

    CONST = 0
    RUN = 1
    GROUP = 2
    PARAM = 3


class Place(IntEnum):
    """STATIC: known when a parameter is added. HOST: a Python number a step. DEVICE: in memory."""

    STATIC = 0
    HOST = 1
    DEVICE = 2


class DType(StrEnum):
    BOOL = "bool"
    INT = "int"
    REAL = "real"
    STRING = "string"


BATCH = "batch"
"""The lead axis of `view last`; unlike a named axis it is part of p, and reduced with it."""


@dataclass(frozen=True)
class Shape:
    lead: tuple[Dim, ...] = ()
    rows: Dim = 1
    cols: Dim = 1

    @property
    def is_scalar(self) -> bool:
        return self == SCALAR

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (*self.lead, self.rows, self.cols)

    def transposed(self) -> Shape:
        return Shape(self.lead, self.cols, self.rows)

    def __str__(self) -> str:
        if self.is_scalar:
            return "[]"
        return "[" + ", ".join(str(dim) for dim in self.dims) + "]"


SCALAR = Shape()


def join_dim(left: Dim, right: Dim) -> Dim | None:
    """The broadcast of two dimensions, None where they differ."""
    if left == right or right == 1:
        return left
    return right if left == 1 else None


def join_lead(left: tuple[Dim, ...], right: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """Lead axes broadcast by name: the shorter must be contained, in order, in the longer."""
    short, long = sorted((left, right), key=len)
    rest = iter(long)
    return long if all(axis in rest for axis in short) else None


def join_shape(left: Shape, right: Shape) -> Shape | None:
    """The broadcast of two shapes, None where they do not fit."""
    lead = join_lead(left.lead, right.lead)
    rows = join_dim(left.rows, right.rows)
    cols = join_dim(left.cols, right.cols)
    if lead is None or rows is None or cols is None:
        return None
    return Shape(lead, rows, cols)


@dataclass(frozen=True)
class Type:
    instances: Instances
    shape: Shape
    place: Place
    dtype: DType

    @property
    def on_device(self) -> bool:
        return self.place is Place.DEVICE

    def with_(
        self,
        *,
        instances: Instances | None = None,
        shape: Shape | None = None,
        place: Place | None = None,
        dtype: DType | None = None,
    ) -> Type:
        return replace(
            self,
            instances=self.instances if instances is None else instances,
            shape=self.shape if shape is None else shape,
            place=self.place if place is None else place,
            dtype=self.dtype if dtype is None else dtype,
        )

    def __str__(self) -> str:
        place = {Place.STATIC: "static ", Place.HOST: "host ", Place.DEVICE: ""}[self.place]
        return f"{place}{self.instances.name.lower()} {self.shape} {self.dtype}"

    def describe(self) -> str:
        """What an error message calls it: `shape [rows, 1]`, `a host number`."""
        if not self.on_device:
            return "a string" if self.dtype is DType.STRING else "a host number"
        return f"shape {self.shape}"


def join_types(types: list[Type], dtype: DType) -> Type | None:
    """Componentwise broadcast; None where two shapes do not fit."""
    shape = SCALAR
    for each in types:
        joined = join_shape(shape, each.shape)
        if joined is None:
            return None
        shape = joined
    return Type(
        max((each.instances for each in types), default=Instances.CONST),
        shape,
        max((each.place for each in types), default=Place.STATIC),
        dtype,
    )


class Storage(StrEnum):
    """How a state lies in memory. COMPUTE is the dtype that values are computed in, PARAM that of
    the parameter."""

    COMPUTE = "compute"
    PARAM = "param"
    FLOAT32 = "float32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"


STORAGE_BYTES = {
    Storage.COMPUTE: 4.0,
    Storage.PARAM: 4.0,
    Storage.FLOAT32: 4.0,
    Storage.BF16: 2.0,
    Storage.FP16: 2.0,
    Storage.FP8: 1.0 + 4.0 / 256,
    Storage.INT8: 1.0 + 4.0 / 256,
    Storage.INT4: 0.5 + 4.0 / 128,
}
"""Bytes per element for a float32 parameter; block-wise codes carry one float32 scale a block."""
