"""Declarations: require, attribute, input, state.

Input: a statement. Output: the rule's declarations, and what the declared name is bound to.
Relies on: calls. Does not do: assignment (statements.py).
"""

from __future__ import annotations

from dataclasses import replace

from optdsl.diagnostics import Label
from optdsl.frontend.bindings import POISON, Reported, Undefined
from optdsl.frontend.calls import Calls
from optdsl.frontend.core import StateSlot
from optdsl.frontend.emit import as_tensor
from optdsl.frontend.expressions import HIDDEN, RESERVED, SIZES
from optdsl.frontend.primitives import INSTANCES
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import (
    AttributeDecl,
    InputDecl,
    Requirement,
    Scope,
    StateDecl,
    Value,
    reachable,
)
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import SCALAR, DType, Instances, Place, Shape, Storage, Type, join_shape

CLASS_ARGUMENTS = frozenset(
    {
        "params",
        "maximize",
        "backend",
        "attributes",
        "storage",
        "storage_exempt",
        "rounding",
        "master",
        "compensation",
        "products",
        "seed",
        "foreach",
        "fused",
        "capturable",
        "differentiable",
    }
)
"""Arguments of every optimizer class, which no hyperparameter or attribute can be called."""
NUMBERS = ("int", "real", "bool")
"""What an input on the host may be."""
CODES = (Storage.FP8, Storage.INT8, Storage.INT4)
"""Storages in blocks."""
STEP_KEY = "step"
"""The key in `state_dict()` under which `t` is kept, as torch's optimizers do."""


class Declarations(Calls):
    def need_free(self, name: str, span: Span) -> None:
        """`name` must not be one of those that the language keeps."""
        if name in RESERVED - HIDDEN:
            self.fail("E404", f"`{name}` has a meaning of its own in every rule", span)

    def need_public(self, name: str, span: Span) -> None:
        """`name` becomes an argument of the optimizer's class."""
        self.need_free(name, span)
        if name in CLASS_ARGUMENTS:
            self.fail("E404", f"`{name}` is an argument of every optimizer class", span)
        if name in self.hypers or name in self.attributes:
            self.fail("E404", f"`{name}` is already a hyperparameter or attribute", span)

    def need_new(self, name: str, span: Span) -> None:
        """`name` must not have a value here that a declaration would hide."""
        if name in RESERVED:
            self.fail("E404", f"`{name}` has a meaning of its own in every rule", span)
        known = self.store.get(self.frame.local(name))
        if known is not None and not isinstance(known, Undefined):
            self.fail("E212", f"`{name}` has a meaning here already", span, "declared here")

    # ------------------------------------------------------------ require, attribute, input

    def _require(self, expr: ast.Expr) -> None:
        value = self.value(expr)
        self.need_condition(value, expr.span)
        if as_tensor(value).type.on_device or value.type.instances > Instances.GROUP:
            if self.frame.call is not None:
                return  # the caller binds it to what no group knows; alone, the rule is in order
            self.fail("E402", "`require` tests hyperparameters", expr.span)
        if self.device_depth or self.loop_depth:
            self.fail(
                "E402",
                "`require` cannot stand in a loop or under a condition on tensors",
                expr.span,
            )
        self.required(value, expr.span.text, expr.span)

    def required(self, value: Value, text: str, span: Span) -> None:
        """`value` must hold when a group is added."""
        # Under a condition of the group it holds where the condition does; what depends on a
        # parameter is not known when a group is added, and is left out.
        for condition, side in self.path:
            if condition.type.instances <= Instances.GROUP:
                met = self.emit.const(True)
                sides = (value, met) if side else (met, value)
                value = self.emit.map("where", [condition, *sides], span)
        if is_const(value) and not value.attr("value"):
            self.fail("E403", "this never holds", span)
        known = any(each.condition is value and each.text == text for each in self.requirements)
        if not is_const(value) and not known:
            self.requirements.append(Requirement(value, text, span))

    def _attribute(self, stmt: ast.Attribute) -> None:
        default = self.value(stmt.default)
        if not is_const(default):
            self.fail("E412", "an attribute's default is a literal", stmt.default.span)
        known = self.attributes.get(stmt.name)
        number = default.attr("value")
        if known is None:
            self.need_public(stmt.name, stmt.name_span)
        elif repr(known.default) != repr(number):
            self.fail(
                "E412",
                f"two rules give the attribute `{stmt.name}` different defaults",
                stmt.span,
                "",
                *_labels(known.span, "the other"),
            )
        self.need_new(stmt.name, stmt.name_span)
        self.attributes[stmt.name] = AttributeDecl(stmt.name, number, stmt.name_span)
        self.store[self.frame.local(stmt.name)] = self.emit.leaf(
            "attribute", Instances.PARAM, Place.STATIC, default.type.dtype, name=stmt.name
        )

    def _input(self, stmt: ast.Input) -> None:
        self.need_new(stmt.name, stmt.name_span)
        type_ = self._number_given(stmt) if stmt.on_host else self._tensor_given(stmt)
        known = self.inputs.get(stmt.name)
        if known is not None and known.type != type_:
            self.fail(
                "E412",
                f"two rules give the input `{stmt.name}` different shapes",
                stmt.span,
                "",
                *_labels(known.span, "the other"),
            )
        self.inputs[stmt.name] = InputDecl(stmt.name, type_, stmt.name_span)
        value = self.builder.make("input", (), type_, stmt.name_span, name=stmt.name)
        value.name = stmt.name
        self.store[self.frame.local(stmt.name)] = value

    def _tensor_given(self, stmt: ast.Input) -> Type:
        if stmt.dtype is not None:
            self.fail(
                "E318",
                f"`{stmt.dtype}` is a kind of number, and an input is a tensor",
                stmt.span,
                help=f"write `input {stmt.name}: {stmt.dtype} on host` for a number of the host",
            )
        shape = self.emit.full if stmt.shape is None else self.shape(stmt.shape, "new")
        for dim in (shape.rows, shape.cols):
            if isinstance(dim, str) and dim not in SIZES and dim not in self.emit.dims:
                self.fail(
                    "E314",
                    f"the axis `{dim}` of an input goes before those of a matrix",
                    stmt.span,
                    help=f"a row for each: [{dim}, 1, cols]",
                )
        type_ = Type(INSTANCES[stmt.over], shape, Place.DEVICE, DType.REAL)
        self._same_for_all(type_, stmt.span, f"input `{stmt.name}`")
        return type_

    def _number_given(self, stmt: ast.Input) -> Type:
        """A number of the host, for the model or for each group."""
        if stmt.shape is not None and stmt.shape.dims:
            self.fail("E318", "an input on the host is one number", stmt.span)
        if stmt.dtype is not None and stmt.dtype not in NUMBERS:
            kinds = ", ".join(f"`{each}`" for each in NUMBERS)
            self.fail("E318", f"an input on the host is one of {kinds}", stmt.span)
        instances = Instances.GROUP if stmt.over == "group" else Instances.RUN
        return Type(instances, SCALAR, Place.HOST, DType(stmt.dtype or DType.REAL))

    # ------------------------------------------------------------ states

    def _states(self, items: tuple[ast.StateItem, ...]) -> None:
        if self.loop_depth or self.unrolled_depth:
            name = items[0].name
            self.fail(
                "E401",
                "a state cannot be declared in a loop",
                items[0].span,
                help=f"declare one for all passes before it, `state {name}: [3, *p]`, and read and "
                f"assign `{name}[k]` in the loop",
            )
        if self.frame.kind == "def":
            self.fail("E231", "a `def` has no state", items[0].span, help="make it a `transform`")
        if self.device_depth:
            self.fail(
                "E320",
                "a state cannot be declared under a condition on tensors",
                items[0].span,
                help="declare it before the `if`",
            )
        for item in items:
            try:
                self._state(item)
            except Reported:
                self.store[self.frame.local(item.name)] = POISON

    def _state(self, item: ast.StateItem) -> None:
        self.need_new(item.name, item.name_span)
        if item.on_host:
            self._host_state(item)
            return
        shape = self._default_shape() if item.shape is None else self.shape(item.shape)
        if item.over and item.shape is None:
            shape = SCALAR
        type_ = Type(INSTANCES[item.over], shape, Place.DEVICE, DType.REAL)
        self._same_for_all(type_, item.span, f"state `{item.name}`")
        initial = self._initial(item, type_)
        place = item.initial.span if item.initial else item.span
        initial = self._fits(initial, type_, place, f"state `{item.name}`")
        name = self._unique(item.name)
        filled = initial if not initial.type.on_device else None
        birth = name if filled is not None else self._birth(name, type_)
        key, storage = self._state_key(item, name), self._storage(item)
        if storage in CODES and type_ != self.emit.param_type:
            self.fail(
                "E417",
                f"{storage} stores blocks of a parameter's elements, and `{item.name}` has "
                f"{type_.describe()}",
                item.span,
                help=f"leave out `as {storage}`",
            )
        decl = StateDecl(name, key, type_, storage, filled, birth, self.path, item.span)
        self.states[name] = self._distinct(decl)
        self.owners[name] = self.frame.rule.number
        current = self.state_value(name)
        current.name = item.name
        if filled is None:
            start = self.emit.broadcast(initial, type_, item.span)
            current = self.emit.choose(self.first(name), start, current, item.span)
        self.store[("state", name)] = current
        self.store[self.frame.local(item.name)] = slot = StateSlot(name)
        if self.axis is not None:
            self.axis_states.setdefault((self.frame.number, self.axis), {})[item.name] = slot

    def _host_state(self, item: ast.StateItem) -> None:
        raise AssertionError("host_states.py defines it")

    def _initial(self, item: ast.StateItem, type_: Type) -> Value:
        """A state's first value. A shared state begins in one step for all its parameters, and the
        host knows which: the reductions in its first value are made in that step alone."""
        if item.initial is None:
            return self.emit.const(0.0)
        if type_.instances is Instances.PARAM:
            return self.value(item.initial)
        name = self._unique(item.name)
        birth = self._birth(name, type_)
        self.states[name] = StateDecl(
            name, name, type_, Storage.COMPUTE, None, birth, self.path, item.span
        )
        try:
            with self.conditioned(self.first(name), True):
                return self.value(item.initial)
        finally:
            del self.states[name]

    def _same_for_all(self, type_: Type, span: Span, what: str) -> None:
        """What is shared must have one shape for all parameters."""
        own = self.own_size(type_.shape)
        if type_.instances is not Instances.PARAM and own is not None:
            self.fail(
                "E314",
                f"the shared {what} cannot have a size of each parameter's own, `{own}`",
                span,
            )

    def _default_shape(self) -> Shape:
        """p's shape; in a transform its first argument's, so that an average of rows is one."""
        if self.frame.kind == "transform":
            item = self.frame.item
            if isinstance(item, ast.Transform) and item.parameters:
                first = self.read(self.frame.local(item.parameters[0].name))
                if isinstance(first, Value) and first.type.on_device:
                    return first.type.shape
        return self.emit.full

    def _storage(self, item: ast.StateItem) -> Storage:
        if item.storage is None:
            return Storage.COMPUTE
        try:
            return Storage(item.storage)
        except ValueError:
            choices = ", ".join(each.value for each in Storage if each is not Storage.COMPUTE)
            self.fail(
                "E405", f"there is no storage `{item.storage}`", item.span, help=f"one of {choices}"
            )

    def _birth(self, name: str, type_: Type) -> str:
        """States whose first values the rule works out at one place are born together, those of
        all axes of a loop among them."""
        for other in self.states.values():
            same_place = self._beside_axes(other.scope) == self._beside_axes(self.path)
            if other.initial is None and same_place and other.type.instances is type_.instances:
                return other.birth
        return name

    def _beside_axes(self, scope: Scope) -> Scope:
        """`scope` without the conditions that say whether there is an axis."""
        return tuple(each for each in scope if each[0] not in self.axis_conditions)

    def _unique(self, name: str) -> str:
        unique, count = name, 2
        while unique in self.states:
            unique, count = f"{name}_{count}", count + 1
        return unique

    def _state_key(self, item: ast.StateItem, unique: str) -> str:
        """The key in `state_dict()`; of several inner rules each has its own name before it, of
        several axes its number behind it."""
        key = self._plain_key(item, unique)
        return key if self.axis is None else f"{key}.{self.axis}"

    def _plain_key(self, item: ast.StateItem, unique: str) -> str:
        prefix = self.frame.rule.prefix
        if item.key is not None:
            return prefix + item.key
        result = self.frame.result_name
        if self.frame.kind != "transform":
            return prefix + item.name
        if result is None:
            return prefix + unique
        return prefix + (result if self._lone_state() else f"{result}.{item.name}")

    def _lone_state(self) -> bool:
        item = self.frame.item
        return (
            isinstance(item, ast.Transform)
            and sum(len(s.items) for s in item.body if isinstance(s, ast.State)) == 1
        )

    def _distinct(self, decl: StateDecl) -> StateDecl:
        """`decl` with a key of its own: an equal key of another rule is told apart by its name."""
        assert decl.span is not None
        if decl.key == STEP_KEY:
            self.fail(
                "E406",
                f"the key `{STEP_KEY}` holds the number of updates",
                decl.span,
                help='give the state another: state x named "other"',
            )
        for other in self.states.values():
            if other.key != decl.key or is_exclusive(other.scope, decl.scope):
                continue
            name = self.frame.rule.item.name
            if self.owners[other.name] != self.frame.rule.number and not decl.key.startswith(
                f"{name}."
            ):
                return self._distinct(replace(decl, key=f"{name}.{decl.key}"))
            self.fail(
                "E406",
                f"two states of one parameter have the key `{decl.key}`",
                decl.span,
                "this one",
                *_labels(other.span, "and this one"),
                help=self._apart(decl.span, other.span, decl.key),
            )
        return decl

    def _apart(self, here: Span, other: Span | None, key: str) -> str:
        """How two states of one key become one, or two."""
        if self.frame.kind != "transform":
            return 'give one of them a key: state x named "other"'
        if other is None or other.source is here.source:
            return "assign each call to a variable of its own"
        name = self.frame.item.name
        return f"`{name}` keeps its state itself: leave `state {key}` out, or name it otherwise"

    def state_of(self, name: ast.Name) -> str:
        bound = self.store.get(self.frame.local(name.name))
        if not isinstance(bound, StateSlot):
            self.fail("E407", f"`{name.name}` is not a state", name.span)
        if not self.states[bound.name].type.on_device:
            self.fail("E407", f"`{name.name}` is on the host: it begins with its group", name.span)
        return bound.name

    def _fits(self, value: Value, type_: Type, span: Span, what: str) -> Value:
        """`value`, which must broadcast to `type_`, with no more instances than it."""
        value = as_tensor(value)
        if value.type.dtype in (DType.BOOL, DType.STRING):
            self.fail(
                "E309",
                f"{what} holds numbers",
                span,
                f"this is a {value.type.dtype}",
                help="write where(condition, 1, 0)",
            )
        if type_.shape == self.emit.full:
            value = self.emit.spread(value, span)
        if join_shape(value.type.shape, type_.shape) != type_.shape:
            self.fail(
                "E318",
                f"{what} has shape {type_.shape} and cannot take a value of shape "
                f"{value.type.shape}",
                span,
                help=_fitting(value.type.shape, type_.shape, what),
            )
        # One for the run may read hyperparameters: they must then agree between the groups.
        if value.type.instances > max(type_.instances, Instances.GROUP):
            owner = "all parameters" if type_.instances is Instances.RUN else "the group"
            reads_t = any(each.op == "t" for each in reachable([value]))
            self.fail(
                "E408",
                f"{what} is one for {owner} and cannot take a value that each parameter "
                "has of its own",
                span,
                help="use `steps`, the number of the group's step"
                if reads_t
                else "reduce it with over = all or over = group",
            )
        return value


def is_exclusive(a: Scope, b: Scope) -> bool:
    """Whether no parameter ever has both: a static condition keeps them apart."""
    return any(x is y and s is not t and x.type.place is Place.STATIC for x, s in a for y, t in b)


def _fitting(given: Shape, wanted: Shape, what: str) -> str | None:
    """What makes a value of one shape fit where another is wanted."""
    ways = ["write x.T for the transpose"] if given == wanted.transposed() else []
    if what.startswith("state"):
        ways.append(f"declare the state with the shape {given}")
    return ", or ".join(ways) or None


def _labels(span: Span | None, text: str) -> tuple[Label, ...]:
    return () if span is None else (Label(span, text),)
