"""Small algebra on device values, shared by the passes that rewrite them.

Host values come in three kinds: `row` (hyperparameters, t: one number per row of the scalar
table), `size` (made of sizes alone: worked out in the kernel), and literals. Products keep the
first two apart, so that a rule which only divides by `numel` needs no scalar row per shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from optdsl.ir.fold import host_function, is_const
from optdsl.ir.nodes import Builder, Value
from optdsl.source import Span
from optdsl.types import DType, join_types

SIZE_OPS = frozenset({"add", "sub", "mul", "div", "sqrt", "min", "max", "neg"})
KERNEL_SIZES = frozenset({"rows", "cols", "numel", "batch", "short", "long"})


def is_size(value: Value) -> bool:
    """Made of sizes and literals alone, by operations that a kernel can do."""
    if value.op == "size":
        return value.attr("name") in KERNEL_SIZES
    if is_const(value):
        return value.type.dtype in (DType.INT, DType.REAL)
    return value.op in SIZE_OPS and not value.type.on_device and all(map(is_size, value.args))


@dataclass
class Algebra:
    """Constructors that fold literals and drop neutral operands."""

    builder: Builder
    span: Span | None = None
    """Where the value that is being rewritten was written."""

    def const(self, value: float) -> Value:
        return self.builder.const(float(value))

    def make(self, op: str, *args: Value) -> Value:
        if all(map(is_const, args)):
            return self.const(host_function(op)(*(arg.attr("value") for arg in args)))
        kinds = {arg.type.dtype for arg in args}
        dtype = DType.INT if kinds == {DType.INT} and op != "div" else DType.REAL
        joined = join_types([arg.type for arg in args], dtype)
        assert joined is not None
        return self.builder.make(op, args, joined, self.span)

    def mul(self, a: Value, b: Value) -> Value:
        if self.is_number(a, 1) or self.is_number(b, 1):
            return b if self.is_number(a, 1) else a
        return self.make("mul", a, b)

    def div(self, a: Value, b: Value) -> Value:
        return a if self.is_number(b, 1) else self.make("div", a, b)

    def neg(self, a: Value) -> Value:
        return a.args[0] if a.op == "neg" else self.make("neg", a)

    def add(self, a: Value, b: Value) -> Value:
        """a + b, as one fma where one side is a product with a number."""
        if self.is_number(a, 0) or self.is_number(b, 0):
            return b if self.is_number(a, 0) else a
        if not (a.type.on_device or b.type.on_device):
            return self.make("add", a, b)
        for product, other in ((a, b), (b, a)):
            if product.op == "mul" and not product.args[0].type.on_device:
                return self.make("fma", product.args[0], product.args[1], other)
        for plain, negative in ((a, b), (b, a)):
            if negative.op == "neg":
                return self.make("sub", plain, negative.args[0])
        return self.make("add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        if self.is_number(b, 0):
            return a
        if b.op == "mul" and not b.args[0].type.on_device and b.type.on_device:
            return self.make("fma", self.neg(b.args[0]), b.args[1], a)
        if b.op == "neg":
            return self.add(a, b.args[0])
        return self.make("sub", a, b)

    @staticmethod
    def is_number(value: Value, number: float) -> bool:
        return (
            is_const(value) and value.attr("value") == number and value.type.dtype is not DType.BOOL
        )
