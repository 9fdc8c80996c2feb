"""Typed construction of values: broadcasting, constant folding, and the errors of both.

Input: operands and the place they are written at. Output: interned, typed values. Errors go to
the sink and raise `Reported`. Relies on: the op table for result dtypes.
Does not do: names, statements, calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from optdsl.axes import AXIS_SIZES
from optdsl.diagnostics import Label, Sink
from optdsl.frontend.bindings import Reported
from optdsl.ir.fold import host_function, host_text, is_const
from optdsl.ir.nodes import Builder, Scope, Value
from optdsl.ops import OPS, Result
from optdsl.source import Span
from optdsl.types import (
    BATCH,
    SCALAR,
    Axis,
    Dim,
    DType,
    Instances,
    Place,
    Shape,
    Type,
    join_shape,
    join_types,
)

Reporter = Callable[..., None]
WORDS = {
    "add": "add {1} to {0}",
    "sub": "subtract {1} from {0}",
    "mul": "multiply {0} by {1}",
    "div": "divide {0} by {1}",
    "matmul": "multiply the matrices {0} @ {1}",
}
_FLAT: dict[str, Dim] = {"rows": "numel", "long": "numel", "cols": 1, "short": 1}
"""What the sizes of the one column of `view flat` are."""


@dataclass
class Emitter:
    """`report` is called as Sink.error is; `view` is the rule's view of p."""

    builder: Builder
    sink: Sink
    report: Reporter
    view: str = "rows"
    dims: dict[str, Value] = field(default_factory=dict)

    def fail(
        self,
        code: str,
        message: str,
        span: Span,
        text: str = "",
        *more: Label,
        help: str | None = None,  # noqa: A002
    ) -> NoReturn:
        self.report(code, message, span, text, *more, help=help)
        raise Reported

    # ------------------------------------------------------------ leaves

    def const(self, value: float | int | bool | str, span: Span | None = None) -> Value:
        return self.builder.const(value, span)

    def leaf(
        self,
        op: str,
        instances: Instances,
        place: Place,
        dtype: DType,
        shape: Shape = SCALAR,
        **attrs: Any,
    ) -> Value:
        return self.builder.make(op, (), Type(instances, shape, place, dtype), **attrs)

    def size(self, name: str) -> Value:
        return self.leaf("size", Instances.PARAM, Place.STATIC, DType.INT, name=name)

    @property
    def full(self) -> Shape:
        """The shape of p."""
        lead = (BATCH,) if self.view == "last" else ()
        return Shape((), "numel", 1) if self.view == "flat" else Shape(lead, "rows", "cols")

    @property
    def param_type(self) -> Type:
        return Type(Instances.PARAM, self.full, Place.DEVICE, DType.REAL)

    def dim_value(self, dim: Dim) -> Value:
        """The host number that a dimension is."""
        if isinstance(dim, int):
            return self.const(dim)
        return self.dims[dim] if dim in self.dims else self.size(dim)

    def named_size(self, value: Value) -> Dim:
        """The dimension that a settled whole number is."""
        if is_const(value):
            return int(value.attr("value"))
        text = host_text(value)
        if self.view == "flat" and text in _FLAT:
            return _FLAT[text]
        if value.op != "size":
            self.dims[text] = value
        return text

    # ------------------------------------------------------------ what the host reads

    def read(self, value: Value, span: Span) -> Value:
        """A number of a tensor as one of the host, which is there in the middle of a step alone."""
        if not value.type.on_device:
            return value
        return self.builder.make("to_host", (value,), value.type.with_(place=Place.HOST), span)

    # ------------------------------------------------------------ blocks

    def blocks_of(self, length: Dim, span: Span) -> Dim:
        """How many blocks of `length` consecutive elements a matrix of p has: ceil(numel / n)."""
        elements = self.size("numel")
        if self.view == "last":
            elements = self.map("mul", [self.size("rows"), self.size("cols")], span)
        parts = self.map("div", [elements, self.dim_value(length)], span)
        return self.named_size(self.map("ceil", [parts], span))

    def spread(self, value: Value, span: Span) -> Value:
        """A value with one number for each block as one of p's shape; any other as it is."""
        shape = value.type.shape
        count = self.dims.get(str(shape.rows))
        if count is None or shape.cols != 1 or shape.lead != self.full.lead or count.op != "ceil":
            return value
        length = self.named_size(count.args[0].args[-1])
        if shape.rows != self.blocks_of(length, span):
            return value
        if value.type.dtype is DType.BOOL:
            numbers = self.map("where", [value, self.const(1.0), self.const(0.0)], span)
            return self.map("ne", [self.spread(numbers, span), self.const(0.0)], span)
        full, whole = self.full, Shape(shape.lead, shape.rows, length)
        each = self.broadcast(value, value.type.with_(shape=whole), span)
        return self.shaped("reshape", [each], full, span, n=full.rows, m=full.cols, fill=None)

    # ------------------------------------------------------------ elementwise

    def map(self, op: str, args: list[Value], span: Span) -> Value:
        """An elementwise op over operands that broadcast."""
        row = OPS[op]
        for arg in args:
            if arg.type.dtype is DType.STRING and op not in ("eq", "ne"):
                self.fail(
                    "E302",
                    "a string is no number",
                    span,
                    help="strings can be compared with == and in",
                )
        dtype = self._dtype(row.result, args)
        if all(map(is_const, args)):
            return self._folded(op, args, dtype, span)
        if any(arg.op == "to_host" for arg in args):  # what is made of it, no one waits for yet
            made = self.map(op, [as_tensor(arg) for arg in args], span)
            return made if any(arg.type.on_device for arg in args) else self.read(made, span)
        joined = join_types([arg.type for arg in args], dtype)
        if joined is None:
            given, args = args, [self.spread(arg, span) for arg in args]
            joined = join_types([arg.type for arg in args], dtype)
        if joined is None:
            self._shape_error(op, given, span)
        joined = _as_stored(joined)
        if op == "where":
            return self._where(args, joined, span)
        return self.builder.make(op, args, joined, span)

    def _dtype(self, result: Result, args: list[Value]) -> DType:
        if result is Result.BOOL:
            return DType.BOOL
        if result is Result.REAL:
            return DType.REAL
        if result is Result.SAME:
            kinds = {arg.type.dtype for arg in args[1:]}
            if len(kinds) == 1:
                return kinds.pop()
            return DType.REAL
        integral = all(arg.type.dtype in (DType.INT, DType.BOOL) for arg in args)
        return DType.INT if integral else DType.REAL

    def _folded(self, op: str, args: list[Value], dtype: DType, span: Span) -> Value:
        try:
            number = host_function(op)(*(arg.attr("value") for arg in args))
        except (OverflowError, ValueError):
            number = float("nan")
        return self.const(number, span)

    def _where(self, args: list[Value], joined: Type, span: Span) -> Value:
        condition, then, otherwise = args
        if is_const(condition):
            return then if condition.attr("value") else otherwise
        if then is otherwise:
            return then
        # A host condition over tensors is decided on the host: the side not taken costs nothing.
        if not condition.type.on_device and joined.on_device:
            return self.choose(condition, then, otherwise, span)
        return self.builder.make("where", args, joined, span)

    def choose(self, condition: Value, then: Value, otherwise: Value, span: Span) -> Value:
        """`then` where the host condition holds; only that side is computed."""
        if is_const(condition):
            return then if condition.attr("value") else otherwise
        sides = [then, otherwise]
        if any(each.op == "to_host" for each in (condition, *sides)):
            made = self.map("where", [as_tensor(each) for each in (condition, *sides)], span)
            return made if any(each.type.on_device for each in sides) else self.read(made, span)
        then = _assume(then, condition, True)
        otherwise = _assume(otherwise, condition, False)
        if then is otherwise:
            return then
        dtype = self._dtype(Result.SAME, [condition, then, otherwise])
        joined = join_types([then.type, otherwise.type], dtype)
        if joined is None:
            then, otherwise = self.spread(then, span), self.spread(otherwise, span)
            joined = join_types([then.type, otherwise.type], dtype)
        if joined is None:
            self.fail(
                "E305",
                f"the branches give different shapes, {then.type.shape} and {otherwise.type.shape}",
                span,
            )
        joined = joined.with_(
            instances=max(joined.instances, condition.type.instances),
            place=max(joined.place, condition.type.place),
        )
        joined = _as_stored(joined)
        op = "choose" if joined.on_device else "where"
        if joined.on_device:
            then, otherwise = (
                self.broadcast(then, joined, span),
                self.broadcast(otherwise, joined, span),
            )
        return self.builder.make(op, (condition, then, otherwise), joined, span)

    def broadcast(self, value: Value, type: Type, span: Span | None) -> Value:
        """`value` with the shape of `type`, on the device; itself where it is so already."""
        value = as_tensor(value)
        if value.type.shape == type.shape and value.type.on_device:
            return value
        dtype = DType.BOOL if value.type.dtype is DType.BOOL else DType.REAL
        return self.builder.make("full", (value,), type.with_(dtype=dtype), span)

    def _shape_error(self, op: str, args: list[Value], span: Span) -> NoReturn:
        tensors = [arg for arg in args if not arg.type.shape.is_scalar]
        left, right = _first_clash(tensors)
        words = WORDS.get(op, "combine {0} with {1}")
        texts = [f"a value of shape {each.type.shape}" for each in (left, right)]
        labels = tuple(
            Label(each.span, f"{each.type.shape}{meaning(each.type.shape)}")
            for each in (left, right)
            if each.span is not None
        )
        self.fail(
            "E301", f"cannot {words.format(*texts)}", span, "", *labels, help=_mend(left, right)
        )

    # ------------------------------------------------------------ matrices

    def matmul(self, left: Value, right: Value, span: Span) -> Value:
        for side in (left, right):
            if not side.type.on_device or side.type.shape.is_scalar:
                self.fail(
                    "E303",
                    "`@` multiplies matrices",
                    span,
                    f"one side is {side.type.describe()}",
                    help="use * for numbers",
                )
        a, b = left.type.shape, right.type.shape
        lead = join_shape(Shape(a.lead), Shape(b.lead))
        if a.cols != b.rows or lead is None:
            turned = "; did you mean to transpose one of them, x.T @ y or x @ y.T?"
            labels = [Label(s.span, f"{s.type.shape}") for s in (left, right) if s.span]
            self.fail(
                "E304",
                f"cannot multiply a matrix of shape {a} by one of shape {b}",
                span,
                "",
                *labels,
                help=f"the inner sizes {a.cols} and {b.rows} must be the same{turned}",
            )
        joined = join_types(
            [left.type.with_(shape=SCALAR), right.type.with_(shape=SCALAR)], DType.REAL
        )
        assert joined is not None
        return self.builder.make(
            "matmul", (left, right), joined.with_(shape=Shape(lead.lead, a.rows, b.cols)), span
        )

    def shaped(self, op: str, args: list[Value], shape: Shape, span: Span, **attrs: Any) -> Value:
        """A matrix primitive whose result has `shape`."""
        args = [as_tensor(arg) for arg in args]
        joined = join_types([arg.type.with_(shape=SCALAR) for arg in args], DType.REAL)
        assert joined is not None
        type_ = joined.with_(shape=shape, place=Place.DEVICE)
        if not args:
            type_ = type_.with_(instances=Instances.PARAM)
        return self.builder.make(op, args, type_, span, **attrs)

    # ------------------------------------------------------------ reductions

    def reduce(
        self,
        op: str,
        value: Value,
        axis: Axis,
        over: str | None,
        scope: Scope,
        span: Span,
    ) -> Value:
        """`op` over an axis, the parameter, or with `over` all parameters that are in `scope`."""
        if not value.type.on_device:
            self.fail("E306", "there is nothing to reduce in a host number", span)
        shape = value.type.shape
        instances = value.type.instances
        if over is not None:
            instances = min(instances, Instances.RUN if over == "all" else Instances.GROUP)
        if axis == () and shape.is_scalar:
            axis = None
        if axis is None:
            kept = tuple(each for each in shape.lead if each != BATCH)
            result = Shape(kept, 1, 1)
        elif axis == ():
            result = shape
        elif axis in (0, 1):
            result = (
                Shape(shape.lead, 1, shape.cols) if axis == 0 else Shape(shape.lead, shape.rows, 1)
            )
            if result == shape and over is None:
                return value
        elif axis in shape.lead:
            result = Shape(
                tuple(each for each in shape.lead if each != axis), shape.rows, shape.cols
            )
        else:
            self.fail(
                "E307",
                f"a value of shape {shape} has no axis `{axis}`",
                span,
                help="axis is 0, 1, () or the name of a leading axis",
            )
        if over is None:
            scope = ()
        type_ = value.type.with_(instances=instances, shape=result, dtype=DType.REAL)
        return self.builder.make(
            op,
            (value, *(c for c, _ in scope)),
            type_,
            span,
            axis=axis,
            over=over,
            scope=tuple(side for _, side in scope),
        )


def as_tensor(value: Value) -> Value:
    """The tensor that the host reads for `value`; any other value as it is."""
    return value.args[0] if value.op == "to_host" else value


def _as_stored(type_: Type) -> Type:
    """On the device there are real numbers and conditions, no integers."""
    whole = type_.on_device and type_.dtype is DType.INT
    return type_.with_(dtype=DType.REAL) if whole else type_


def _assume(value: Value, condition: Value, side: bool) -> Value:
    while value.op == "choose" and value.args[0] is condition:
        value = value.args[1 if side else 2]
    return value


def _first_clash(values: list[Value]) -> tuple[Value, Value]:
    for i, left in enumerate(values):
        for right in values[i + 1 :]:
            if join_shape(left.type.shape, right.type.shape) is None:
                return left, right
    return values[0], values[-1]


def meaning(shape: Shape) -> str:
    """What a reader calls the shape, after a comma; empty where there is no word for it."""
    words: dict[tuple[Dim, Dim], str] = {
        ("rows", 1): ", one number per row",
        (1, "cols"): ", one number per column",
        (1, 1): ", one number",
        ("rows", "cols"): ", the shape of p",
    }
    return words.get((shape.rows, shape.cols), "")


def _mend(left: Value, right: Value) -> str | None:
    for value in (left, right):
        if value.op == "matmul" and value.name:
            a, b = value.args
            first = a.args[0] if a.op == "transpose" else a
            second = b.args[0] if b.op == "transpose" else b
            if first is second and first.name:
                other_form = (
                    f"{first.name} @ {first.name}.T"
                    if a.op == "transpose"
                    else (f"{first.name}.T @ {first.name}")
                )
                this = (
                    f"{first.name}.T @ {first.name}"
                    if a.op == "transpose"
                    else (f"{first.name} @ {first.name}.T")
                )
                return f"`{value.name}` is {this}; did you mean {other_form}?"
    turned, other = left.type.shape.transposed(), right.type.shape
    if join_shape(turned, other) in (turned, other):
        return "one of them is transposed; write x.T for the transpose"
    if not {*turned.dims, *other.dims}.isdisjoint(AXIS_SIZES):
        return "unfold(x, axis) is x as a matrix of that axis by all others, fold its inverse"
    return None
