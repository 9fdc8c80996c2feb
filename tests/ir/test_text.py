"""The text form of a typed rule keeps the whole rule."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from optdsl import interpreter
from optdsl.diagnostics import InternalError, Sink
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import make_scope, read_source
from optdsl.ir.nodes import Rule, reachable
from optdsl.ir.reading import read_rule
from optdsl.ir.text import rule_text, values_text
from optdsl.source import Source
from tests.rules import shipped_rules

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "examples").glob("*.opt")), ROOT / "tests" / "zoo" / "variants.opt"]

LOOPS = """\
optimizer Loops(lr = 0.1, steps_in = 3, mode = "a", limit = inf):
    \"\"\"Two lines,
    "quoted" and – not ASCII.\"\"\"
    require mode in ("a", "b"), lr < limit
    state hist: [min(2, rows), *p], n: [] over all = 1
    x = g / (norm(g) + 1e-7)
    repeat steps_in:
        x = 0.5 * x + rand() * 1e-3
        until norm(x) < 0.1
    hist[t % 1] = x
    n = n + sum(x, over = all)
    every 4:
        p -= lr * hist[0]
    report size = norm(x, over = all)
    eval p + 1
"""


def lowered(source: Source, folder: Path | None = None) -> list[Rule]:
    sink = Sink()
    scope = make_scope(source, sink, folder)
    rules = [lower_rule(name, scope, sink) for name in rule_names(scope)]
    sink.check()
    return [rule for rule in rules if rule is not None]


@cache
def shipped() -> list[Rule]:
    others = [rule for path in FILES for rule in lowered(read_source(path), path.parent)]
    return [*shipped_rules().values(), *others]


@pytest.mark.parametrize(
    "rule", [*shipped(), *lowered(Source("l.opt", LOOPS))], ids=lambda r: r.name
)
def test_text_is_read_back(rule: Rule) -> None:
    text = rule_text(rule)
    back = read_rule(text)
    assert rule_text(back) == text
    assert (back.name, back.view, back.doc) == (rule.name, rule.view, rule.doc)
    assert [s.key for s in back.states] == [s.key for s in rule.states]
    assert [h.default for h in back.hypers] == [h.default for h in rule.hypers]
    assert [r.text for r in back.requirements] == [r.text for r in rule.requirements]
    whole = read_rule(rule_text(rule, sources=True))
    assert rule_text(whole) == text
    assert whole.source.text == rule.source.text


def test_places_keep_line_and_column() -> None:
    (rule,) = lowered(Source("l.opt", LOOPS))
    back = read_rule(rule_text(rule))

    def places(each: Rule) -> list[str]:
        values = reachable(value for _, value in each.outputs())
        return sorted(str(value.span) for value in values)

    assert places(back) == places(rule)


def test_a_rule_read_back_computes_the_same() -> None:
    (rule,) = lowered(Source("l.opt", LOOPS))
    back = read_rule(rule_text(rule))
    generator = torch.Generator().manual_seed(0)
    p, g = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def step(each: Rule) -> interpreter.Outcome:
        group = {hyper.name: hyper.default for hyper in each.hypers}
        member = interpreter.Member(p=p, g=g, group=group, t=4, states={}, shared={})
        return interpreter.run(each, [member])

    new, old = step(back), step(rule)
    assert new.updates[0].p is not None and old.updates[0].p is not None
    assert torch.equal(new.updates[0].p, old.updates[0].p)
    assert not torch.equal(new.updates[0].p, p)
    assert new.shared.keys() == old.shared.keys() == {("n", None)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("%0 = param", "%1 = param"),
        ("rule Loops", "ruler Loops"),
        (": param [", ": parameter ["),
        ("value=", "values="),
        ("storage=compute", "storage=paper"),
        ("report size %", "report size %99"),
    ],
)
def test_other_text_is_refused(old: str, new: str) -> None:
    (rule,) = lowered(Source("l.opt", LOOPS))
    text = rule_text(rule)
    assert old in text
    with pytest.raises(InternalError, match=r"ir\.text"):
        read_rule(text.replace(old, new, 1))


def test_values_alone_have_a_text() -> None:
    (rule,) = lowered(Source("l.opt", "optimizer A(lr = 1):\n    p -= lr * g\n"))
    assert values_text(rule.outputs()).splitlines()[-2:] == [
        '%4 = sub %0 %3 : param [rows, cols] real "p" @0:2:5-16',
        "p %4",
    ]
