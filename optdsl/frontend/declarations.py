"""Declarations: require, attribute, input, state.

Input: a statement. Output: the rule's declarations, and what the declared name is bound to.
Relies on: calls. Does not do: assignment (statements.py).
"""

from __future__ import annotations

from dataclasses import replace

from optdsl.diagnostics import Label
from optdsl.frontend.bindings import POISON, Reported
from optdsl.frontend.calls import Calls
from optdsl.frontend.core import StateSlot
from optdsl.frontend.expressions import RESERVED
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import AttributeDecl, InputDecl, Requirement, StateDecl, Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import SCALAR, DType, Instances, Place, Shape, Storage, Type, join_shape


class Declarations(Calls):
    def _require(self, expr: ast.Expr) -> None:
        value = self.value(expr)
        self.need_condition(value, expr.span)
        if value.type.on_device or value.type.instances > Instances.GROUP:
            self.fail("E402", "`require` tests hyperparameters", expr.span)
        if is_const(value) and not value.attr("value"):
            self.fail("E403", "this never holds", expr.span)
        if not is_const(value):
            self.requirements.append(Requirement(value, expr.span.text, expr.span))

    def _attribute(self, stmt: ast.Attribute) -> None:
        default = self.value(stmt.default)
        if not is_const(default):
            self.fail("E412", "an attribute's default is a literal", stmt.default.span)
        known = self.attributes.get(stmt.name)
        number = default.attr("value")
        if known is not None and known.default != number:
            self.fail(
                "E412", f"two rules give the attribute `{stmt.name}` different defaults", stmt.span
            )
        self.attributes[stmt.name] = AttributeDecl(stmt.name, number, stmt.name_span)
        value = self.emit.leaf(
            "attribute", Instances.PARAM, Place.STATIC, default.type.dtype, name=stmt.name
        )
        self.store[self.frame.local(stmt.name)] = value

    def _input(self, stmt: ast.Input) -> None:
        if stmt.on_host:
            self.fail(
                "E501", "inputs on the host are not in this version of the language", stmt.span
            )
        shape = self.emit.full if stmt.shape is None else self.shape(stmt.shape, new_axes=True)
        instances = {None: Instances.PARAM, "group": Instances.GROUP, "all": Instances.RUN}[
            stmt.over
        ]
        type_ = Type(instances, shape, Place.DEVICE, DType.REAL)
        self.inputs[stmt.name] = InputDecl(stmt.name, type_, stmt.name_span)
        value = self.builder.make("input", (), type_, stmt.name_span, name=stmt.name)
        value.name = stmt.name
        self.store[self.frame.local(stmt.name)] = value

    def _states(self, items: tuple[ast.StateItem, ...]) -> None:
        if self.loop_depth:
            self.fail("E401", "a state cannot be declared in a loop", items[0].span)
        if self.frame.kind == "def":
            self.fail("E231", "a `def` has no state", items[0].span, help="make it a `transform`")
        for item in items:
            try:
                self._state(item)
            except Reported:
                self.store[self.frame.local(item.name)] = POISON

    def _state(self, item: ast.StateItem) -> None:
        if item.name in RESERVED:
            self.fail(
                "E404",
                f"`{item.name}` has a meaning of its own and cannot be a state",
                item.name_span,
            )
        if item.on_host:
            self.fail(
                "E501", "states on the host are not in this version of the language", item.span
            )
        shape = self._default_shape() if item.shape is None else self.shape(item.shape)
        instances = {None: Instances.PARAM, "group": Instances.GROUP, "all": Instances.RUN}[
            item.over
        ]
        if item.over and item.shape is None:
            shape = SCALAR
        type_ = Type(instances, shape, Place.DEVICE, DType.REAL)
        initial = self.emit.const(0.0) if item.initial is None else self.value(item.initial)
        self._fits(
            initial, type_, item.initial.span if item.initial else item.span, f"state `{item.name}`"
        )
        name = self._unique(item.name)
        storage = self._storage(item)
        filled = initial if not initial.type.on_device else None
        birth = name if filled is not None else self._birth(name, type_)
        decl = StateDecl(
            name, self._state_key(item, name), type_, storage, filled, birth, self.path, item.span
        )
        decl = self._distinct(decl)
        self.states[name] = decl
        self.owners[name] = self.frame.rule.number
        current = self.state_value(name)
        current.name = item.name
        if filled is None:
            start = self.emit.broadcast(initial, type_, item.span)
            current = self.emit.choose(self.first(name), start, current, item.span)
        self.frame.states.append(name)
        self.store[("state", name)] = current
        self.store[self.frame.local(item.name)] = StateSlot(name)

    def _default_shape(self) -> Shape:
        """p's shape; in a transform its first argument's, so that an average of rows is one."""
        if self.frame.kind == "transform":
            item = self.frame.scope.own.get(self.frame.title)
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
        """States whose first values the rule works out at one place are born together."""
        for other in self.states.values():
            same_place = other.scope == self.path and other.type.instances is type_.instances
            if other.initial is None and same_place:
                return other.birth
        return name

    def _unique(self, name: str) -> str:
        unique, count = name, 2
        while unique in self.states:
            unique, count = f"{name}_{count}", count + 1
        return unique

    def _state_key(self, item: ast.StateItem, unique: str) -> str:
        if item.key is not None:
            return item.key
        if self.frame.kind == "transform" and self.frame.result_name:
            return (
                self.frame.result_name
                if self._lone_state()
                else f"{self.frame.result_name}.{item.name}"
            )
        if self.frame.kind == "transform":
            return unique
        return item.name

    def _lone_state(self) -> bool:
        item = self.frame.scope.own.get(self.frame.title)
        return (
            isinstance(item, ast.Transform)
            and sum(len(s.items) for s in item.body if isinstance(s, ast.State)) == 1
        )

    def _distinct(self, decl: StateDecl) -> StateDecl:
        """`decl` with a key of its own: an equal key of another rule is told apart by its name."""
        for other in self.states.values():
            if other.key != decl.key or _exclusive(other.scope, decl.scope):
                continue
            if self.owners[other.name] != self.frame.rule.number:
                return self._distinct(replace(decl, key=f"{self.frame.rule.item.name}.{decl.key}"))
            assert decl.span is not None and other.span is not None
            self.fail(
                "E406",
                f"two states of one parameter have the key `{decl.key}`",
                decl.span,
                "this one",
                Label(other.span, "and this one"),
                help='give one of them a key: state x named "other"',
            )
        return decl

    def state_of(self, name: ast.Name) -> str:
        bound = self.store.get(self.frame.local(name.name))
        if not isinstance(bound, StateSlot):
            self.fail("E407", f"`{name.name}` is not a state", name.span)
        return bound.name

    def _fits(self, value: Value, type_: Type, span: Span, what: str) -> None:
        """`value` must broadcast to `type_`, with no more instances than it."""
        if value.type.dtype in (DType.BOOL, DType.STRING):
            self.fail(
                "E309",
                f"{what} holds numbers",
                span,
                f"this is a {value.type.dtype}",
                help="write where(condition, 1, 0)",
            )
        if join_shape(value.type.shape, type_.shape) != type_.shape:
            self.fail(
                "E318",
                f"{what} has shape {type_.shape} and cannot take a value of shape "
                f"{value.type.shape}",
                span,
            )
        # One for the run may read hyperparameters: they must then agree between the groups.
        if value.type.instances > max(type_.instances, Instances.GROUP):
            owner = "all parameters" if type_.instances is Instances.RUN else "the group"
            self.fail(
                "E408",
                f"{what} is one for {owner} and cannot take a value that each parameter "
                "has of its own",
                span,
                help="use `steps`, the number of the group's step"
                if _reads_t(value)
                else "reduce it with over = all or over = group",
            )


def _exclusive(a: tuple[tuple[Value, bool], ...], b: tuple[tuple[Value, bool], ...]) -> bool:
    return any(x is y and s is not t for x, s in a for y, t in b)


def _reads_t(value: Value) -> bool:
    stack = [value]
    while stack:
        each = stack.pop()
        if each.op == "t":
            return True
        stack.extend(each.args)
    return False
