"""References to rules: `AdamW`, `Lookahead(AdamW, k = 10)`, and what they bind.

Input: the expression of an alias, the name in `use`. Output: a `RuleRef`. Relies on: statements.
Does not do: run a rule (rules.py).
"""

from __future__ import annotations

from dataclasses import replace

from optdsl.diagnostics import did_you_mean
from optdsl.frontend.bindings import Binding, RuleRef
from optdsl.frontend.core import Frame
from optdsl.frontend.statements import Statements
from optdsl.source import Span
from optdsl.syntax import ast

RuleItem = ast.Optimizer | ast.Wrapper | ast.Alias
LATER_HYPERS = frozenset({"storage"})
"""What every rule will take in a later version."""
STAND_IN = "optdsl stand-in"
"""The inner rule that a wrapper is checked with when nothing uses it: p -= g."""


class References(Statements):
    def rule_ref(self, expr: ast.Expr) -> RuleRef:
        """`AdamW`, `Lookahead(AdamW, k = 10)`: a rule with what the expression binds."""
        if isinstance(expr, ast.Name):
            return self._named_rule(expr.name, expr.span)
        if not isinstance(expr, ast.Call):
            self.fail("E206", "a rule is wanted here, e.g. Lookahead(AdamW)", expr.span)
        ref = self._named_rule(expr.function, expr.function_span)
        inner = [p.name for p in inner_parameters(ref.item)]
        position, seen = 0, set()
        for arg in expr.args:
            name = arg.name
            if name is None:
                if position >= len(inner):
                    self.fail(
                        "E209",
                        f"`{ref.item.name}` wraps {len(inner)} rules",
                        arg.span,
                        help="hyperparameters are given by name",
                    )
                name, position = inner[position], position + 1
            if name in seen:
                self.fail("E208", f"`{name}` is given twice", arg.span)
            seen.add(name)
            if name in inner:
                ref = replace(ref, args=(*ref.args, (name, self.rule_ref(arg.value))))
            else:
                ref = self._bound(ref, name, self.evaluate(arg.value), arg.span, final=False)
        return replace(ref, span=expr.span)

    def _named_rule(self, name: str, span: Span) -> RuleRef:
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
        return RuleRef(item, scope, (), span)

    def _bound(
        self, ref: RuleRef, name: str, bound: Binding, span: Span, *, final: bool
    ) -> RuleRef:
        """`ref` with a hyperparameter bound: of the rule itself, or of the one inner rule that has
        it. A literal that is not `final` sets a default."""
        ref = self._expanded(ref)
        if ref.item.name == STAND_IN:
            return ref
        if name in hyper_names(ref.item):
            if final:
                return replace(ref, given=(*ref.given, (name, bound)))
            return replace(ref, args=(*ref.args, (name, bound)))
        inner = [(n, each) for n, each in ref.args if isinstance(each, RuleRef)]
        owners = [(n, each) for n, each in inner if name in self._all_names(each)]
        if len(owners) == 1:
            owner, each = owners[0]
            changed = (owner, self._bound(each, name, bound, span, final=final))
            return replace(ref, args=tuple(changed if a[0] == owner else a for a in ref.args))
        if owners:
            both = " and ".join(f"`{each.item.name}`" for _, each in owners)
            self.fail(
                "E208",
                f"{both} both have a hyperparameter `{name}`",
                span,
                help=f"give it to one of them: {owners[0][1].item.name}({name} = ...)",
            )
        if name in LATER_HYPERS:
            self.fail("E501", f"`{name}` is not in this version", span)
        names = sorted(self._all_names(ref))
        meant = did_you_mean(name, names)
        self.fail(
            "E208",
            f"`{ref.item.name}` has no hyperparameter `{name}`",
            span,
            help=f"did you mean `{meant}`?" if meant else f"it has {', '.join(names) or 'none'}",
        )

    def _all_names(self, ref: RuleRef) -> set[str]:
        """The hyperparameters that a rule takes, with those of its inner rules."""
        ref = self._expanded(ref)
        names = set(hyper_names(ref.item))
        for _, each in ref.args:
            if isinstance(each, RuleRef):
                names |= self._all_names(each)
        return names

    def _expanded(self, ref: RuleRef) -> RuleRef:
        """An alias without parameters of its own is what it stands for."""
        if not isinstance(ref.item, ast.Alias) or ref.item.parameters is not None:
            return ref
        frame = Frame(self.number("frame"), "rule", ref.scope, self.frame.rule, ref.item, ref.span)
        with self.entered(frame):
            meant = self._expanded(self.rule_ref(ref.item.value))
        for name, bound in ref.args:
            meant = self._bound(meant, name, bound, ref.span, final=False)
        for name, bound in ref.given:
            meant = self._bound(meant, name, bound, ref.span, final=True)
        return meant


def inner_parameters(item: ast.Item) -> tuple[ast.Parameter, ...]:
    """The rules that a wrapper takes: its parameters without a default."""
    if not isinstance(item, ast.Wrapper):
        return ()
    return tuple(p for p in item.parameters if p.default is None)


def hyper_names(item: ast.Item) -> list[str]:
    """The hyperparameters that a rule's own signature has."""
    parameters: tuple[ast.Parameter, ...] = getattr(item, "parameters", None) or ()
    return [p.name for p in parameters if p not in inner_parameters(item)]
