"""Statements: bodies, assignments, branches.

Input: the statements of a body. Output: the values that names have after it. Relies on: loops.
Does not do: `step`, `use` (rules.py defines `run_rule`).
"""

from __future__ import annotations

from optdsl.frontend.bindings import POISON, Binding, Reported
from optdsl.frontend.core import P, StateSlot
from optdsl.frontend.expressions import RESERVED, is_settled
from optdsl.frontend.loops import Loops, assigned, titled
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.syntax import ast


class Statements(Loops):
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
            self.store[P if name == "p" else self.frame.rule.gradient] = titled(value, name)
        elif isinstance(slot, StateSlot):
            value = self.as_value(bound, stmt.value.span)
            state = self.states[slot.name]
            self._fits(value, state.type, stmt.value.span, f"state `{name}`")
            value = self.emit.broadcast(value, state.type, stmt.span)
            self.store[("state", slot.name)] = titled(value, name)
        else:
            self.store[self.frame.local(name)] = (
                titled(bound, name) if isinstance(bound, Value) else bound
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


def _returns(stmt: ast.If) -> bool:
    return any(
        isinstance(s, ast.Return) or (isinstance(s, ast.If) and _returns(s))
        for s in (*stmt.body, *stmt.orelse)
    )


def _equals_zero(expr: ast.Expr) -> ast.Expr:
    return ast.Compare(expr.span, (expr, ast.Number(expr.span, 0)), ("==",))
