"""Rules: hyperparameters, `step`, `use`, wrappers and aliases; from an item to a typed rule.

Input: the name of a rule in a scope. Output: `ir.nodes.Rule`, or None with the errors in the sink.
Relies on: references. Does not do: any simplification; the result says what the file says.
"""

from __future__ import annotations

from typing import Any, NoReturn

from optdsl.diagnostics import Label, Sink
from optdsl.frontend.bindings import POISON, Binding, GivenUp, Reported, RuleRef
from optdsl.frontend.core import Frame, Key, P, RuleFrame
from optdsl.frontend.declarations import is_exclusive
from optdsl.frontend.lints import lint
from optdsl.frontend.references import STAND_IN, References, RuleItem, inner_parameters
from optdsl.frontend.scope import Scope as FileScope
from optdsl.ir.evaluation import GoneError, evaluation_of
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Hyper, Rule, Scope, Value, reachable
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import DType, Instances, Place


class Rules(References):
    # ------------------------------------------------------------ hyperparameters

    def declare_hypers(
        self,
        item: ast.Item,
        parameters: tuple[ast.Parameter, ...],
        given: dict[str, Binding],
        fixed: bool,
        defaults: dict[str, Binding],
    ) -> None:
        """Bind a rule's parameters: to what is given, else to a hyperparameter of the whole rule,
        or with `fixed` to their defaults."""
        for parameter in parameters:
            if isinstance(item, ast.Wrapper) and parameter.default is None:
                continue
            local = self.frame.local(parameter.name)
            try:
                self.need_free(parameter.name, parameter.name_span)
                if local in self.store:
                    self.fail("E212", f"`{parameter.name}` is given twice", parameter.name_span)
                self.store[local] = self._hyper(item, parameter, given, fixed, defaults)
            except Reported:
                self.store[local] = POISON

    def _hyper(
        self,
        item: ast.Item,
        parameter: ast.Parameter,
        given: dict[str, Binding],
        fixed: bool,
        defaults: dict[str, Binding],
    ) -> Binding:
        name = parameter.name
        if name in given:
            return given[name]
        if name in defaults:
            default, place = defaults[name], self.frame.call or parameter.span
        elif parameter.default is not None:
            default, place = self.evaluate(parameter.default), parameter.default.span
        else:
            self.fail(
                "E413",
                f"the hyperparameter `{name}` has no default",
                parameter.span,
                help=f"write `{name} = 1e-3`; only the inner rules of a `wrapper` have none",
            )
        plain = self._plain(default, place)
        if fixed:
            return default
        known = self.hypers.get(name)
        if known is not None:
            owner = self.hyper_owners[name]
            if owner.way != self.frame.rule.way:
                self._clash(known, owner, item, parameter)
            return self._hyper_value(name, known.default, ())
        self.need_public(name, parameter.name_span)
        self.hypers[name] = Hyper(name, plain, parameter.span)
        self.hyper_owners[name] = self.frame.rule
        return self._hyper_value(name, plain, ())

    def _clash(
        self, known: Hyper, owner: RuleFrame, item: ast.Item, parameter: ast.Parameter
    ) -> NoReturn:
        name = parameter.name
        assert known.span is not None
        self.fail(
            "E410",
            f"`{owner.item.name}` and `{item.name}` both have a hyperparameter `{name}`",
            self.frames[0].rule.item.name_span,
            "in this rule",
            Label(known.span, "one"),
            Label(parameter.span, "the other"),
            help=f"rename one: optimizer NAME(inner_{name} = ...) = "
            f"...({item.name}({name} = inner_{name}))",
        )

    def _plain(self, bound: Binding, span: Span) -> Any:
        if isinstance(bound, tuple):
            return tuple(self._plain(each, span) for each in bound)
        value = self.as_value(bound, span)
        if not is_const(value):
            self.fail("E413", "a default is a literal", span)
        return value.attr("value")

    def _hyper_value(self, name: str, default: Any, index: tuple[int, ...]) -> Binding:
        if isinstance(default, tuple):
            return tuple(
                self._hyper_value(name, each, (*index, i)) for i, each in enumerate(default)
            )
        kinds = {bool: DType.BOOL, int: DType.INT, float: DType.REAL, str: DType.STRING}
        dtype = kinds[type(default)]
        place = Place.HOST if dtype is DType.REAL else Place.STATIC
        return self.emit.leaf("hyper", Instances.GROUP, place, dtype, name=name, index=index)

    # ------------------------------------------------------------ running rules

    def run_rule(self, stmt: ast.Step | ast.Use) -> None:
        run = self._number_of_run(stmt)
        if isinstance(stmt, ast.Step):
            ref = self._inner(stmt)
        else:
            ref = self._named_rule(stmt.name, stmt.name_span)
        seen: set[str] = set()
        for arg in stmt.args:
            if arg.name is None or arg.name in seen:
                self.fail("E209", "hyperparameters are given by name, once each", arg.span)
            seen.add(arg.name)
            ref = self._bound(ref, arg.name, self.evaluate(arg.value), arg.span, final=True)
        if isinstance(stmt, ast.Step):
            way = self._way(stmt)
        else:
            way = (*self.frame.rule.way, stmt.span.start)
        prefix = self._prefix(stmt, ref)
        fixed = isinstance(stmt, ast.Use) or self.fixed
        self.run_ref(ref, fixed, stmt.span, prefix, way, run)

    def _way(self, stmt: ast.Step) -> Key:
        """The inner rule's name behind those that lead here. It may run once in a step: in one
        place, or in branches that exclude each other."""
        way = (*self.frame.rule.way, stmt.name)
        before = self.runs.setdefault(way, [])
        if not all(is_exclusive(other, self.path) for other in before):
            self.fail(
                "E411",
                f"`{stmt.name}` runs twice in a step, which is not in this version",
                stmt.span,
                help="it would need a `t` of its own",
            )
        before.append(self.path)
        return way

    def _number_of_run(self, stmt: ast.Step | ast.Use) -> Value | None:
        """The `t` of a rule that runs here; None where it is that of all."""
        if self.loop_depth or self.unrolled_depth:
            mend = "its states are those of the place where it is written: write it out"
            self.fail("E401", "a rule cannot run in a loop", stmt.span, help=mend)
        run, period = self.frame.rule.run, None
        for condition, side in self.path[self.frame.rule.depth :]:
            if condition.type.place is Place.STATIC:
                continue
            if period is not None or not side or condition not in self.periods:
                self.fail(
                    "E411",
                    "nothing counts how often a rule has run under this condition",
                    stmt.span,
                    help="`every k` counts, where k stays what it is; so do `when`, and conditions "
                    "on sizes and options",
                )
            period = self.periods[condition]
            run = period.runs
            settled = [self.emit.map("ge", [each, each], stmt.span) for each in period.settled]
            self.static_conditions += [each for each in settled if not is_const(each)]
        if self.device_depth:
            self.fail("E320", "a rule cannot run under a condition on tensors", stmt.span)
        return run

    def _inner(self, stmt: ast.Step) -> RuleRef:
        ref = self.frame.rule.inner.get(stmt.name)
        if not isinstance(ref, RuleRef):
            kind, mend = "rule", f"`use {stmt.name}(...)` runs another rule in this place"
            if isinstance(self.frame.item, ast.Wrapper):
                kind, mend = "wrapper", "an inner rule is a parameter without a default, put first"
            message = f"`{stmt.name}` is not an inner rule of this {kind}"
            self.fail("E207", message, stmt.name_span, help=mend)
        return ref

    def _prefix(self, stmt: ast.Step | ast.Use, ref: RuleRef) -> str:
        """What stands before the keys of the rule's states: of several inner rules, its name, or
        where two of them are the same rule, what the wrapper calls it."""
        inner = [each for each in self.frame.rule.inner.values() if isinstance(each, RuleRef)]
        if isinstance(stmt, ast.Use) or len(inner) == 1:
            return self.frame.rule.prefix
        names = [self._expanded(each).item.name for each in inner]
        name = ref.item.name
        return f"{stmt.name if names.count(name) > 1 else name}."

    fixed: bool = False
    """Whether hyperparameters that nothing binds are fixed at their defaults."""

    def run_ref(
        self,
        ref: RuleRef,
        fixed: bool,
        call: Span | None,
        prefix: str,
        way: Key,
        run: Value | None,
    ) -> None:
        """Run a rule here, with what the reference binds."""
        ref = self._expanded(ref)
        bound = dict(ref.args)
        inner: dict[str, Binding] = {n: b for n, b in bound.items() if isinstance(b, RuleRef)}
        defaults = {n: b for n, b in bound.items() if n not in inner and _literal(b)}
        given = {n: b for n, b in bound.items() if n not in inner and n not in defaults}
        number, depth = self.number("rule"), len(self.path)
        rule = RuleFrame(number, ref.item, inner, prefix, way, run, depth)
        frame = Frame(self.number("frame"), "rule", ref.scope, rule, ref.item, call)
        gradient = self.store[self.frame.rule.gradient]
        with self.entered(frame):
            before, self.fixed = self.fixed, fixed
            self.store[rule.gradient] = gradient
            try:
                self._run_item(ref.item, given | dict(ref.given), fixed, defaults)
            finally:
                self.fixed = before
        for key in [k for k in self.store if k[0] == "local" and k[1] == frame.number]:
            del self.store[key]
        self.store.pop(rule.gradient, None)

    def _run_item(
        self, item: ast.Item, given: dict[str, Binding], fixed: bool, defaults: dict[str, Binding]
    ) -> None:
        assert isinstance(item, RuleItem)
        self._check_parameters(item)
        self.declare_hypers(item, item.parameters or (), given, fixed, defaults)
        if isinstance(item, ast.Alias):
            call = item.name_span if self.frame.call else None
            ref = self.rule_ref(item.value)
            rule = self.frame.rule
            fixed = fixed or item.parameters is not None
            self.run_ref(ref, fixed, call, rule.prefix, rule.way, rule.run)
        else:
            self.run_all(item.body)

    def _check_parameters(self, item: RuleItem) -> None:
        """The inner rules of a wrapper are all given."""
        inner = inner_parameters(item)
        missing = [p.name for p in inner if p.name not in self.frame.rule.inner]
        if missing:
            self.fail(
                "E414",
                f"`{item.name}` wraps a rule: give it `{missing[0]}`",
                self.frame.call or item.name_span,
                help=f"write optimizer NAME = {item.name}(AdamW)",
            )

    # ------------------------------------------------------------ the whole rule

    def lower(self, item: RuleItem, scope: FileScope) -> Rule | None:
        """The typed rule of `item`, None where it has errors."""
        rule = RuleFrame(self.number("rule"), item, {})
        frame = Frame(self.number("frame"), "rule", scope, rule, item)
        self.frames = [frame]
        view = self._view(item, scope)
        if view is None:
            return None
        self.emit.view = view
        param = self.builder.make("param", (), self.emit.param_type)
        grad = self.builder.make("grad", (), self.emit.param_type)
        param.name, grad.name = "p", "g"
        self.store[P], self.store[rule.gradient] = param, grad
        if isinstance(item, ast.Wrapper):
            stand_in = ast.Optimizer(
                item.span, STAND_IN, item.name_span, (), _plain_descent(item.span)
            )
            for parameter in inner_parameters(item):
                rule.inner[parameter.name] = RuleRef(stand_in, scope, (), item.name_span)
        try:
            self._run_item(item, {}, False, {})
        except (Reported, GivenUp):
            return None
        if self.sink.has_errors:
            return None
        rule_made = self._rule(item, scope, param)
        if rule_made is not None:
            self.check_host_states(rule_made)
        return None if self.sink.has_errors else rule_made

    def _rule(self, item: RuleItem, scope: FileScope, param: Value) -> Rule | None:
        final = self.store[P]
        changed = {
            name: self.store[("state", name)]
            for name in self.states
            if self.store.get(("state", name)) is not None
            and self.store[("state", name)] is not self.state_value(name)
        }
        on_host = {name: state for name, state in self.states.items() if not state.type.on_device}
        updates = {name: value for name, value in changed.items() if name not in on_host}
        evaluated = None
        for path, value in self.evaluations:
            evaluated = self._where_reached(path, value, evaluated or final)
        roots = [final, *updates.values(), *self.reports.values()]
        rule = Rule(
            name=item.name,
            doc=_docstring(item),
            source=scope.module.span.source,
            builder=self.builder,
            hypers=tuple(sorted(self.hypers.values(), key=lambda each: each.name != "lr")),
            attributes=tuple(self.attributes.values()),
            inputs=tuple(self.inputs.values()),
            states=tuple(s for s in self.states.values() if s.type.on_device),
            requirements=tuple(self.requirements),
            view=self.emit.view,
            param=None if final is param else final,
            updates=updates,
            dims=dict(self.emit.dims),
            evaluated=evaluated,
            reports=dict(self.reports),
            reads_gradient=any(value.op == "grad" for value in reachable(roots)),
            static_conditions=tuple(self.static_conditions),
            host_states=tuple(on_host.values()),
            host_updates={name: value for name, value in changed.items() if name in on_host},
        )
        return rule if self._can_evaluate(rule, item) else None

    def _can_evaluate(self, rule: Rule, item: RuleItem) -> bool:
        """Whether the value of `eval` can be had after the step; reports it if not."""
        try:
            evaluation_of(rule)
        except GoneError as error:
            gone, value = error.value, rule.evaluated
            said = (Label(gone.span, "this is there during the step alone"),) if gone.span else ()
            self.report(
                "E418",
                "the value for evaluation cannot be had from p and the states",
                (value.span if value is not None else None) or item.name_span,
                "",
                *said,
                help="keep what it needs in a state, and let `eval` come last",
            )
            return False
        return True

    def _where_reached(self, path: Scope, value: Value, otherwise: Value) -> Value:
        for condition, side in reversed(path):
            sides = (value, otherwise) if side else (otherwise, value)
            value = self.emit.choose(condition, *sides, self.frame.item.name_span)
        return value

    def _view(self, item: ast.Item, scope: FileScope) -> str | None:
        """The one `view` of a rule and the rules inside it: they share p, and with it its view."""
        found = _views(item, scope, set())
        kinds = {view.kind for view in found}
        if len(kinds) > 1:
            other = next(view for view in found if view.kind != found[0].kind)
            self.report(
                "E415",
                "rules with different views of p cannot run together",
                found[0].span,
                "",
                Label(other.span, "the other view"),
            )
            return None
        return found[0].kind if found else "rows"


def _literal(bound: Binding) -> bool:
    if isinstance(bound, tuple):
        return all(_literal(each) for each in bound)
    return isinstance(bound, Value) and is_const(bound)


def _docstring(item: ast.Item) -> str:
    body = getattr(item, "body", ())
    return body[0].text if body and isinstance(body[0], ast.Doc) else ""


def _plain_descent(span: Span) -> tuple[ast.Stmt, ...]:
    return (ast.Assign(span, (ast.Name(span, "p"),), "-=", ast.Name(span, "g")),)


def _views(item: ast.Item, scope: FileScope, seen: set[str]) -> list[ast.View]:
    if item.name in seen:
        return []
    seen.add(item.name)
    views: list[ast.View] = []
    names: list[str] = []
    if isinstance(item, ast.Alias):
        names = _rule_names(item.value)
    else:
        for stmt in _all_statements(getattr(item, "body", ())):
            if isinstance(stmt, ast.View):
                views.append(stmt)
            elif isinstance(stmt, ast.Use):
                names.append(stmt.name)
    for name in names:
        found = scope.find(name)
        if found is not None:
            views.extend(_views(found[0], found[1], seen))
    return views


def _rule_names(expr: ast.Expr) -> list[str]:
    if isinstance(expr, ast.Name):
        return [expr.name]
    if isinstance(expr, ast.Call):
        return [expr.function, *(n for arg in expr.args for n in _rule_names(arg.value))]
    return []


def _all_statements(body: tuple[ast.Stmt, ...]) -> list[ast.Stmt]:
    found: list[ast.Stmt] = []
    for stmt in body:
        found.append(stmt)
        for field in ("body", "orelse", "otherwise"):
            found.extend(_all_statements(getattr(stmt, field, ())))
        for arm in getattr(stmt, "arms", ()):
            found.extend(_all_statements(arm.body))
    return found


def lower_rule(name: str, scope: FileScope, sink: Sink) -> Rule | None:
    """The typed rule `name` of a file. Errors go to `sink`; KeyError where there is none."""
    item = scope.own[name]
    assert isinstance(item, ast.Optimizer | ast.Wrapper | ast.Alias)
    own = Sink()
    rule = Rules(own).lower(item, scope)
    if rule is not None:
        lint(rule, item.name_span, own)
    for diagnostic in own.diagnostics:
        sink.add(diagnostic)
    return rule


def rule_names(scope: FileScope) -> list[str]:
    """The rules of the file that become classes: optimizers and aliases, not wrappers."""
    return [i.name for i in scope.own.values() if isinstance(i, ast.Optimizer | ast.Alias)]
