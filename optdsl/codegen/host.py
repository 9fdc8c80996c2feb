"""What the host does in a step, as Python functions of a generated module.

Input: a plan. Output: the texts of `decide`, `check`, `fill`, `dims` and of scalar rows, and what
they read of a parameter. In them `h` is a parameter group and `e` what is known of a parameter
besides (see runtime/parameters/cohorts.py).

Relies on: script.py, hostmath (IEEE double: no exceptions). Does not do: call them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from optdsl.codegen.body import bare, place_of
from optdsl.codegen.literals import LINE_LENGTH, dict_of, layout, literal, tuple_of
from optdsl.codegen.script import Script, Text
from optdsl.diagnostics import CompileError, Diagnostic, InternalError, Label
from optdsl.frontend.shapes import is_settled
from optdsl.ir.nodes import StateDecl, Value, reachable
from optdsl.ops import OPS
from optdsl.schedule.plan import Decision, Plan, Variant

FUNCTIONS = frozenset(name for op in OPS.values() for name in re.findall(r"(\w+)\(", op.host)) | {
    "inf",
    "nan",
    "require",
    "whole",
}
"""Names that host functions use; no variable has one."""


@dataclass
class Host:
    """Writes the host functions of one plan.

    `reads` says what they read of `e`, once all are written; `scalars` names the function of each
    variant's scalar row: equal ones are written once.
    """

    plan: Plan
    reads: set[str] = field(default_factory=set)
    scalars: dict[int, str] = field(default_factory=dict)

    def texts(self) -> list[str]:
        """All functions, in the order in which a reader wants them."""
        bodies: dict[str, list[int]] = {}
        for variant in self.plan.variants:
            bodies.setdefault(self._scalars(variant), []).append(variant.index)
        tables = []
        for body, indices in bodies.items():
            name = f"scalars_{indices[0]}"
            self.scalars |= dict.fromkeys(indices, name)
            which = f"variant{'s' * (len(indices) > 1)} {', '.join(map(str, indices))}"
            tables.append(_function(f"{name}(h, e)", f"The scalar row of {which}.", body))
        belongs = [self.belongs()] if rivals(self.plan) else []
        keeps = [self.advance()] if self.plan.rule.host_states else []
        return [self.check(), self.decide(), *tables, self.fill(), *keeps, *belongs, self.dims()]

    # ---------------------------------------------------------------- functions

    def check(self) -> str:
        rule, script = self.plan.rule, self._script(_hyper_name, "h")
        for each in rule.requirements:
            (condition,) = script.write([each.condition])
            given = {}
            for value in reachable([each.condition]):
                if value.op == "hyper":
                    name, part = value.attr("name"), value.attr("index")
                    given[name] = f"{name}={f'h[{literal(name)}]' if part else script.text(value)}"
            said = literal(f"{rule.name} requires {each.text}")
            self._require(script, [bare(condition), said, *given.values()], each.condition)
        doc = "Raises ValueError where the rule refuses its hyperparameters."
        return _function("check(h)", doc, "\n".join(script.lines or ["    return"]))

    @staticmethod
    def _require(script: Script, arguments: list[str], condition: Value) -> None:
        line = f"require({', '.join(arguments)})"
        if len(line) + len(place_of(condition)) <= LINE_LENGTH - 8:
            script.add(line, condition)
            return
        script.add("require(", condition)
        for each in arguments:
            script.add(f"    {each},")
        script.add(")")

    def decide(self) -> str:
        script = self._script(_no_name, "h", "e")
        self._branch(script, self.plan.decision)
        doc = "Which variant of the rule runs for a parameter in this step."
        return _function("decide(h, e)", doc, "\n".join(script.lines))

    def _branch(self, script: Script, decision: Decision | int) -> None:
        if isinstance(decision, int):
            script.add(f"return {decision}")
            return
        (condition,) = script.write([decision.condition])
        script.add(f"if {bare(condition)}:", decision.condition)
        with script.deeper():
            self._branch(script, decision.then)
        self._branch(script, decision.otherwise)

    def _scalars(self, variant: Variant) -> str:
        """The lines that give one number per entry of the variant's scalar table."""
        script = self._script(_hyper_name, "h", "e")
        texts = script.write(variant.scalars)
        if not variant.scalars:
            script.add("return ()")
            return "\n".join(script.lines)
        script.add("return (")
        for index, (value, text) in enumerate(zip(variant.scalars, texts, strict=True)):
            script.add(f"    {bare(text)},  # {f'{index}: {place_of(value)}'.rstrip(': ')}")
        script.add(")")
        return "\n".join(script.lines)

    def inputs(self, name: str, scalars: str, columns: list[Value]) -> str:
        """The function that gives what the prologue of `scalars` reads; the sign comes first."""
        script = self._script(_no_name, "h", "e")
        texts = ["e.g_scale", *(bare(script.text(each)) for each in columns)]
        line = f"    return {layout(tuple_of(texts), 11, script.indent)}"
        doc = f"What `{scalars}` reads where a device works it out, besides t and steps."
        return _function(f"{name}(h, e)", doc, line)

    def fill(self) -> str:
        script = self._script(_no_name, "name", "h", "e")
        for state in (*self.plan.rule.states, *self.plan.rule.host_states):
            if state.initial is None or _is_zero(state.initial):
                continue
            script.add(f"if name == {literal(state.name)}:")
            with script.deeper():
                (text,) = script.write([state.initial])
                script.add(f"return {bare(text)}", state.initial)
        script.add("return 0.0")
        doc = "What the state `name` is filled with at first."
        return _function("fill(name, h, e)", doc, "\n".join(script.lines))

    def advance(self) -> str:
        rule, script = self.plan.rule, self._script(_hyper_name, "h", "e")
        texts = script.write(rule.host_updates.values())
        keys = [literal(rule.state(name).key) for name in rule.host_updates]
        _return(script, zip(keys, map(bare, texts), strict=True))
        doc = "What a group's states on the host are after this step."
        return _function("advance(h, e)", doc, "\n".join(script.lines))

    def belongs(self) -> str:
        """Which of these states a parameter can have: where they are declared are conditions that
        are settled when it is added, and that of several with one key one at most meets."""
        script = self._script(_no_name, "name", "h", "e")
        for state in rivals(self.plan):
            settled = [each for each in state.scope if is_settled(each[0])]
            script.add(f"if name == {literal(state.name)}:")
            with script.deeper():
                texts = script.write([condition for condition, _ in settled])
                sides = [side for _, side in settled]
                parts = [
                    text if side else f"not {text}" for text, side in zip(texts, sides, strict=True)
                ]
                whole = bare(" and ".join(parts))
                if script.fits(f"return {whole}"):
                    script.add(f"return {whole}", settled[-1][0])
                    continue
                script.add("return (", settled[-1][0])
                rows = [parts[0], *(f"and {part}" for part in parts[1:])]
                for row in [whole] if script.fits(f"    {whole}") else rows:
                    script.add(f"    {row}")
                script.add(")")
        script.add("return True")
        doc = "Whether a parameter can have the state `name`, which others may not have."
        return _function("belongs(name, h, e)", doc, "\n".join(script.lines))

    def dims(self) -> str:
        script = self._script(_hyper_name, "h", "e")
        dims = self.plan.rule.dims
        texts = script.write(dims.values())
        _return(
            script, ((literal(e), f"whole({text})") for e, text in zip(dims, texts, strict=True))
        )
        return _function("dims(h, e)", "Sizes that the rule names.", "\n".join(script.lines))

    # ---------------------------------------------------------------- leaves

    def _script(self, called: Callable[[Value], str | None], *parameters: str) -> Script:
        return Script(self._spell, lambda value: "host", {*parameters, *FUNCTIONS}, called)

    def _spell(self, value: Value, text: Text) -> str | None:
        match value.op:
            case "const":
                return literal(value.attr("value"))
            case "hyper":
                index = "".join(f"[{each}]" for each in value.attr("index"))
                return f"h[{literal(value.attr('name'))}]{index}"
            case "host_state":
                return f"h[{literal(self.plan.rule.state(value.attr('name')).key)}]"
            case "input":
                return f"h[{literal('input ' + value.attr('name'))}]"
            case "attribute":
                return f"{self._read('attributes')}[{literal(value.attr('name'))}]"
            case "t" | "steps" | "evaluating":
                return self._read(value.op)
            case "g_scale":
                return "e.g_scale"
            case "size":
                return self._read(value.attr("name"))
            case "lead_size":
                return f"{self._read('axes')}[{literal(value.attr('name'))}]"
            case "first":
                return f"{self._read('first')}({literal(value.attr('name'))})"
            case "name_matches":
                self.reads.add("name")
                return f"e.matches({literal(value.attr('pattern'))})"
            case "rand" | "randn" | "exponential":
                site, at = value.attr("site"), bare(text(value.args[0]))
                kind, over = literal(value.op), literal(value.attr("over"))
                return f"{self._read('draw')}({kind}, {site}, {at}, {over})"
            case "choose":
                condition, then, otherwise = (text(arg) for arg in value.args)
                return f"({then} if {condition} else {otherwise})"
        if not OPS[value.op].host and value.op not in ("loop", "loop_arg"):
            raise unsupported(value, self.plan.rule.name)
        return None

    def _read(self, name: str) -> str:
        self.reads.add(name)
        return f"e.{name}"


def _hyper_name(value: Value) -> str | None:
    """Hyperparameters get lines: expressions over them then read as in the rule."""
    if value.op != "hyper":
        return None
    return "_".join([value.attr("name"), *(str(each) for each in value.attr("index"))])


def _no_name(value: Value) -> None:
    return None


def _is_zero(value: Value) -> bool:
    return value.op == "const" and value.attr("value") == 0


def rivals(plan: Plan) -> list[StateDecl]:
    """The states whose key another state has, too, and those of axes that not all tensors have."""
    keys = Counter(state.key for state in plan.rule.states)
    scopes = {state.name: state.scope for state in plan.rule.states}
    return [
        state
        for state in plan.rule.states
        if keys[state.key] > 1 or state.scope != scopes[state.birth]
    ]


def unsupported(value: Value, rule: str) -> Exception:
    """The error for a value that generated code cannot hold yet."""
    what = value.op.replace("_", " ")
    span = next((each.span for each in reachable([value]) if each.span is not None), None)
    if span is None:
        return InternalError("codegen", f"{rule}: {what} without a place in the source")
    message = f"`{what}` is not supported yet by the targets cpu and triton"
    return CompileError([Diagnostic("E503", message, (Label(span),))])


def _return(script: Script, pairs: Iterable[tuple[str, str]]) -> None:
    script.add(f"return {layout(dict_of(pairs), 11, script.indent)}")


def _function(signature: str, doc: str, body: str) -> str:
    return f'def {signature}:\n    """{doc}"""\n{body}'
