"""What is legal in a typed rule, checked between the stages of the compiler.

Input: a rule, or the values of its straight variants. Output: nothing, or InternalError with the
first faults: every fault is a bug of the compiler, never of the user's rule.

Checked: arity and attributes by the op table; the type of each value against those of its
operands; operands made before their users, all by the rule's own builder; what loops carry, and
that no value of a loop's body is read outside; names declared; states, requirements, dimensions.
Does not do: what a value means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from optdsl.diagnostics import InternalError
from optdsl.ir.matrices import DIMENSIONS, PARTS, SIZES, matrix_shape
from optdsl.ir.nodes import LoopBody, Rule, Scope, StateDecl, Value, operands, reachable
from optdsl.ir.text import type_text
from optdsl.ops import OPS, Kind, Op, Result
from optdsl.types import (
    BATCH,
    SCALAR,
    DType,
    Instances,
    Place,
    Shape,
    Type,
    join_shape,
    join_types,
)

SHOWN = 5  # faults in one message

_BY_KIND = {
    Kind.MAP: frozenset[str](),
    Kind.REDUCE: frozenset({"axis", "over", "scope"}),
    Kind.RANDOM: frozenset({"site", "over"}),
    Kind.CLOSURE: frozenset({"scope", "order"}),
}
_BY_NAME = {
    "const": {"value", "text"},
    "state": {"name"},
    "host_state": {"name"},
    "input": {"name"},
    "hyper": {"name", "index"},
    "attribute": {"name"},
    "size": {"name"},
    "lead_size": {"name"},
    "first": {"name"},
    "name_matches": {"pattern"},
    "loop_arg": {"loop", "index"},
    "loop": {"body"},
    "loop_result": {"index"},
    "result": {"slot"},
    "evaluated": {"slot"},
    "eye": {"n", "m"},
    "argsort": {"dim", "first"},
    **{op: {"dim"} for op in ("take", "put")},
    "flip": {"dims"},
    "reshape": {"n", "m", "fill"},
    **{op: {"n", "m", "others"} for op in ("unfold", "fold")},
    "kth_smallest": {"dims"},
    "kth_of": {"k"},
    "part": {"index"},
}
_PLAN_ONLY = frozenset({"load", "scalar", "row_result", "g_scale"})


def verify_rule(rule: Rule, stage: str) -> None:
    """Raise InternalError, naming `stage`, where `rule` is not legal."""
    check = _Check(rule, straight=False)
    check.declarations()
    roots = [value for _, value in rule.outputs()]
    roots += [] if rule.evaluated is None else [rule.evaluated]
    roots += [each.condition for each in rule.requirements]
    roots += [each.initial for each in (*rule.states, *rule.host_states) if each.initial]
    roots += [*rule.host_updates.values(), *rule.dims.values(), *rule.static_conditions]
    check.values(roots)
    check.outputs()
    check.finish(stage)


def verify_values(rule: Rule, roots: Iterable[Value], stage: str) -> None:
    """The same for values of straight variants of `rule`: no `choose`, but `result` leaves."""
    check = _Check(rule, straight=True)
    check.values(list(roots))
    check.finish(stage)


def full_shape(view: str) -> Shape:
    """The shape of p."""
    if view == "flat":
        return Shape((), "numel", 1)
    return Shape((BATCH,) if view == "last" else (), "rows", "cols")


@dataclass
class _Check:
    rule: Rule
    straight: bool
    faults: list[str] = field(default_factory=list)
    where: str = ""

    def __post_init__(self) -> None:
        self.states = {each.name: each for each in self.rule.states}
        self.inputs = {each.name: each for each in self.rule.inputs}
        self.hypers = {each.name: each for each in self.rule.hypers}
        self.attributes = {each.name for each in self.rule.attributes}
        self.param_type = Type(
            Instances.PARAM, full_shape(self.rule.view), Place.DEVICE, DType.REAL
        )
        axes = {axis for each in self.rule.inputs for axis in each.type.shape.lead}
        self.dims = DIMENSIONS | self.rule.dims.keys() | axes

    def need(self, legal: bool, fault: str) -> None:
        if not legal:
            self.faults.append(f"{self.where}: {fault}")

    def finish(self, stage: str) -> None:
        if self.faults:
            more = len(self.faults) - SHOWN
            shown = "; ".join(self.faults[:SHOWN])
            tail = f"; and {more} more" if more > 0 else ""
            raise InternalError(stage, f"{self.rule.name}: {shown}{tail}")

    # ------------------------------------------------------------ the rule

    def declarations(self) -> None:
        rule = self.rule
        self.where = "rule"
        self.need(rule.view in ("rows", "last", "flat"), f"view {rule.view}")
        for kind in ("hypers", "attributes", "inputs", "states", "host_states"):
            names = [each.name for each in getattr(rule, kind)]
            self.need(len(names) == len(set(names)), f"{kind} are declared twice: {names}")
        for state in rule.states:
            self.where = f"state {state.name}"
            self.state(state)
        firsts = [(each.name, each.initial) for each in rule.host_states if each.initial]
        for name, number in (*firsts, *rule.host_updates.items()):
            self.where = f"state {name} on the host"
            legal = number.type.instances <= Instances.GROUP and not number.type.on_device
            self.need(legal, "is no number of the group there")
        for need in rule.requirements:
            self.where = f"require {need.text}"
            self.condition(need.condition)
            self.need(need.condition.type.instances <= Instances.GROUP, "is not one per group")
        for name, value in rule.dims.items():
            self.where = f"dimension {name}"
            self.need(not value.type.on_device, "is not on the host")

    def state(self, state: StateDecl) -> None:
        self.need(state.type.on_device and state.type.dtype is DType.REAL, "is no tensor")
        self.need(state.birth in self.states, f"is born with {state.birth}, which is no state")
        self.dimensions(state.type)
        for condition, _ in state.scope:
            self.condition(condition)
        if state.initial is not None:
            self.need(not state.initial.type.on_device, "its first value is not on the host")
        others = [s for s in self.rule.states if s.key == state.key and s is not state]
        self.need(
            all(_exclusive(state.scope, other.scope) for other in others),
            f"shares the key {state.key}",
        )

    def outputs(self) -> None:
        rule = self.rule
        for name, value in (("p", rule.param), ("eval", rule.evaluated)):
            self.where = name
            if value is not None:
                self.need(value.type.shape == self.param_type.shape, "has not p's shape")
                self.need(value.type.on_device and value.type.dtype is DType.REAL, "is no tensor")
        for name, value in rule.updates.items():
            self.where = f"new {name}"
            self.need(name in self.states, "is no state")
            if name in self.states:
                type_ = self.states[name].type
                self.need(value.type.on_device, "is not on the device")
                self.need(value.type.shape == type_.shape, f"has not the shape {type_.shape}")
                # One for the run may read hyperparameters, which then agree between groups.
                most = max(type_.instances, Instances.GROUP)
                # Where only some parameters assign it, they do it alike.
                for each in _alternatives(value):
                    self.need(each.type.instances <= most, "has more instances than the state")
        self.where = "reads_gradient"
        read = any(v.op == "grad" for v in reachable(value for _, value in rule.outputs()))
        self.need(rule.reads_gradient is read, f"is {rule.reads_gradient}")

    # ------------------------------------------------------------ values

    def values(self, roots: list[Value]) -> None:
        known = set(self.rule.builder.table.values())
        order = reachable(roots)
        for value in order:
            self.where = f"%{value.id} = {value.op}"
            self.need(value in known, "is not of this rule's builder")
            if value.op not in OPS or value.op in _PLAN_ONLY:
                self.need(False, "is no operation of a rule")
                continue
            self.need(all(each.id < value.id for each in operands(value)), "is before an operand")
            self.structure(value, OPS[value.op])
        self.loops(roots, order)

    def structure(self, value: Value, row: Op) -> None:
        wanted = _BY_KIND.get(row.kind, frozenset()) | _BY_NAME.get(value.op, set())
        names = {name for name, _ in value.attrs} - {"rank"}  # what loops ask has one, once split
        self.need(names == wanted, f"attributes {sorted(names)}, not {sorted(wanted)}")
        if names != wanted:
            return
        count = self.arity(value, row)
        self.need(count == len(value.args), f"{len(value.args)} operands, not {count}")
        if count != len(value.args):
            return
        self.dimensions(value.type)
        special: Callable[[Value], None] | None = getattr(self, f"op_{value.op}", None)
        if special is not None:
            special(value)
        elif row.kind is not Kind.LEAF:
            getattr(self, f"kind_{row.kind}")(value)
        if row.kind in (Kind.REDUCE, Kind.CLOSURE):
            for condition in value.args[1:]:
                self.condition(condition)

    def arity(self, value: Value, row: Op) -> int:
        if row.kind in (Kind.REDUCE, Kind.CLOSURE) and row.arity:
            return 1 + len(value.attr("scope"))
        if value.op == "loop":
            return 1 + len(value.attr("body").args)
        if row.kind is Kind.RANDOM:  # `at`, then the pass of each loop around it
            return max(1, len(value.args))
        return row.arity

    def condition(self, value: Value) -> None:
        legal = not value.type.on_device and value.type.dtype is DType.BOOL
        self.need(legal, f"%{value.id} is no host condition")

    def dimensions(self, type_: Type) -> None:
        unknown = [d for d in type_.shape.dims if isinstance(d, str) and d not in self.dims]
        self.need(not unknown, f"dimensions {unknown} have no meaning")

    def shape(self, value: Value, shape: Shape) -> None:
        self.need(value.type.shape == shape, f"shape {value.type.shape}, not {shape}")

    def typed(self, value: Value, type_: Type) -> None:
        texts = type_text(value.type), type_text(type_)
        self.need(value.type == type_, f"type {texts[0]}, not {texts[1]}")

    # ------------------------------------------------------------ types by kind

    def kind_map(self, value: Value) -> None:
        joined = join_types([arg.type for arg in value.args], value.type.dtype)
        self.need(joined is not None, "operands do not broadcast")
        if joined is None:
            return
        self.shape(value, joined.shape)
        # A choice that was decided may leave an operand that is less than it was.
        for what in ("instances", "place"):
            has, least = getattr(value.type, what), getattr(joined, what)
            fits = has >= least if self.straight else has == least
            self.need(fits, f"{what} {has.name}, its operands have {least.name}")
        dtype, row = value.type.dtype, OPS[value.op]
        if row.result is Result.BOOL:
            self.need(dtype is DType.BOOL, f"gives {dtype}")
        elif row.result is Result.REAL:
            self.need(dtype is DType.REAL, f"gives {dtype}")
        elif dtype is DType.INT and row.result is Result.NUMBER:
            whole = all(arg.type.dtype in (DType.INT, DType.BOOL) for arg in value.args)
            self.need(whole, "gives an int of others")

    def kind_reduce(self, value: Value) -> None:
        operand, axis, over = value.args[0], value.attr("axis"), value.attr("over")
        self.need(operand.type.on_device and value.type.on_device, "is not on the device")
        self.need(over in (None, "group", "all"), f"over = {over}")
        shape = operand.type.shape
        ends = {(): (shape.rows, shape.cols), 0: (1, shape.cols), 1: (shape.rows, 1)}
        if axis is None:
            self.shape(value, Shape(tuple(each for each in shape.lead if each != BATCH)))
        elif axis in ends:
            self.need(axis != () or over is not None, "reduces nothing")
            self.shape(value, Shape(shape.lead, *ends[axis]))
        else:
            rest = tuple(each for each in shape.lead if each != axis)
            self.need(len(rest) < len(shape.lead), f"there is no axis {axis}")
            self.shape(value, Shape(rest, shape.rows, shape.cols))
        most = {None: Instances.PARAM, "group": Instances.GROUP, "all": Instances.RUN}.get(over)
        if most is not None:
            least = min(operand.type.instances, most)
            fits = value.type.instances >= least if self.straight else True
            self.need(fits and value.type.instances <= most, f"one per {value.type.instances.name}")

    def kind_matrix(self, value: Value) -> None:
        operands = value.args[:1] if value.op == "kth_smallest" else value.args
        self.need(all(arg.type.on_device for arg in operands), "an operand is on the host")
        self.need(value.type.on_device, "is not on the device")
        wanted = matrix_shape(value)
        self.need(wanted is not None, "operands do not fit")
        if wanted is not None:
            self.shape(value, wanted)

    def kind_random(self, value: Value) -> None:
        self.need(not value.args[0].type.on_device, "`at` is not on the host")
        one = value.attr("over") is not None and value.type.shape == SCALAR
        self.need(value.type.on_device is not one, "is on the wrong side")
        self.need(value.type.dtype is DType.REAL, "is no number")

    def kind_closure(self, value: Value) -> None:
        self.need(value.type.on_device, "is not on the device")
        shape = value.args[0].type.shape
        if value.op == "loss_at":
            shape = SCALAR
        elif value.op == "gather":
            shape = Shape(("workers", *shape.lead), shape.rows, shape.cols)
        self.shape(value, shape)

    # ------------------------------------------------------------ types by name

    def op_param(self, value: Value) -> None:
        self.typed(value, self.param_type)

    op_grad = op_param

    def op_state(self, value: Value) -> None:
        self.declared(value, self.states)

    def op_host_state(self, value: Value) -> None:
        self.declared(value, {each.name: each for each in self.rule.host_states})

    def op_input(self, value: Value) -> None:
        self.declared(value, self.inputs)

    def declared(self, value: Value, table: dict[str, Any]) -> None:
        found = table.get(value.attr("name"))
        self.need(found is not None, f"{value.attr('name')} is not declared")
        if found is not None:
            self.typed(value, found.type)

    def op_hyper(self, value: Value) -> None:
        name = value.attr("name")
        self.need(name in self.hypers, f"{name} is not declared")
        default: Any = self.hypers[name].default if name in self.hypers else None
        for index in value.attr("index"):
            inside = isinstance(default, tuple) and 0 <= index < len(default)
            self.need(inside, f"{name} has no item {index}")
            default = default[index] if inside else None
        self.need(not value.type.on_device, "is not on the host")

    def op_attribute(self, value: Value) -> None:
        self.need(value.attr("name") in self.attributes, "is not declared")

    def op_first(self, value: Value) -> None:
        self.need(value.attr("name") in self.states, f"{value.attr('name')} is no state")
        self.condition(value)

    def op_size(self, value: Value) -> None:
        self.need(value.attr("name") in SIZES, f"there is no size {value.attr('name')}")

    def op_result(self, value: Value) -> None:
        self.need(self.straight, "stands before reductions are separated")

    op_evaluated = op_result

    def op_choose(self, value: Value) -> None:
        self.need(not self.straight, "stands in a straight variant")
        self.condition(value.args[0])
        for side in value.args[1:]:
            self.need(side.type.on_device, "a side is on the host")
            self.need(side.type.shape == value.type.shape, f"a side has shape {side.type.shape}")

    def op_full(self, value: Value) -> None:
        joined = join_shape(value.args[0].type.shape, value.type.shape)
        self.need(joined == value.type.shape, f"{value.args[0].type.shape} does not fill it")
        self.need(value.type.on_device, "is not on the device")

    def op_part(self, value: Value) -> None:
        inside = 0 <= value.attr("index") < PARTS.get(value.args[0].op, 0)
        self.need(inside, f"{value.args[0].op} has no part {value.attr('index')}")

    def op_index(self, value: Value) -> None:
        self.need(not value.args[1].type.on_device, "the index is not on the host")

    def op_put_index(self, value: Value) -> None:
        self.op_index(value)
        self.shape(value, value.args[0].type.shape)

    def op_to_host(self, value: Value) -> None:
        self.need(False, "is left: nothing waits for it")

    # ------------------------------------------------------------ loops

    def op_loop(self, value: Value) -> None:
        body: LoopBody = value.attr("body")
        count = value.args[0].type  # a number of the host, or of a tensor that the host reads
        self.need(count.shape.is_scalar, "the count is no number")
        self.need(len(body.results) == len(body.args), "results are not one per argument")
        for i, (start, arg, result) in enumerate(
            zip(value.args[1:], body.args, body.results, strict=False)
        ):
            self.need(arg.op == "loop_arg" and arg.attr("index") == i, f"argument {i} is {arg.op}")
            for what, each in (("starts", start), ("ends", result)):
                same = each.type.shape == arg.type.shape
                fits = same and each.type.on_device is arg.type.on_device
                self.need(fits, f"argument {i} {what} as {type_text(each.type)}")
        if body.until is not None:
            self.need(body.until.type.dtype is DType.BOOL, "`until` is no condition")

    def op_loop_result(self, value: Value) -> None:
        loop = value.args[0]
        self.need(loop.op == "loop", f"of {loop.op}")
        if loop.op == "loop":
            args = loop.attr("body").args
            inside = 0 <= value.attr("index") < len(args)
            self.need(inside, f"there is no result {value.attr('index')}")
            if inside:
                self.typed(value, args[value.attr("index")].type)

    def loops(self, roots: list[Value], order: list[Value]) -> None:
        """A loop's arguments and counter are read inside its body alone."""
        free: dict[Value, frozenset[Value]] = {}
        for value in order:
            inside = frozenset[Value]().union(*(free[each] for each in operands(value)))
            if value.op == "loop_arg":
                inside |= {value}
            elif value.op == "loop":
                body: LoopBody = value.attr("body")
                own = {*body.args, *(() if body.index is None else (body.index,))}
                before = frozenset[Value]().union(*(free[each] for each in value.args))
                inside = (inside - own) | before
            free[value] = inside
        for root in roots:
            for value in free[root]:
                self.where = f"%{value.id} = loop_arg"
                self.need(False, "is read outside its loop")


def _exclusive(a: Scope, b: Scope) -> bool:
    return any(x is y and s is not t for x, s in a for y, t in b)


def _alternatives(value: Value) -> Iterator[Value]:
    """What host conditions choose between."""
    if value.op == "choose":
        for side in value.args[1:]:
            yield from _alternatives(side)
    elif value.op == "full":
        yield from _alternatives(value.args[0])
    else:
        yield value
