"""Markdown for the shipped rules: an overview, and a page each.

Input: names of shipped rules. Output: Markdown. What the page says of a rule is worked out of its
file: the text, the formulas (latex), hyperparameters and what they may be, passes and bytes
(explain). Relies on: compiler, explain, latex. Does not do: pictures, files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from optdsl.compiler import compile_rule
from optdsl.diagnostics import CompileError, Sink
from optdsl.explain import Report, explain_plan
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import Scope, shipped, shipped_index
from optdsl.ir.nodes import Rule
from optdsl.latex import formula
from optdsl.syntax import ast

Item = ast.Optimizer | ast.Wrapper | ast.Alias


@dataclass(frozen=True)
class Shipped:
    """A shipped rule. `rule` and `report` are None for a wrapper, which is a rule only around
    another; `report` also where no target runs the rule yet, and `reason` says why. What takes
    compiling is worked out where it is asked for."""

    name: str
    item: Item
    scope: Scope = field(repr=False)

    @cached_property
    def file(self) -> str:
        return shipped_index()[self.name].name

    @cached_property
    def rule(self) -> Rule | None:
        if isinstance(self.item, ast.Wrapper):
            return None
        return lower_rule(self.name, self.scope, Sink())

    @property
    def report(self) -> Report | None:
        return self._compiled[0]

    @property
    def reason(self) -> str:
        return self._compiled[1]

    @cached_property
    def _compiled(self) -> tuple[Report | None, str]:
        if self.rule is None:
            return None, ""
        try:
            return explain_plan(compile_rule(self.scope, self.name).plan), ""
        except CompileError as error:
            return None, error.diagnostics[0].message

    @property
    def kind(self) -> str:
        return {ast.Wrapper: "wrapper", ast.Alias: "alias"}.get(type(self.item), "rule")

    @property
    def inputs(self) -> list[str]:
        """What a step is given besides gradients."""
        if self.rule is not None:
            return [each.name for each in self.rule.inputs]
        return [each.name for each in _declared(self.item)]

    @property
    def doc(self) -> str:
        """The docstring; of an alias the text that it stands for."""
        if isinstance(self.item, ast.Alias):
            return f"`{' '.join(self.item.value.span.text.split())}`"
        first = self.item.body[0] if self.item.body else None
        return first.text if isinstance(first, ast.Doc) else ""

    @property
    def title(self) -> str:
        """The docstring's first paragraph, on one line."""
        return " ".join(self.doc.split("\n\n")[0].split())

    @property
    def lines(self) -> int:
        """Lines of the rule without docstring, `require` and comments."""
        if isinstance(self.item, ast.Alias):
            return 1
        body = [each for each in self.item.body if not isinstance(each, ast.Doc | ast.Require)]
        text = "\n".join(each.span.text for each in body)
        return sum(bool(line.split("#")[0].strip()) for line in text.splitlines())


def _declared(node: ast.Node) -> Iterator[ast.Input]:
    """The inputs that stand in a part of a tree."""
    if isinstance(node, ast.Input):
        yield node
    for each in ast.children(node):
        yield from _declared(each)


def shipped_rules() -> list[Shipped]:
    """All shipped rules, wrappers and aliases, by name."""
    names = sorted(shipped_index(), key=str.lower)
    return [each for each in map(find, names) if each is not None]


@cache
def find(name: str) -> Shipped | None:
    """A shipped rule; None for a name that is a function or none at all."""
    item, scope = shipped(name) or (None, None)
    if not isinstance(item, ast.Optimizer | ast.Wrapper | ast.Alias) or scope is None:
        return None
    return Shipped(name, item, scope)


KINDS = "paths", "losses"
"""Pictures of a rule, each kind in a folder of its own."""


def has_pictures(folder: Path, name: str) -> bool:
    """Whether all pictures of a rule are in the gallery's folder."""
    return all((folder / kind / f"{name}.png").exists() for kind in KINDS)


# ---------------------------------------------------------------- pages


AGREES = r"(?:agrees with|,) ([^,;]+?) (exactly|to [\d.]+(?:e[+-]?\d+)?)"
"""A published implementation, as tests/data says of one: its name, and how far it is off."""

VERIFIED = "verify "
"""Begins the kind of what `optdsl verify` passed; a dtype follows."""
Checks = Mapping[str, Mapping[str, float]]
"""What a rule was held to, as tests found it: by kind (oracle, peer), by source, the largest
error; and in units of the last place by dtype and target, what was verified."""


def read_checks(folder: Path) -> dict[str, Checks]:
    """What the gallery's folder says of each rule; nothing where there is no such file."""
    file = folder / "checked.json"
    found: dict[str, Checks] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def page(each: Shipped, pictures: bool = False, checks: Checks | None = None) -> str:
    """The page of one rule, with its pictures if there are any."""
    parts = [f"# {each.name}", each.doc, _text(each)]
    if each.rule is not None:
        parts += [_formulas(each.rule), _hyperparameters(each.rule)]
    parts += [_costs(each), _checked(checks or {})]
    if pictures:
        parts += [
            "## Pictures\n\nAt the learning rate of a sweep that ends lowest: the path on "
            "Rosenbrock's, Beale's and Rastrigin's function, and training losses of two small "
            "perceptrons, on handwritten digits and on Python's source text.",
            f"![paths on three functions](paths/{each.name}.png)",
            f"![losses on two tasks](losses/{each.name}.png)",
        ]
    else:
        names = " and ".join(f"`{name}`" for name in each.inputs)
        why = f": a step takes {names} besides gradients" if names else ""
        parts.append(f"## Pictures\n\nNone yet{why}.")
    return "\n\n".join(filter(None, parts)) + "\n"


def _text(each: Shipped) -> str:
    code = each.item.span.text.strip()
    return f"```opt\n{code}\n```\n\n`optdsl zoo copy {each.name}` writes `{each.file}` to change."


def _formulas(rule: Rule) -> str:
    return (
        "## Formula\n\nWith options at their defaults; $\\theta$ is the parameter, $g$ its "
        f"gradient.\n\n```math\n\\begin{{aligned}}\n{formula(rule)}\n\\end{{aligned}}\n```"
    )


def _hyperparameters(rule: Rule) -> str:
    if not rule.hypers:
        return ""
    rows = ["## Hyperparameters", "", "| name | default |", "| --- | --- |"]
    rows += [f"| `{each.name}` | `{each.default!r}` |" for each in rule.hypers]
    must = [f"`{each.text}`" for each in rule.requirements]
    if must:
        rows += ["", f"It must hold that {', '.join(must)}."]
    return "\n".join(rows)


def _costs(each: Shipped) -> str:
    if each.report is None:
        if each.kind == "wrapper":
            return "A wrapper: it costs what it adds to the rule that it is given."
        return f"Runs in the interpreter alone so far: {each.reason}."
    steady = each.report.steady
    passes = f"{steady.over_memory} pass{'es' if steady.over_memory != 1 else ''} over memory"
    library = sum(part.kind != "kernel" for part in steady.passes)
    more = f", {library} of matrix work by a library" if library else ""
    return (
        f"## Cost\n\nA step of a matrix in the long run: {passes}{more}, {steady.bytes:g} bytes "
        f"and {steady.flops:g} flops per parameter, {steady.state_bytes:g} bytes of state."
    )


def _checked(checks: Checks) -> str:
    rows = [
        f"- {source[0].upper()}{source[1:]}: {_off(error)}."
        for source, error in checks.get("oracle", {}).items()
    ]
    rows += [
        f"- `{source}`, installed beside it, over tens of steps: {_off(error)}."
        for source, error in checks.get("peer", {}).items()
    ]
    text = ["\n".join(["In float64, against:\n", *rows])] if rows else []
    for kind, found in sorted(checks.items()):
        if kind.startswith(VERIFIED):
            most = ", ".join(f"{target} {ulps:.2g}" for target, ulps in found.items())
            text.append(
                f"`optdsl verify --quick` in {kind.removeprefix(VERIFIED)}: every element within "
                f"what its roundings allow. Units of the last place, at most: {most}."
            )
    return "\n\n".join(["## Checked", *text]) if text else ""


def overview(rules: list[Shipped], picture: str, checks: Mapping[str, Checks]) -> str:
    """The table of all rules. Columns: what it says of itself, lines, passes, bytes a step and
    bytes of state per parameter, how far it is off what it was held to, what runs it."""
    head = [
        "# The zoo",
        "",
        "Every rule that ships, made by `optdsl zoo pages` from the rule files. Lines are those of "
        "the rule without docstring and `require`; passes, bytes and bytes of state are per step "
        "and float32 parameter of a matrix, in the long run. The oracle is an independent "
        "implementation in float64, published code is what that was compared with in turn (each "
        "rule's page says what); errors are the largest seen.",
    ]
    if picture:
        head += ["", f"![all rules on Rosenbrock's function]({picture})"]
    titles = ["rule", "paper", "lines", "passes", "bytes", "state"]
    titles += ["oracle error", "published code", "targets"]
    rows = ["", f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    rows += [_row(each, checks.get(each.name, {})) for each in rules]
    return "\n".join([*head, *rows]) + "\n"


def _row(each: Shipped, checks: Checks) -> str:
    if each.report is None:
        costs = 3 * ["its rule's" if each.kind == "wrapper" else "-"]
    else:
        steady = each.report.steady
        costs = [str(steady.over_memory), f"{steady.bytes:g}", f"{steady.state_bytes:g}"]
    cells = [f"[{each.name}](zoo/{each.name}.md)", each.title, str(each.lines), *costs]
    errors = checks.get("oracle", {}).values()
    cells += [_short(max(errors)) if errors else "", _published(checks)]
    cells.append("interpreter" if each.report is None and each.kind == "rule" else "cpu, triton")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _short(error: float) -> str:
    return f"{error:.0e}" if error else "exact"


def _off(error: float) -> str:
    return f"off by at most {error:.0e}" if error else "exact"


def _published(checks: Checks) -> str:
    """How far published implementations are off: their number, and the largest error."""
    errors = {name: float(error) for name, error in checks.get("peer", {}).items()}
    for source in checks.get("oracle", {}):
        for name, error in re.findall(AGREES, source):
            errors[name] = 0.0 if error == "exactly" else float(error.removeprefix("to "))
    if not errors:
        return "none" if checks else ""
    return f"{len(errors)}, {_short(max(errors.values()))}"


def pages(
    rules: list[Shipped], drawn: Collection[str], checks: Mapping[str, Checks]
) -> Iterator[tuple[str, str]]:
    """All files as (path from the folder, text). `drawn` are the rules that have pictures."""
    yield "zoo.md", overview(rules, "zoo/paths/overview.png" if drawn else "", checks)
    for each in rules:
        yield f"zoo/{each.name}.md", page(each, each.name in drawn, checks.get(each.name))
