"""Statements: assignments, states, branches, loops.

Relies on: calls. Does not do: `step`, `use` (rules.py overrides them).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from optdsl.diagnostics import Label
from optdsl.frontend.bindings import POISON, Binding, Reported, Undefined
from optdsl.frontend.calls import Calls
from optdsl.frontend.core import P, Key, StateSlot
from optdsl.frontend.expressions import RESERVED, is_settled
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import AttributeDecl, InputDecl, LoopBody, Requirement, StateDecl, Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import (
    SCALAR,
    DType,
    Instances,
    Place,
    Shape,
    Storage,
    Type,
    join_shape,
    join_types,
)

UNROLLED = 64
"""A loop over a literal range or tuple of at most this many items is unrolled."""


class Statements(Calls):
    def run_body(self, body: tuple[ast.Stmt, ...], span: Span) -> Binding | None:
        """Run statements; the value of `return`, if one was reached."""
        for position, stmt in enumerate(body):
            if isinstance(stmt, ast.Return):
                return self.evaluate(stmt.value)
            if isinstance(stmt, ast.If) and _returns(stmt):
                return self._returned(stmt, body[position + 1 :], span)
            self.run(stmt)
        return None

    def run(self, stmt: ast.Stmt) -> None:
        """One statement. An error is reported, and the names it would set are poisoned."""
        try:
            self._run(stmt)
        except Reported:
            for name in assigned(stmt):
                self.store[self._key(name)] = POISON

    def _run(self, stmt: ast.Stmt) -> None:
        match stmt:
            case ast.Doc() | ast.View():
                pass  # views are found before the body runs
            case ast.Attribute():
                self._attribute(stmt)
            case ast.Require(conditions=conditions):
                for condition in conditions:
                    self._require(condition)
            case ast.Input():
                self._input(stmt)
            case ast.State(items=items):
                self._states(items)
            case ast.Assign():
                self._assign(stmt)
            case ast.If(condition=condition):
                self._branch(condition, stmt.body, stmt.orelse, stmt.span)
            case ast.When():
                self._when(stmt)
            case ast.Every():
                self._every(stmt)
            case ast.Repeat():
                self._repeat(stmt)
            case ast.For():
                self._for(stmt)
            case ast.Eval(value=expr):
                self.evaluated = self._like_p(self.value(expr), expr.span)
            case ast.Report():
                value = self.value(stmt.value)
                self.reports[stmt.name or f"report{len(self.reports) + 1}"] = value
            case ast.Step() | ast.Use():
                self.run_rule(stmt)
            case _:
                self.fail("E201", "this statement has no place here", stmt.span)

    def run_rule(self, stmt: ast.Step | ast.Use) -> None:
        raise AssertionError("rules.py defines it")

    # ------------------------------------------------------------ declarations

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
        """p's shape; in a transform that of its first argument, so that an average of rows is one."""
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
        """`decl` with a key of its own: another rule's equal key is told apart by this rule's name."""
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

    # ------------------------------------------------------------ assignment

    def _assign(self, stmt: ast.Assign) -> None:
        if len(stmt.targets) == 1:
            self._assign_one(stmt.targets[0], stmt)
            return
        if stmt.op != "=":
            self.fail("E201", "several targets take `=`", stmt.span)
        items = self.evaluate(stmt.value)
        if not isinstance(items, tuple) or len(items) != len(stmt.targets):
            count = f"a tuple of {len(items)}" if isinstance(items, tuple) else "one value"
            self.fail("E317", f"{len(stmt.targets)} names cannot take {count}", stmt.span)
        for target, bound in zip(stmt.targets, items, strict=True):
            self._store(target, bound, stmt)

    def _assign_one(self, target: ast.Expr, stmt: ast.Assign) -> None:
        if stmt.op == "=":
            self.result_name = target.name if isinstance(target, ast.Name) else None
            if not isinstance(stmt.value, ast.Call):
                self.result_name = None
            try:
                bound = self.evaluate(stmt.value)
            finally:
                self.result_name = None
            self._store(target, bound, stmt)
            return
        update = ast.Binary(stmt.span, stmt.op[0], target, stmt.value)
        self._store(target, self.evaluate(update), stmt)

    def _store(self, target: ast.Expr, bound: Binding, stmt: ast.Assign) -> None:
        if isinstance(target, ast.Index):
            self._store_entry(target, bound, stmt)
            return
        if not isinstance(target, ast.Name):
            self.fail("E201", "only names can be assigned", target.span)
        name = target.name
        if name in RESERVED - {"p", "g"}:
            self.fail("E404", f"`{name}` cannot be assigned", target.span)
        slot = self.store.get(self.frame.local(name))
        if name in ("p", "g") and slot is None:
            if self.frame.kind != "rule":
                self.fail(
                    "E204",
                    f"only a rule assigns `{name}`",
                    target.span,
                    help="return the new value",
                )
            value = self._like_p(self.as_value(bound, stmt.value.span), stmt.value.span)
            self.store[P if name == "p" else self.frame.rule.gradient] = _titled(value, name)
        elif isinstance(slot, StateSlot):
            value = self.as_value(bound, stmt.value.span)
            state = self.states[slot.name]
            self._fits(value, state.type, stmt.value.span, f"state `{name}`")
            value = self.emit.broadcast(value, state.type, stmt.span)
            self.store[("state", slot.name)] = _titled(value, name)
        else:
            self.store[self.frame.local(name)] = (
                _titled(bound, name) if isinstance(bound, Value) else bound
            )

    def _store_entry(self, target: ast.Index, bound: Binding, stmt: ast.Assign) -> None:
        if not isinstance(target.base, ast.Name):
            self.fail("E201", "only a state's entry can be assigned", target.span)
        base, index = self.value(target.base), self.value(target.index)
        value = self.as_value(bound, stmt.value.span)
        shape = self.entry_shape(base, target.span)
        self._fits(value, base.type.with_(shape=shape), stmt.value.span, "the entry")
        value = self.emit.broadcast(value, base.type.with_(shape=shape), stmt.span)
        entry = self.builder.make("put_index", (base, index, value), base.type, stmt.span)
        self._store(target.base, entry, stmt)

    def _like_p(self, value: Value, span: Span) -> Value:
        self._fits(value, self.emit.param_type, span, "p")
        return self.emit.broadcast(value, self.emit.param_type, span)

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

    def _key(self, name: str) -> Key:
        if name in ("p", "g") and self.frame.kind == "rule":
            return P if name == "p" else self.frame.rule.gradient
        return self.frame.local(name)

    # ------------------------------------------------------------ branches

    def _branch(
        self, expr: ast.Expr, body: tuple[ast.Stmt, ...], orelse: tuple[ast.Stmt, ...], span: Span
    ) -> None:
        condition = self.value(expr)
        self.need_condition(condition, expr.span)
        if is_const(condition):
            for stmt in body if condition.attr("value") else orelse:
                self.run(stmt)
            return
        if not condition.type.shape.is_scalar and condition.type.on_device:
            self.fail(
                "E319",
                "`if` takes one condition per parameter",
                expr.span,
                condition.type.describe(),
                help="write where(condition, a, b) to choose for each element",
            )
        before = dict(self.store)
        with self.conditioned(condition, True):
            for stmt in body:
                self.run(stmt)
        then, self.store = self.store, before
        with self.conditioned(condition, False):
            for stmt in orelse:
                self.run(stmt)
        self.merge(condition, then, self.store, expr.span)

    def _returned(self, stmt: ast.If, rest: tuple[ast.Stmt, ...], span: Span) -> Binding:
        condition = self.value(stmt.condition)
        self.need_condition(condition, stmt.condition.span)
        sides = []
        before = dict(self.store)
        for side, body in ((True, stmt.body), (False, stmt.orelse or rest)):
            if is_const(condition) and bool(condition.attr("value")) is not side:
                continue
            self.store = dict(before)
            with self.conditioned(condition, side):
                result = self.run_body(body, span)
            if result is None:
                self.fail("E232", "one side of this `if` returns and the other does not", stmt.span)
            sides.append(result)
        if len(sides) == 1:
            return sides[0]
        return self.select(condition, sides[0], sides[1], stmt.span)

    def _when(self, stmt: ast.When) -> None:
        arm, *rest = stmt.arms
        condition = self.value(arm.condition)
        self.need_condition(condition, arm.condition.span)
        if not is_settled(condition):
            self.fail(
                "E409",
                "`when` is decided when a parameter is added",
                arm.condition.span,
                "this may change from step to step",
                help="use `if`",
            )
        self.static_conditions.append(condition)
        orelse: tuple[ast.Stmt, ...] = stmt.otherwise
        if rest:
            orelse = (ast.When(stmt.span, tuple(rest), stmt.otherwise),)
        self._branch(arm.condition, arm.body, orelse, stmt.span)

    def _every(self, stmt: ast.Every) -> None:
        period = self.value(stmt.period)
        if period.type.on_device:
            self.fail("E313", "`every` takes a host number", stmt.period.span)
        name = ast.Name(stmt.span, "t")
        condition: ast.Expr
        if stmt.start is None:
            condition = _equals_zero(ast.Binary(stmt.span, "%", name, stmt.period))
        else:
            since = ast.Binary(stmt.span, "-", name, stmt.start)
            condition = ast.Binary(
                stmt.span,
                "and",
                ast.Compare(stmt.span, (name, stmt.start), (">=",)),
                _equals_zero(ast.Binary(stmt.span, "%", since, stmt.period)),
            )
        self._branch(condition, stmt.body, (), stmt.span)

    # ------------------------------------------------------------ loops

    def _for(self, stmt: ast.For) -> None:
        items = self._items(stmt)
        if items is None:
            return
        for item in items:
            parts = item if len(stmt.targets) > 1 else (item,)
            if not isinstance(parts, tuple) or len(parts) != len(stmt.targets):
                self.fail(
                    "E317", f"{len(stmt.targets)} names cannot take this item", stmt.iterable.span
                )
            for target, bound in zip(stmt.targets, parts, strict=True):
                self.store[self.frame.local(target.name)] = bound
            for inner in stmt.body:
                self.run(inner)

    def _items(self, stmt: ast.For) -> tuple[Binding, ...] | None:
        """The items of an unrolled loop; None where the loop was run as one."""
        iterable = stmt.iterable
        if isinstance(iterable, ast.Call) and iterable.function == "range":
            bounds = [self.value(arg.value) for arg in iterable.args]
            if not 1 <= len(bounds) <= 2 or any(b.type.on_device for b in bounds):
                self.fail("E209", "`range` takes one or two host numbers", iterable.span)
            start, stop = (self.emit.const(0), bounds[0]) if len(bounds) == 1 else bounds
            if is_const(start) and is_const(stop):
                numbers = range(int(start.attr("value")), int(stop.attr("value")))
                if len(numbers) <= UNROLLED:
                    return tuple(self.emit.const(each) for each in numbers)
            count = self.emit.map("sub", [stop, start], iterable.span)
            self._loop(count, stmt.body, stmt.span, index=(stmt.targets[0].name, start))
            return None
        if isinstance(iterable, ast.Name) and iterable.name == "axes":
            self.fail(
                "E501", "`for axis in axes` is not in this version of the language", iterable.span
            )
        items = self.evaluate(iterable)
        if not isinstance(items, tuple):
            self.fail("E317", "`for` takes a tuple or range(n)", iterable.span)
        return items

    def _repeat(self, stmt: ast.Repeat) -> None:
        count = self.value(stmt.count)
        if count.type.on_device or count.type.dtype in (DType.BOOL, DType.STRING):
            self.fail("E313", "`repeat` takes a host number", stmt.count.span)
        self._loop(count, stmt.body, stmt.span)

    def _loop(
        self,
        count: Value,
        body: tuple[ast.Stmt, ...],
        span: Span,
        index: tuple[str, Value] | None = None,
    ) -> None:
        """One loop value: the names that the body assigns and that had a value are carried."""
        until = body[-1] if body and isinstance(body[-1], ast.Until) else None
        stmts = body[:-1] if until else body
        keys = [key for key in self._carried(stmts) if isinstance(self.store.get(key), Value)]
        number = self.number("loop")
        initial = [self.store[key] for key in keys]
        for _ in range(3):
            args = [
                self.builder.make("loop_arg", (), each.type, each.span, loop=number, index=i)
                for i, each in enumerate(initial)
            ]
            for arg, value in zip(args, initial, strict=True):
                arg.name = value.name
            counter = self.emit.leaf(
                "loop_arg", Instances.CONST, Place.HOST, DType.INT, loop=number, index=-1
            )
            results, condition = self._loop_body(keys, args, stmts, until, index, counter)
            widened = [
                self._widen(value, result, span)
                for value, result in zip(initial, results, strict=True)
            ]
            if [w.type for w in widened] == [value.type for value in initial]:
                break
            initial = widened
        else:
            self.fail("E321", "a value's shape changes from one pass of the loop to the next", span)
        results = [
            self.emit.broadcast(r, a.type, span) if a.type.on_device else r
            for r, a in zip(results, args, strict=True)
        ]
        info = LoopBody(tuple(args), tuple(results), condition, counter)
        kind = Type(Instances.PARAM, SCALAR, Place.DEVICE, DType.REAL)
        loop = self.builder.make("loop", (count, *initial), kind, span, body=info)
        for i, key in enumerate(keys):
            result = self.builder.make("loop_result", (loop,), args[i].type, span, index=i)
            self.store[key] = _titled(result, initial[i].name or "")

    def _loop_body(
        self,
        keys: list[Key],
        args: list[Value],
        stmts: tuple[ast.Stmt, ...],
        until: ast.Until | None,
        index: tuple[str, Value] | None,
        counter: Value,
    ) -> tuple[list[Value], Value | None]:
        before = dict(self.store)
        self.store.update(zip(keys, args, strict=True))
        if index is not None:
            self.store[self.frame.local(index[0])] = self.emit.map(
                "add", [index[1], counter], stmts[0].span
            )
        self.loop_depth += 1
        for stmt in stmts:
            self.run(stmt)
        condition = None
        if until is not None:
            condition = self._until(until)
        self.loop_depth -= 1
        results = []
        for key in keys:
            bound = self.store[key]
            if not isinstance(bound, Value):
                self.store = before
                raise Reported
            results.append(bound)
        new = [key for key in self.store if key not in before]
        spans = stmts[-1].span
        self.store = before
        for key in new:
            self.store[key] = Undefined(spans, "it is assigned in a loop, which may run no time")
        return results, condition

    def _until(self, until: ast.Until) -> Value:
        expr = until.condition
        if isinstance(expr, ast.Call) and expr.function == "host" and len(expr.args) == 1:
            expr = expr.args[0].value
        condition = self.value(expr)
        self.need_condition(condition, expr.span)
        return condition

    def _carried(self, stmts: tuple[ast.Stmt, ...]) -> list[Key]:
        keys: list[Key] = []
        for name in dict.fromkeys(name for stmt in stmts for name in assigned(stmt)):
            key = self._key(name)
            bound = self.store.get(key)
            if isinstance(bound, StateSlot):
                key = ("state", bound.name)
            if key in self.store:
                keys.append(key)
        return keys

    def _widen(self, initial: Value, result: Value, span: Span) -> Value:
        joined = join_types([initial.type, result.type], result.type.dtype)
        if joined is None:
            self._loop_shapes(initial, result, span)
        if joined == initial.type or not joined.on_device:
            return (
                initial
                if not joined.on_device and initial.type == result.type
                else self._host_widen(initial, joined)
            )
        return self.emit.broadcast(initial, joined, span)

    def _host_widen(self, initial: Value, joined: Type) -> Value:
        if initial.type == joined:
            return initial
        return self.builder.make("full", (initial,), joined, initial.span)

    def _loop_shapes(self, initial: Value, result: Value, span: Span) -> NoReturn:
        self.fail(
            "E321",
            f"a value of shape {initial.type.shape} becomes one of shape {result.type.shape} in the loop",
            span,
        )


def assigned(stmt: ast.Stmt) -> list[str]:
    """The names that a statement sets, in itself and below."""
    match stmt:
        case ast.Assign(targets=targets):
            bases = [t.base if isinstance(t, ast.Index) else t for t in targets]
            return [base.name for base in bases if isinstance(base, ast.Name)]
        case ast.State(items=items):
            return [item.name for item in items]
        case ast.Input(name=name):
            return [name]
        case ast.If(body=body, orelse=orelse):
            return [n for s in (*body, *orelse) for n in assigned(s)]
        case ast.When(arms=arms, otherwise=otherwise):
            return [
                n
                for body in (*(a.body for a in arms), otherwise)
                for s in body
                for n in assigned(s)
            ]
        case ast.Every(body=body) | ast.Repeat(body=body):
            return [n for s in body for n in assigned(s)]
        case ast.For(targets=names, body=body):
            return [*(n.name for n in names), *(n for s in body for n in assigned(s))]
        case ast.Step() | ast.Use():
            return ["p"]
    return []


def _returns(stmt: ast.If) -> bool:
    return any(
        isinstance(s, ast.Return) or (isinstance(s, ast.If) and _returns(s))
        for s in (*stmt.body, *stmt.orelse)
    )


def _titled(value: Value, name: str) -> Value:
    """`value` under the name that the rule gives it, where it has none yet."""
    if value.name is None and name and value.op not in ("const", "param", "grad"):
        value.name = name
    return value


def _exclusive(a: tuple[tuple[Value, bool], ...], b: tuple[tuple[Value, bool], ...]) -> bool:
    return any(x is y and s is not t for x, s in a for y, t in b)


def _equals_zero(expr: ast.Expr) -> ast.Expr:
    return ast.Compare(expr.span, (expr, ast.Number(expr.span, 0)), ("==",))


def _reads_t(value: Value) -> bool:
    stack = [value]
    while stack:
        each = stack.pop()
        if each.op == "t":
            return True
        stack.extend(each.args)
    return False
