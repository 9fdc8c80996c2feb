"""Rules: hyperparameters, `step`, `use`, wrappers and aliases; from an item to a typed rule.

Input: the name of a rule in a scope. Output: `ir.nodes.Rule`, or None with the errors in the sink.
Relies on: statements. Does not do: any simplification; the result says what the file says.
"""

from __future__ import annotations

from typing import Any

from optdsl.diagnostics import Label, Sink, did_you_mean
from optdsl.frontend.bindings import Binding, Reported, RuleRef
from optdsl.frontend.core import Frame, P, RuleFrame
from optdsl.frontend.scope import Scope as FileScope
from optdsl.frontend.statements import Statements
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import Hyper, Rule, Value, reachable
from optdsl.source import Span
from optdsl.syntax import ast
from optdsl.types import DType, Instances, Place

RuleItem = ast.Optimizer | ast.Wrapper | ast.Alias
STAND_IN = "optdsl stand-in"
"""The inner rule that a wrapper is checked with when nothing uses it: p -= g."""


class Rules(Statements):
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
            if parameter.default is None:
                continue
            try:
                bound = self._hyper(item, parameter, given, fixed, defaults)
            except Reported:
                continue
            self.store[self.frame.local(parameter.name)] = bound

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
        assert parameter.default is not None
        default = defaults.get(name) or self.evaluate(parameter.default)
        plain = self._plain(default, parameter.default.span)
        if fixed:
            return default
        known = self.hypers.get(name)
        if known is not None:
            assert known.span is not None
            owner = self.hyper_owner[name]
            self.fail(
                "E410",
                f"`{owner}` and `{item.name}` both have a hyperparameter `{name}`",
                self.frames[0].rule.item.name_span,
                "in this rule",
                Label(known.span, "one"),
                Label(parameter.span, "the other"),
                help=f"rename one: optimizer NAME(inner_{name} = ...) = "
                f"...({item.name}({name} = inner_{name}))",
            )
        self.hypers[name] = Hyper(name, plain, parameter.span)
        self.hyper_owner[name] = item.name
        return self._hyper_value(name, plain, ())

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

    # ------------------------------------------------------------ references to rules

    def rule_ref(self, expr: ast.Expr) -> RuleRef:
        """`AdamW`, `Lookahead(AdamW, k = 10)`: a rule with what the expression binds."""
        if isinstance(expr, ast.Name):
            return RuleRef(self._rule_item(expr.name, expr.span)[0], (), expr.span)
        if not isinstance(expr, ast.Call):
            self.fail("E206", "a rule is wanted here, e.g. Lookahead(AdamW)", expr.span)
        item, _ = self._rule_item(expr.function, expr.function_span)
        inner = [p.name for p in inner_parameters(item)]
        args: list[tuple[str, Binding]] = []
        position = 0
        for arg in expr.args:
            name = arg.name
            if name is None:
                if position >= len(inner):
                    self.fail(
                        "E209",
                        f"`{item.name}` wraps {len(inner)} rules",
                        arg.span,
                        help="hyperparameters are given by name",
                    )
                name, position = inner[position], position + 1
            args.append(
                (name, self.rule_ref(arg.value) if name in inner else self.evaluate(arg.value))
            )
        self._check_names(
            item, [(name, arg.span) for (name, _), arg in zip(args, expr.args, strict=True)]
        )
        return RuleRef(item, tuple(args), expr.span)

    def _rule_item(self, name: str, span: Span) -> tuple[RuleItem, FileScope]:
        found = self.frame.scope.find(name)
        if found is None:
            meant = did_you_mean(name, self.frame.scope.names())
            self.fail(
                "E207",
                f"there is no rule `{name}`",
                span,
                "unknown rule",
                help=f"did you mean `{meant}`?" if meant else "`optdsl zoo` lists what ships",
            )
        item, scope = found
        if not isinstance(item, ast.Optimizer | ast.Wrapper | ast.Alias):
            self.fail("E206", f"`{name}` is a function, not a rule", span)
        return item, scope

    def _check_names(self, item: RuleItem, given: list[tuple[str, Span]]) -> None:
        if item.name == STAND_IN or (isinstance(item, ast.Alias) and item.parameters is None):
            return  # an alias takes what its parts take; they check it
        names = [p.name for p in item.parameters or ()]
        seen: set[str] = set()
        for name, span in given:
            if name not in names:
                meant = did_you_mean(name, names)
                self.fail(
                    "E208",
                    f"`{item.name}` has no hyperparameter `{name}`",
                    span,
                    help=f"did you mean `{meant}`?" if meant else f"it has {', '.join(names)}",
                )
            if name in seen:
                self.fail("E208", f"`{name}` is given twice", span)
            seen.add(name)

    # ------------------------------------------------------------ running rules

    def run_rule(self, stmt: ast.Step | ast.Use) -> None:
        if self.frame.kind != "rule":
            self.fail("E231", "only a rule runs another", stmt.span)
        if self.loop_depth:
            self.fail("E401", "a rule cannot run in a loop", stmt.span)
        for condition, _ in self.path:
            if condition.type.place is not Place.STATIC:
                self.fail(
                    "E411",
                    "a rule that runs on some steps only is not in this version",
                    stmt.span,
                    help="it would need a `t` of its own; use `when`, or a condition on sizes and "
                    "options",
                )
        if self.device_depth:
            self.fail("E320", "a rule cannot run under a condition on tensors", stmt.span)
        given = {arg.name: self.evaluate(arg.value) for arg in stmt.args if arg.name is not None}
        if len(given) != len(stmt.args):
            self.fail("E209", "hyperparameters are given by name, once each", stmt.span)
        if isinstance(stmt, ast.Step):
            ref = self.frame.rule.inner.get(stmt.name)
            if not isinstance(ref, RuleRef):
                self.fail(
                    "E207",
                    f"`{stmt.name}` is not an inner rule of this wrapper",
                    stmt.name_span,
                    help="an inner rule is a parameter without a default, first in the list",
                )
        else:
            ref = RuleRef(self._rule_item(stmt.name, stmt.name_span)[0], (), stmt.name_span)
        item = ref.item
        assert isinstance(item, ast.Optimizer | ast.Wrapper | ast.Alias)
        self._check_names(item, [(arg.name or "", arg.span) for arg in stmt.args])
        self.run_ref(ref, given, fixed=isinstance(stmt, ast.Use) or self.fixed, call=stmt.span)

    fixed: bool = False
    """Whether hyperparameters that nothing binds are fixed at their defaults."""

    def run_ref(
        self, ref: RuleRef, given: dict[str, Binding], fixed: bool, call: Span | None
    ) -> None:
        """Run a rule here. `given` binds hyperparameters; so do the reference's own arguments, of
        which literals only set a default."""
        item = ref.item
        scope = self._scope_of(item)
        bound = dict(ref.args)
        inner = {name: each for name, each in bound.items() if isinstance(each, RuleRef)}
        defaults = {n: b for n, b in bound.items() if n not in inner and _literal(b)}
        expressions = {n: b for n, b in bound.items() if n not in inner and n not in defaults}
        rule = RuleFrame(self.number("rule"), item, dict(inner))
        frame = Frame(self.number("frame"), "rule", scope, rule, call, item.name)
        gradient = self.store[self.frame.rule.gradient]
        with self.entered(frame):
            before, self.fixed = self.fixed, fixed
            self.store[rule.gradient] = gradient
            self._run_item(item, {**expressions, **given}, fixed, defaults)
            self.fixed = before
        for key in [k for k in self.store if k[0] == "local" and k[1] == frame.number]:
            del self.store[key]
        self.store.pop(rule.gradient, None)

    def _scope_of(self, item: ast.Item) -> FileScope:
        if item.name == STAND_IN:
            return self.frame.scope
        found = self.frame.scope.find(item.name)
        if found is not None and found[0] is item:
            return found[1]
        for frame in reversed(self.frames):
            found = frame.scope.find(item.name)
            if found is not None and found[0] is item:
                return found[1]
        return self.frame.scope

    def _run_item(
        self, item: ast.Item, given: dict[str, Binding], fixed: bool, defaults: dict[str, Binding]
    ) -> None:
        if isinstance(item, ast.Alias):
            parameters = item.parameters or ()
            names = {p.name for p in parameters}
            own = {n: b for n, b in given.items() if n in names}
            self.declare_hypers(
                item, parameters, own, fixed, {n: b for n, b in defaults.items() if n in names}
            )
            ref = self.rule_ref(item.value)
            rest = {n: b for n, b in given.items() if n not in names}
            merged = dict(ref.args) | {n: b for n, b in defaults.items() if n not in names}
            self.run_ref(
                RuleRef(ref.item, tuple(merged.items()), ref.span),
                rest,
                fixed or item.parameters is not None,
                item.name_span if self.frame.call else None,
            )
            return
        assert isinstance(item, ast.Optimizer | ast.Wrapper)
        missing = [p.name for p in inner_parameters(item) if p.name not in self.frame.rule.inner]
        if missing:
            self.fail(
                "E414",
                f"`{item.name}` wraps a rule: give it `{missing[0]}`",
                self.frame.call or item.name_span,
                help=f"write optimizer NAME = {item.name}(AdamW)",
            )
        self.declare_hypers(item, item.parameters, given, fixed, defaults)
        self.run_body(item.body, item.span)

    # ------------------------------------------------------------ the whole rule

    def lower(self, item: RuleItem, scope: FileScope) -> Rule | None:
        """The typed rule of `item`, None where it has errors."""
        rule = RuleFrame(self.number("rule"), item, {})
        frame = Frame(self.number("frame"), "rule", scope, rule, None, item.name)
        self.frames = [frame]
        self.emit.view = self._view(item, scope)
        param = self.builder.make("param", (), self.emit.param_type)
        grad = self.builder.make("grad", (), self.emit.param_type)
        param.name, grad.name = "p", "g"
        self.store[P], self.store[rule.gradient] = param, grad
        if isinstance(item, ast.Wrapper):
            stand_in = ast.Optimizer(
                item.span, STAND_IN, item.name_span, (), _plain_descent(item.span)
            )
            for parameter in inner_parameters(item):
                rule.inner[parameter.name] = RuleRef(stand_in, (), item.name_span)
        try:
            self._run_item(item, {}, False, {})
        except Reported:
            return None
        if self.sink.has_errors:
            return None
        return self._rule(item, scope, param)

    def _rule(self, item: RuleItem, scope: FileScope, param: Value) -> Rule:
        final = self.store[P]
        updates = {
            name: self.store[("state", name)]
            for name in self.states
            if self.store.get(("state", name)) is not None
            and self.store[("state", name)] is not self.state_value(name)
        }
        roots = [final, *updates.values(), *self.reports.values()]
        return Rule(
            name=item.name,
            doc=_docstring(item),
            source=scope.module.span.source,
            builder=self.builder,
            hypers=tuple(sorted(self.hypers.values(), key=lambda each: each.name != "lr")),
            attributes=tuple(self.attributes.values()),
            inputs=tuple(self.inputs.values()),
            states=tuple(self.states.values()),
            requirements=tuple(self.requirements),
            view=self.emit.view,
            param=None if final is param else final,
            updates=updates,
            dims=dict(self.emit.dims),
            evaluated=self.evaluated,
            reports=dict(self.reports),
            reads_gradient=any(value.op == "grad" for value in reachable(roots)),
            static_conditions=tuple(self.static_conditions),
        )

    def _view(self, item: ast.Item, scope: FileScope) -> str:
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
        return found[0].kind if found else "rows"


def inner_parameters(item: ast.Item) -> tuple[ast.Parameter, ...]:
    """The rules that a wrapper takes: its parameters without a default."""
    if not isinstance(item, ast.Wrapper):
        return ()
    return tuple(p for p in item.parameters if p.default is None)


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
    for diagnostic in own.diagnostics:
        sink.add(diagnostic)
    return rule


def rule_names(scope: FileScope) -> list[str]:
    """The rules of the file that become classes: optimizers and aliases, not wrappers."""
    return [i.name for i in scope.own.values() if isinstance(i, ast.Optimizer | ast.Alias)]
