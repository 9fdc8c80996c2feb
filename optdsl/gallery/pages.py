"""Markdown for the shipped rules: an overview, and a page each.

Input: names of shipped rules. Output: Markdown. What the page says of a rule is worked out of its
file: the text, the formulas (latex), hyperparameters and what they may be, passes and bytes
(explain). Relies on: compiler, explain, latex. Does not do: pictures, files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from optdsl.compiler import compile_rule
from optdsl.diagnostics import CompileError, Sink
from optdsl.explain import Report, explain_plan
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import shipped, shipped_index
from optdsl.ir.nodes import Rule, reachable
from optdsl.latex import formula
from optdsl.ops import OPS, Kind
from optdsl.syntax import ast

Item = ast.Optimizer | ast.Wrapper | ast.Alias


@dataclass(frozen=True)
class Shipped:
    """A shipped rule. `rule` and `report` are None for a wrapper, which is a rule only around
    another; `report` also where no target runs the rule yet, and `reason` says why."""

    name: str
    file: str
    item: Item
    rule: Rule | None
    report: Report | None
    reason: str = ""

    @property
    def kind(self) -> str:
        return {ast.Wrapper: "wrapper", ast.Alias: "alias"}.get(type(self.item), "rule")

    @property
    def drawn(self) -> bool:
        """Whether there are pictures: of what runs without anything that a caller supplies."""
        if self.report is None or self.rule is None or self.rule.inputs:
            return False
        values = reachable(value for _, value in self.rule.outputs())
        return not any(OPS[each.op].kind is Kind.CLOSURE for each in values)

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
    file = shipped_index()[name].name
    if isinstance(item, ast.Wrapper):
        return Shipped(name, file, item, None, None)
    rule = lower_rule(name, scope, Sink())
    try:
        return Shipped(name, file, item, rule, explain_plan(compile_rule(scope, name).plan))
    except CompileError as error:
        return Shipped(name, file, item, rule, None, error.diagnostics[0].message)


def has_pictures(folder: Path, name: str) -> bool:
    """Whether all pictures of a rule are in the gallery's folder."""
    return all((folder / kind / f"{name}.png").exists() for kind in ("paths", "losses"))


# ---------------------------------------------------------------- pages


def page(each: Shipped, pictures: bool = False) -> str:
    """The page of one rule, with its pictures if there are any."""
    parts = [f"# {each.name}", each.doc, _text(each)]
    if each.rule is not None:
        parts += [_formulas(each.rule), _hyperparameters(each.rule)]
    parts.append(_costs(each))
    if pictures:
        parts += [
            "## Pictures\n\nAt the learning rate of a sweep that ends lowest: the path on "
            "Rosenbrock's, Beale's and Rastrigin's function, and training losses of two small "
            "perceptrons, on handwritten digits and on Python's source text.",
            f"![paths on three functions](paths/{each.name}.png)",
            f"![losses on two tasks](losses/{each.name}.png)",
        ]
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


def overview(rules: list[Shipped], picture: str = "") -> str:
    """The table of all rules. Columns: what it says of itself, lines, passes, bytes a step and
    bytes of state per parameter."""
    head = [
        "# The zoo",
        "",
        "Every rule that ships, made by `optdsl zoo pages` from the rule files. Lines are those of "
        "the rule without docstring and `require`; passes, bytes and bytes of state are per step "
        "and float32 parameter of a matrix, in the long run.",
    ]
    if picture:
        head += ["", f"![all rules on Rosenbrock's function]({picture})"]
    rows = ["", "| rule | paper | lines | passes | bytes | state |", "| --- " * 6 + "|"]
    return "\n".join([*head, *rows, *map(_row, rules)]) + "\n"


def _row(each: Shipped) -> str:
    if each.report is None:
        costs = ["", "", "wrapper" if each.kind == "wrapper" else "interpreter"]
    else:
        steady = each.report.steady
        costs = [str(steady.over_memory), f"{steady.bytes:g}", f"{steady.state_bytes:g}"]
    cells = [f"[{each.name}](zoo/{each.name}.md)", each.title, str(each.lines), *costs]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def pages(rules: list[Shipped], drawn: Collection[str]) -> Iterator[tuple[str, str]]:
    """All files as (path from the folder, text). `drawn` are the rules that have pictures."""
    yield "zoo.md", overview(rules, "zoo/paths/overview.png" if drawn else "")
    for each in rules:
        yield f"zoo/{each.name}.md", page(each, each.name in drawn)
