"""Statements: bodies, assignments, branches.

Input: the statements of a body. Output: the values that names have after it. Relies on: axes.
Does not do: `step`, `use` (rules.py defines `run_rule`).
"""

from __future__ import annotations

from optdsl.diagnostics import InternalError
from optdsl.frontend.axes import Axes
from optdsl.frontend.bindings import Binding, Reported, Undefined
from optdsl.frontend.core import STATEMENTS, P, Period, StateSlot
from optdsl.frontend.emit import as_tensor
from optdsl.frontend.expressions import RESERVED
from optdsl.frontend.loops import assigned, titled
from optdsl.frontend.shapes import is_settled
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Value
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import Instances

RULE_ONLY = {
    ast.Attribute: "attribute",
    ast.Require: "require",
    ast.Input: "input",
    ast.View: "view",
    ast.Eval: "eval",
    ast.Report: "report",
    ast.Step: "step",
    ast.Use: "use",
}
"""Statements that no function has."""


class Statements(Axes):
    def run_body(self, body: tuple[ast.Stmt, ...], span: Span) -> Binding | None:
        """Run the statements of a function; the value of `return`, if one was reached."""
        for position, stmt in enumerate(body):
            if isinstance(stmt, ast.Return):
                return self.evaluate(stmt.value)
            if isinstance(stmt, ast.If) and (_returns(stmt) or _declares_anew(stmt)):
                return self._returned(stmt, body[position + 1 :], span)
            self.run(stmt)
        return None

    def run_all(self, body: tuple[ast.Stmt, ...]) -> None:
        """Run the statements of a rule or a block. Where the branches of one declare states of one
        name, as of different shapes, what follows belongs to each branch."""
        for position, stmt in enumerate(body):
            if isinstance(stmt, ast.If | ast.When) and _declares_anew(stmt):
                self.run(_followed(stmt, body[position + 1 :]))
                return
            self.run(stmt)

    def run(self, stmt: ast.Stmt) -> None:
        """One statement. An error is reported, and the names it would set are poisoned."""
        if self.number("statement") > STATEMENTS:
            self.give_up(f"the rule unfolds to more than {STATEMENTS:,} statements", stmt.span)
        try:
            self._run(stmt)
        except Reported:
            if not self.sink.has_errors:
                raise InternalError("frontend", f"no error for {stmt.span}") from None
            for name in assigned(stmt):
                self.poison(self._key(name))

    def _run(self, stmt: ast.Stmt) -> None:
        word = RULE_ONLY.get(type(stmt))
        if word is not None and self.frame.kind != "rule":
            self.fail("E231", f"`{word}` belongs to a rule, not to a function", stmt.span)
        match stmt:
            case ast.Doc():
                pass
            case ast.View():
                self._view_at_top(stmt)
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
            case ast.Eval():
                self._eval(stmt)
            case ast.Report():
                self._report(stmt)
            case ast.Step() | ast.Use():
                self.run_rule(stmt)
            case ast.Return():
                self.fail(
                    "E201",
                    "`return` ends a function; this is not one",
                    stmt.span,
                    help="what a rule changes it assigns: `p = ...` or `p -= ...`",
                )
            case _:
                self.fail("E201", "this statement has no place here", stmt.span)

    def run_rule(self, stmt: ast.Step | ast.Use) -> None:
        raise AssertionError("rules.py defines it")

    # ------------------------------------------------------------ what a step shows

    def _view_at_top(self, stmt: ast.View) -> None:
        """Views are found before the body runs; here only their place is looked at."""
        if stmt not in getattr(self.frame.item, "body", ()):
            self.fail("E201", "`view` stands at the top of a rule: it holds everywhere", stmt.span)

    def _eval(self, stmt: ast.Eval) -> None:
        self._not_conditional("eval", stmt.span)
        if self.frame.rule.run is not None:
            message = (
                "a rule that runs in some steps alone has no value for evaluation behind others"
            )
            self.fail("E418", message, stmt.span)
        value = self._like_p(self.value(stmt.value), stmt.value.span)
        self.evaluations.append((self.path, value))

    def _report(self, stmt: ast.Report) -> None:
        self._not_conditional("report", stmt.span)
        value = as_tensor(self.value(stmt.value))
        name = stmt.name or f"report{len(self.reports) + 1}"
        if not value.type.shape.is_scalar or value.type.instances is Instances.PARAM:
            self.fail(
                "E416",
                "a report is one number for the group or the model",
                stmt.value.span,
                "one for each parameter" if value.type.shape.is_scalar else value.type.describe(),
                help="reduce it with over = all or over = group",
            )
        # On a step that does not come here it is not a number.
        for condition, side in reversed(self.path):
            missing: Value = self.reports.get(name, self.emit.const(float("nan")))
            sides = (value, missing) if side else (missing, value)
            value = self.emit.choose(condition, *sides, stmt.span)
        self.reports[name] = value

    def _not_conditional(self, word: str, span: Span) -> None:
        if self.device_depth or self.loop_depth:
            self.fail(
                "E201", f"`{word}` cannot stand in a loop or under a condition on tensors", span
            )

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
            self.fail(
                "E317",
                f"{len(stmt.targets)} names cannot take {count}",
                stmt.span,
                help="`_` takes what is not needed",
            )
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
        slot = self.store.get(self.frame.local(name))
        if name in RESERVED - {"p", "g"} and slot is None:
            self.fail(
                "E404",
                f"`{name}` cannot be assigned",
                target.span,
                help=f"it has its value by itself; take another name, `{name}_` for instance",
            )
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
            value = self._fits(value, state.type, stmt.value.span, f"state `{name}`")
            if state.type.on_device:
                value = titled(self.emit.broadcast(value, state.type, stmt.span), name)
            self.store[("state", slot.name)] = value
        else:
            self.store[self.frame.local(name)] = (
                titled(bound, name) if isinstance(bound, Value) else bound
            )

    def _store_entry(self, target: ast.Index, bound: Binding, stmt: ast.Assign) -> None:
        if not isinstance(target.base, ast.Name):
            self.fail("E201", "only an entry of a name can be assigned", target.span)
        base, index = self.value(target.base), self.value(target.index)
        self.need_entry(base, index, target.index.span)
        value = self.as_value(bound, stmt.value.span)
        shape = self.entry_shape(base, target.span)
        value = self._fits(value, base.type.with_(shape=shape), stmt.value.span, "the entry")
        value = self.emit.broadcast(value, base.type.with_(shape=shape), stmt.span)
        entry = self.builder.make("put_index", (base, index, value), base.type, stmt.span)
        self._store(target.base, entry, stmt)

    def _like_p(self, value: Value, span: Span) -> Value:
        value = self._fits(value, self.emit.param_type, span, "p")
        return self.emit.broadcast(value, self.emit.param_type, span)

    # ------------------------------------------------------------ branches

    def _branch(
        self, expr: ast.Expr, body: tuple[ast.Stmt, ...], orelse: tuple[ast.Stmt, ...], span: Span
    ) -> None:
        condition = self.value(expr)
        self.need_condition(condition, expr.span)
        if is_const(condition):
            self.run_all(body if condition.attr("value") else orelse)
            return
        if condition.op == "to_host":
            self.host_branch(as_tensor(condition), body, orelse, span)
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
            self.run_all(body)
        then, self.store = self.store, before
        with self.conditioned(condition, False):
            self.run_all(orelse)
        self.merge(condition, then, self.store, expr.span)

    def _returned(self, stmt: ast.If, rest: tuple[ast.Stmt, ...], span: Span) -> Binding:
        """A branch that returns: what follows it belongs to each side that does not."""
        condition = as_tensor(self.value(stmt.condition))
        self.need_condition(condition, stmt.condition.span)
        if is_const(condition):
            taken = (*(stmt.body if condition.attr("value") else stmt.orelse), *rest)
            return self._result(taken, span, stmt)
        before = dict(self.store)
        with self.conditioned(condition, True):
            first = self._result((*stmt.body, *rest), span, stmt)
        then, self.store = self.store, before
        with self.conditioned(condition, False):
            second = self._result((*stmt.orelse, *rest), span, stmt)
        self.merge(condition, then, self.store, stmt.condition.span)
        chosen = self.select(condition, first, second, stmt.span)
        if isinstance(chosen, Undefined):
            self.fail("E232", "the sides of this `if` return different kinds of values", stmt.span)
        return chosen

    def _result(self, body: tuple[ast.Stmt, ...], span: Span, stmt: ast.If) -> Binding:
        result = self.run_body(body, span)
        if result is None:
            self.fail("E232", "one side of this `if` returns and the other does not", stmt.span)
        return result

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
        self._note_period(stmt, self.value(condition))
        self._branch(condition, stmt.body, (), stmt.span)

    def _note_period(self, stmt: ast.Every, condition: Value) -> None:
        """How often the statements have run, by a formula: what it is made of must stay."""
        span, start = stmt.span, stmt.start
        settled = [self.value(each) for each in (stmt.period, start) if each is not None]
        if not all(map(is_settled, settled)):
            return
        runs: ast.Expr = ast.Name(span, "t")
        if start is not None:
            runs = ast.Binary(span, "+", ast.Binary(span, "-", runs, start), stmt.period)
        count = self.value(ast.Binary(span, "//", runs, stmt.period))
        self.periods[condition] = Period(count, tuple(settled))


def _returns(stmt: ast.If) -> bool:
    return any(
        isinstance(s, ast.Return) or (isinstance(s, ast.If) and _returns(s))
        for s in (*stmt.body, *stmt.orelse)
    )


def _arms(stmt: ast.If | ast.When) -> list[tuple[ast.Stmt, ...]]:
    """The bodies of which one runs."""
    if isinstance(stmt, ast.When):
        return [*(arm.body for arm in stmt.arms), stmt.otherwise]
    if len(stmt.orelse) == 1 and isinstance(stmt.orelse[0], ast.If):
        return [stmt.body, *_arms(stmt.orelse[0])]
    return [stmt.body, stmt.orelse]


def _declares_anew(stmt: ast.If | ast.When) -> bool:
    """Whether two of the branches declare a state of one name."""
    names = [
        name
        for arm in _arms(stmt)
        for name in {item.name for s in arm if isinstance(s, ast.State) for item in s.items}
    ]
    return len(names) != len(set(names))


def _followed(stmt: ast.If | ast.When, rest: tuple[ast.Stmt, ...]) -> ast.If | ast.When:
    """The statement with `rest` at the end of each of its branches."""
    if isinstance(stmt, ast.When):
        arms = tuple(arm.replace(body=(*arm.body, *rest)) for arm in stmt.arms)
        return stmt.replace(arms=arms, otherwise=(*stmt.otherwise, *rest))
    orelse: tuple[ast.Stmt, ...] = (*stmt.orelse, *rest)
    if len(stmt.orelse) == 1 and isinstance(stmt.orelse[0], ast.If):
        orelse = (_followed(stmt.orelse[0], rest),)
    return stmt.replace(body=(*stmt.body, *rest), orelse=orelse)


def _equals_zero(expr: ast.Expr) -> ast.Expr:
    return ast.Compare(expr.span, (expr, ast.Number(expr.span, 0)), ("==",))
