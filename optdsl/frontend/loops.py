"""Loops: unrolled over tuples, else one value with a body of its own.

Input: for and repeat. Output: what the loop leaves of each name that it assigns.
Relies on: declarations; statements run the body (`run`). Does not do: branches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from optdsl.frontend.bindings import Binding, Poison, Reported, Undefined
from optdsl.frontend.core import Key, P, StateSlot
from optdsl.frontend.emit import as_tensor
from optdsl.frontend.host_states import HostStates
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import LoopBody, Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import SCALAR, DType, Instances, Place, Type, join_types

UNROLLED = 64
"""A loop over a literal range or tuple of at most this many items is unrolled."""


class Loops(HostStates):
    def run(self, stmt: ast.Stmt) -> None:
        raise AssertionError("statements.py defines it")

    def _for(self, stmt: ast.For) -> None:
        items = self._items(stmt)
        if items is not None:
            before = self.turns
            self.unrolled_depth += 1
            try:
                for number, item in enumerate(items):
                    self.turns = (*before, self.emit.const(number))
                    self._take(stmt, item)
                    for inner in stmt.body:
                        self.run(inner)
            finally:
                self.turns = before
                self.unrolled_depth -= 1
        for target in stmt.targets:
            self.store[self.frame.local(target.name)] = Undefined(
                stmt.span, "it is the variable of a loop", "use another name after the loop"
            )

    def _take(self, stmt: ast.For, item: Binding) -> None:
        """Give the variables of an unrolled loop their values."""
        parts = item if len(stmt.targets) > 1 else (item,)
        if not isinstance(parts, tuple) or len(parts) != len(stmt.targets):
            count = len(stmt.targets)
            self.fail("E317", f"{count} names cannot take this item", stmt.iterable.span)
        for target, bound in zip(stmt.targets, parts, strict=True):
            self.need_free(target.name, target.span)
            self.store[self.frame.local(target.name)] = bound

    def _items(self, stmt: ast.For) -> tuple[Binding, ...] | None:
        """The items of an unrolled loop; None where the loop was run as one."""
        iterable = stmt.iterable
        if isinstance(iterable, ast.Call) and iterable.function == "range":
            return self._range(stmt, iterable)
        items = self.evaluate(iterable)
        if not isinstance(items, tuple):
            self.fail("E317", "`for` takes a tuple or range(n)", iterable.span)
        return items

    def _range(self, stmt: ast.For, call: ast.Call) -> tuple[Binding, ...] | None:
        bounds = [self.value(arg.value) for arg in call.args]
        numbers = all(not each.type.on_device and each.type.dtype is DType.INT for each in bounds)
        if not 1 <= len(bounds) <= 2 or not numbers:
            self.fail("E209", "`range` takes one or two whole numbers of the host", call.span)
        if len(stmt.targets) != 1:
            self.fail("E317", "`range` gives one number at a time", call.span)
        start, stop = (self.emit.const(0), bounds[0]) if len(bounds) == 1 else bounds
        count = self.emit.map("sub", [stop, start], call.span)
        if is_const(count) and count.attr("value") <= UNROLLED and is_const(start):
            first = start.attr("value")
            return tuple(self.emit.const(first + k) for k in range(count.attr("value")))
        self.need_free(stmt.targets[0].name, stmt.targets[0].span)
        self._loop(count, stmt.body, stmt.span, index=(stmt.targets[0].name, start))
        return None

    def _repeat(self, stmt: ast.Repeat) -> None:
        count = self.value(stmt.count)
        if count.type.on_device or count.type.dtype in (DType.BOOL, DType.STRING):
            self.fail("E313", "`repeat` takes a host number", stmt.count.span)
        self._loop(as_tensor(count), stmt.body, stmt.span)

    # ------------------------------------------------------------ what the host reads

    def host_branch(
        self,
        condition: Value,
        body: tuple[ast.Stmt, ...],
        orelse: tuple[ast.Stmt, ...],
        span: Span,
    ) -> None:
        """`if` on what the host reads of a tensor: each side as a loop that runs once or not at
        all."""
        self._loop(condition, body, span)
        if orelse:
            self._loop(self.emit.map("not", [condition], span), orelse, span)

    # ------------------------------------------------------------ a loop as one value

    def _loop(
        self,
        count: Value,
        body: tuple[ast.Stmt, ...],
        span: Span,
        index: tuple[str, Value] | None = None,
    ) -> None:
        """One loop value: the names that the body assigns and that had a value are carried. Their
        types are those that the body gives back for them: found by running it until they stay."""
        keys = self._carried(body, span)
        number = self.number("loop")
        initial = [as_tensor(self.store[key]) for key in keys]
        types = [_carried_type(value.type) for value in initial]
        for _ in range(4 * len(keys) + 2):
            args = [
                self.builder.make("loop_arg", (), type_, value.span, loop=number, index=i)
                for i, (type_, value) in enumerate(zip(types, initial, strict=True))
            ]
            for arg, value, key in zip(args, initial, keys, strict=True):
                arg.name = str(key[-1]) if value.op == "param" else value.name
            counter = self.emit.leaf(
                "loop_arg", Instances.CONST, Place.HOST, DType.INT, loop=number, index=-1
            )
            branch = count.type.dtype is DType.BOOL
            results, until = self._loop_body(keys, args, body, index, counter, span, branch=branch)
            deciding = [count.type] if until is None else [count.type, until.type]
            found = [
                _decided_by(deciding, self._joined(a, b, span))
                for a, b in zip(args, results, strict=True)
            ]
            if found == types:
                break
            types = found
        else:
            self.fail("E321", "a value's shape changes from one pass of the loop to the next", span)
        self._together(until, results, counter, span)
        self._together(count, results, counter, span)
        info = LoopBody(tuple(args), tuple(self._fitted(results, types, span)), until, counter)
        kind = Type(Instances.PARAM, SCALAR, Place.DEVICE, DType.REAL)
        operands = (count, *self._fitted(initial, types, span))
        loop = self.builder.make("loop", operands, kind, span, body=info)
        for i, key in enumerate(keys):
            result = self.builder.make("loop_result", (loop,), types[i], span, index=i)
            self.store[key] = titled(result, initial[i].name or "")

    def _loop_body(
        self,
        keys: list[Key],
        args: list[Value],
        body: tuple[ast.Stmt, ...],
        index: tuple[str, Value] | None,
        counter: Value,
        span: Span,
        *,
        branch: bool,
    ) -> tuple[list[Value], Value | None]:
        """The values of one pass, and the condition that ends the loop; the store is left as it
        was, but for the names that only the body gives a value."""
        before, turns = dict(self.store), self.turns
        self.store.update(zip(keys, args, strict=True))
        if index is not None:
            self.store[self.frame.local(index[0])] = self.emit.map("add", [index[1], counter], span)
        self.loop_depth += 1
        self.turns = turns if branch else (*turns, counter)
        until = None
        try:
            for stmt in body:
                if isinstance(stmt, ast.Until):
                    until = self._until(stmt)
                else:
                    self.run(stmt)
            left = [self._carried_value(self.store[key], key, span) for key in keys]
            results = [as_tensor(each) for each in left]
        finally:
            self.loop_depth -= 1
            self.turns = turns
            new = [key for key in self.store if key not in before]
            self.store = before
        for key in new:
            self.store[key] = Undefined(span, "it is assigned in a loop, which may run no time")
        return results, until

    def _until(self, until: ast.Until) -> Value:
        expr = until.condition
        condition = as_tensor(self.value(expr))
        self.need_condition(condition, expr.span)
        if not condition.type.shape.is_scalar:
            self.fail("E319", "`until` takes one condition", expr.span, condition.type.describe())
        return condition

    def _together(
        self, deciding: Value | None, results: list[Value], counter: Value, span: Span
    ) -> None:
        """Parameters that pass through a loop together must enter and leave it together."""
        if deciding is None or deciding.type.instances < Instances.PARAM:
            return
        if not deciding.type.on_device:
            return
        for each in reachable([deciding, *results]):
            row = OPS[each.op]
            couples = row.kind is Kind.CLOSURE or (
                row.kind is Kind.REDUCE and each.attr("over") is not None
            )
            if couples and each.id > counter.id:
                self.fail(
                    "E320",
                    "the condition must be one for all parameters where they are reduced over, "
                    "or the model is evaluated",
                    span,
                    help="reduce the condition with over = all",
                )

    def _carried(self, body: tuple[ast.Stmt, ...], span: Span) -> list[Key]:
        """The names that a pass hands on to the next: assigned in the body, with a value before."""
        keys: list[Key] = []
        for name in dict.fromkeys(name for stmt in body for name in assigned(stmt)):
            key = self._key(name)
            bound = self.store.get(key)
            if isinstance(bound, StateSlot):
                key = ("state", bound.name)
                bound = self.store[key]
            if bound is None or isinstance(bound, Undefined):
                continue
            self._carried_value(bound, key, span)
            if key not in keys:
                keys.append(key)
        return keys

    def _carried_value(self, bound: Binding, key: Key, span: Span) -> Value:
        if isinstance(bound, Poison):
            raise Reported
        if not isinstance(bound, Value):
            self.fail("E321", f"`{key[-1]}` must be a number or tensor in a loop", span)
        return bound

    def _joined(self, initial: Value, result: Value, span: Span) -> Type:
        kinds = {initial.type.dtype, result.type.dtype}
        dtype = kinds.pop() if len(kinds) == 1 else DType.REAL
        joined = join_types([initial.type, result.type], dtype)
        if joined is None or (kinds and not kinds | {dtype} <= {DType.INT, DType.REAL}):
            self._loop_shapes(initial, result, span)
        return joined

    def _fitted(self, values: Iterable[Value], types: list[Type], span: Span) -> list[Value]:
        return [
            self.emit.broadcast(value, type_, span) if type_.on_device else value
            for value, type_ in zip(values, types, strict=True)
        ]

    def _loop_shapes(self, initial: Value, result: Value, span: Span) -> NoReturn:
        self.fail(
            "E321",
            f"a value of shape {initial.type.shape} becomes one of shape {result.type.shape} "
            "in the loop",
            span,
        )

    def _key(self, name: str) -> Key:
        if name in ("p", "g") and self.frame.kind == "rule":
            return P if name == "p" else self.frame.rule.gradient
        return self.frame.local(name)


def _decided_by(deciding: list[Type], type_: Type) -> Type:
    """What a loop leaves is known where its number of passes is."""
    return type_.with_(
        instances=max(type_.instances, *(each.instances for each in deciding)),
        place=max(type_.place, *(each.place for each in deciding)),
    )


def _carried_type(type_: Type) -> Type:
    """A number that a loop changes is known once a step, not before."""
    return type_ if type_.on_device else type_.with_(place=Place.HOST)


def assigned(stmt: ast.Stmt) -> list[str]:
    """The names that a statement sets, in itself and below."""
    match stmt:
        case ast.Assign(targets=targets):
            bases = [t.base if isinstance(t, ast.Index) else t for t in targets]
            return [base.name for base in bases if isinstance(base, ast.Name)]
        case ast.State(items=items):
            return [item.name for item in items]
        case ast.Input(name=name) | ast.Attribute(name=name):
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


def titled(value: Value, name: str) -> Value:
    """`value` under the name that the rule gives it, where it has none yet."""
    if value.name is None and name and value.op not in ("const", "param", "grad"):
        value.name = name
    return value
