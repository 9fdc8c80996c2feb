"""Loops: unrolled over tuples, else one value with a body of its own.

Input: for and repeat. Output: what the loop leaves of each name that it assigns.
Relies on: declarations; statements run the body (`run`). Does not do: branches.
"""

from __future__ import annotations

from typing import NoReturn

from optdsl.frontend.bindings import Binding, Reported, Undefined
from optdsl.frontend.core import Key, P, StateSlot
from optdsl.frontend.declarations import Declarations
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import LoopBody, Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import SCALAR, DType, Instances, Place, Type, join_types

UNROLLED = 64
"""A loop over a literal range or tuple of at most this many items is unrolled."""


class Loops(Declarations):
    def run(self, stmt: ast.Stmt) -> None:
        raise AssertionError("statements.py defines it")

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
            self.store[key] = titled(result, initial[i].name or "")

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
            f"a value of shape {initial.type.shape} becomes one of shape {result.type.shape} "
            "in the loop",
            span,
        )

    def _key(self, name: str) -> Key:
        if name in ("p", "g") and self.frame.kind == "rule":
            return P if name == "p" else self.frame.rule.gradient
        return self.frame.local(name)


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


def titled(value: Value, name: str) -> Value:
    """`value` under the name that the rule gives it, where it has none yet."""
    if value.name is None and name and value.op not in ("const", "param", "grad"):
        value.name = name
    return value
