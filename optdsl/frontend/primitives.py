"""Primitives of the language: reductions, elementwise functions, draws, the model.

Input: a call of a primitive. Output: its value. Relies on: folding; statements say which state
a name is (`state_of`). Does not do: functions written in the language (calls.py), typing (emit).
"""

from __future__ import annotations

from optdsl.frontend.arguments import Keywords
from optdsl.frontend.bindings import Binding, Dims
from optdsl.frontend.core import is_none
from optdsl.frontend.folding import Folding
from optdsl.frontend.selection import TAKEN_IN
from optdsl.hostmath import site_in_pass
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Value
from optdsl.ops import OPS
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import BATCH, SCALAR, Axis, DType, Instances, Place, Shape, Type

INSTANCES = {None: Instances.PARAM, "group": Instances.GROUP, "all": Instances.RUN}

ELEMENTWISE = frozenset(
    {
        "sqrt",
        "exp",
        "log",
        "sin",
        "cos",
        "tanh",
        "abs",
        "sign",
        "floor",
        "ceil",
        "round",
        "isfinite",
        "lerp",
        "where",
        "fma",
    }
)
REDUCTIONS = {"sum": "sum", "max": "max_of", "min": "min_of"}
# fmt: off
LATER = frozenset({
    "permutation_rank", "push", "norm2", "minmax01",
})
# fmt: on
"""Functions that the language keeps for a later version."""


class Primitives(Folding):
    # ------------------------------------------------------------ elementwise and reductions

    def _elementwise(self, call: ast.Call) -> Binding:
        arity = OPS[call.function].arity
        values = self.values(call, arity)
        if call.function == "where":
            self.need_condition(values[0], call.args[0].span)
        return self.emit.map(call.function, values, call.span)

    def _reduction(self, call: ast.Call) -> Binding:
        most = 1 if call.function == "sum" else 16
        args, named = self.arguments(call, 1, most, TAKEN_IN)
        values = [self.as_value(bound, call.span) for bound in args]
        if len(values) > 1:
            if any(not is_none(each) for each in named.values()):
                self.fail(
                    "E208",
                    f"`{call.function}` of several values is elementwise; it takes no axis",
                    call.span,
                )
            result = values[0]
            for value in values[1:]:
                result = self.emit.map(call.function, [result, value], call.span)
            return result
        return self.reduce(REDUCTIONS[call.function], values[0], named, call.span)

    def reduce(self, op: str, value: Value, named: Keywords, span: Span) -> Value:
        """A reduction that takes in what was written: `axis`, `over`, `where`, `blocks`."""
        if value.type.dtype in (DType.BOOL, DType.STRING):
            self.fail(
                "E309",
                "a condition is not a number",
                span,
                help="write where(condition, 1, 0) to count with it",
            )
        over, nothing = self._over(named.get("over"), span), OPS[op].identity
        assert nothing is not None
        value, axis = self.selected(value, named, nothing, span)
        if over == "workers":
            return self.closure(f"worker_{op.removesuffix('_of')}", value, span)
        if over is not None:
            self._no_device_condition("a reduction over parameters", span)
        if axis == ():
            self._entries_match(value.type.shape, over, span)
        return self.emit.reduce(op, value, axis, over, self.path, span)

    def _entries_match(self, shape: Shape, over: str | None, span: Span) -> None:
        """Entry by entry only what has one shape in all parameters can be reduced."""
        if over is None:
            self.fail("E307", "`axis = ()` is for what `over` takes in, and none is given", span)
        own = self.own_size(shape)
        if own is not None:
            what = f"parameters differ in `{own}`"
            self.fail("E307", f"{what}: entries of shape {shape} have no match", span)

    def _call_count(self, call: ast.Call) -> Binding:
        """How many elements a reduction with these arguments takes in."""
        args, named = self.arguments(call, 1, 1, TAKEN_IN)
        value = self.as_value(args[0], call.span)
        over = self._over(named.get("over"), call.span)
        if self.selects(named):
            return self.reduce("sum", self.ones(value, call.span), named, call.span)
        axis = self._axis(named.get("axis"), call.span)
        if over == "workers":
            return self.emit.leaf("workers", Instances.RUN, Place.HOST, DType.INT)
        if axis == ():
            self._entries_match(value.type.shape, over, call.span)
        if over is not None:
            ones = self.ones(value, call.span)
            return self.emit.reduce("sum", ones, axis, over, self.path, call.span)
        return self._count_here(value.type.shape, axis, call.span)

    def _count_here(self, shape: Shape, axis: Axis, span: Span) -> Value:
        """The number of elements along `axis`, by default of the parameter's axes."""
        if axis in (0, 1):
            return self.emit.dim_value(shape.rows if axis == 0 else shape.cols)
        if axis is not None:
            return self._axis_size(shape, str(axis), span)
        if shape == self.emit.full:
            return self.emit.size("numel")
        dims = [*(each for each in shape.lead if each == BATCH), shape.rows, shape.cols]
        result = self.emit.const(1)
        for size in (self.emit.dim_value(dim) for dim in dims if dim != 1):
            result = size if is_const(result) else self.emit.map("mul", [result, size], span)
        return result

    def _axis_size(self, shape: Shape, axis: str, span: Span) -> Value:
        if axis not in shape.lead:
            self.fail("E307", f"a value of shape {shape} has no axis `{axis}`", span)
        if axis == "workers":
            return self.emit.leaf("workers", Instances.RUN, Place.HOST, DType.INT)
        return self.emit.leaf("lead_size", Instances.RUN, Place.HOST, DType.INT, name=axis)

    # ------------------------------------------------------------ draws, closures, states

    def _draw(self, call: ast.Call) -> Binding:
        args, named = self.arguments(call, 0, 1, frozenset({"at", "over", "own", "same", "of"}))
        if args and not isinstance(args[0], Dims):
            self.fail("E314", "a shape is wanted, e.g. [rows, 1]", call.span)
        shape = args[0].shape if args and isinstance(args[0], Dims) else self.emit.full
        if {"own", "same", "of"} & named.keys():
            self.fail("E502", "draws per worker are not in this version", call.span)
        over = self._over(named.get("over"), call.span)
        if over == "workers":
            self.fail("E502", "draws per worker are not in this version", call.span)
        if over and not shape.is_scalar:
            self.fail("E314", "a draw over all parameters has the shape []", call.span)
        instances = INSTANCES[over]
        at, turns = self._drawn_at(named.get("at"), instances, call.span)
        place = Place.HOST if over else Place.DEVICE
        type_ = Type(instances, shape, place, DType.REAL)
        site = self.sites.setdefault(self.textual_place(call.span), len(self.sites) + 1)
        while turns and is_const(turns[0]):  # an unrolled loop
            site, turns = site_in_pass(site, turns[0].attr("value")), turns[1:]
        return self.builder.make(
            call.function, (at, *turns), type_, call.span, site=site, over=over
        )

    def _drawn_at(
        self, bound: Binding | None, instances: Instances, span: Span
    ) -> tuple[Value, tuple[Value, ...]]:
        """The number that a draw belongs to, by default that of the update; and then, in a loop,
        the numbers of the passes, so that each pass draws anew."""
        if is_none(bound):
            shared = instances < Instances.PARAM
            return self.as_value(self.name("steps" if shared else "t", span), span), self.turns
        assert bound is not None
        at = self.as_value(bound, span)
        if at.type.on_device or at.type.dtype in (DType.BOOL, DType.STRING):
            self.fail("E313", "`at` is a host number", span)
        if at.op == "to_host":
            self.fail("E313", "`at` is known before the step, not read from a tensor", span)
        if at.type.instances > max(instances, Instances.GROUP):
            self.fail(
                "E408",
                "a draw for all parameters cannot be `at` a number of each",
                span,
                help="use `steps`, the number of the group's step",
            )
        return at, ()

    _call_rand = _call_randn = _call_exponential = _draw

    def closure(self, op: str, value: Value, span: Span) -> Value:
        self._no_device_condition("what evaluates the model or talks to workers", span)
        if self.loop_depth and op.startswith("worker"):
            self.fail("E502", "a collective cannot stand in a loop yet", span)
        instances, shape = value.type.instances, value.type.shape
        if op == "loss_at":
            instances, shape = Instances.RUN, SCALAR
        if op == "gather":
            shape = Shape(("workers", *shape.lead), shape.rows, shape.cols)
        type_ = value.type.with_(
            instances=instances, shape=shape, place=Place.DEVICE, dtype=DType.REAL
        )
        conditions = tuple(condition for condition, _ in self.path)
        return self.builder.make(
            op,
            (value, *conditions),
            type_,
            span,
            scope=tuple(side for _, side in self.path),
            order=self.number("closure"),
        )

    def _evaluation(self, call: ast.Call) -> Binding:
        args, named = self.arguments(call, 1, 1, frozenset({"weights"}))
        if named:
            self.fail(
                "E502",
                "`weights` needs per-sample losses, which this version does not take",
                call.span,
            )
        point = self.as_value(args[0], call.span)
        if point.type.shape != self.emit.full:
            self.fail(
                "E316",
                f"`{call.function}` takes a value of p's shape",
                call.span,
                point.type.describe(),
            )
        return self.closure(f"{call.function}_at", point, call.span)

    _call_loss = _call_grad = _evaluation

    def _call_gather(self, call: ast.Call) -> Binding:
        args, named = self.arguments(call, 1, 1, frozenset({"over"}))
        if self._over(named.get("over"), call.span) != "workers":
            self.fail("E307", "`gather` takes over = workers", call.span)
        return self.closure("gather", self.as_value(args[0], call.span), call.span)

    def _call_host(self, call: ast.Call) -> Binding:
        """A number of a tensor, as the host may read it; of the host's own numbers each itself."""
        (value,) = self.values(call, 1)
        if not value.type.shape.is_scalar:
            self.fail("E319", "`host` reads one number", call.span, value.type.describe())
        return self.emit.read(value, call.span)

    def _call_first(self, call: ast.Call) -> Binding:
        if len(call.args) != 1 or not isinstance(call.args[0].value, ast.Name):
            self.fail("E209", "`first` takes the name of a state", call.span)
        name = self.state_of(call.args[0].value)
        return self.first(name)

    def first(self, name: str) -> Value:
        """Whether this step creates the state; states born at one place share the answer."""
        birth = self.states[name].birth
        instances = self.states[name].type.instances if name in self.states else Instances.PARAM
        return self.emit.leaf("first", instances, Place.HOST, DType.BOOL, name=birth)

    def state_of(self, name: ast.Name) -> str:
        raise AssertionError("statements.py defines it")
