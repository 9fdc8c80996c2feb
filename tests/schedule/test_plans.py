"""Plans against the interpreter, and the bytes that they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optdsl.diagnostics import CompileError, Sink
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import make_scope, read_source, zoo_folder
from optdsl.interpreter import Member, run
from optdsl.ir.nodes import Rule
from optdsl.schedule.make import make_plan
from optdsl.source import Source
from tests.rules import CORE, interpreted
from tests.schedule.run_plan import run_plan

HERE = Path(__file__).parent
FILES = [*sorted(zoo_folder().glob("*.opt")), *sorted(HERE.glob("*.opt"))]
SHAPES = [(), (0,), (1,), (5,), (3, 5), (4, 4), (6, 2), (2, 3, 2, 2)]


def rules() -> list[Any]:
    found: list[Any] = []
    for path in FILES:
        scope = make_scope(read_source(path), Sink(), path.parent)
        for name in rule_names(scope):
            fast = name in CORE or path.parent == HERE
            if path.parent == HERE or name not in interpreted():
                marks = () if fast else pytest.mark.slow
                found.append(pytest.param(path, name, marks=marks))
    return found


def lowered(path: Path, name: str) -> Rule:
    sink = Sink()
    rule = lower_rule(name, make_scope(read_source(path), sink, path.parent), sink)
    sink.check()
    assert rule is not None
    return rule


@pytest.mark.parametrize(("path", "name"), rules(), ids=lambda each: getattr(each, "stem", each))
def test_passes_do_what_the_rule_means(path: Path, name: str) -> None:
    """Six steps of all shapes together, in two groups, some without a gradient now and then."""
    rule = lowered(path, name)
    plan = make_plan(rule)
    torch.manual_seed(1)
    params = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    steps: list[int] = [0] * len(params)
    states: list[dict[str, torch.Tensor]] = [{} for _ in params]
    shared: dict[tuple[str, int | None], torch.Tensor] = {}
    groups = [{each.name: each.default for each in rule.hypers} for _ in range(2)]
    if not any(state.type.instances == 1 for state in rule.states):
        groups[1]["lr"] = 0.03
    for step in range(1, 7):
        members = []
        taking = [i for i in range(len(params)) if (i + step) % 4]
        for i in taking:
            steps[i] += 1
            g = torch.randn(SHAPES[i], dtype=torch.float64)
            members.append(
                Member(
                    params[i],
                    g,
                    groups[i % 2],
                    steps[i],
                    step,
                    i % 2,
                    i,
                    f"layer.{i}",
                    states[i],
                    shared,
                )
            )
        expected, found = run(rule, members), run_plan(plan, members)
        for a, b, i in zip(expected.updates, found.updates, taking, strict=True):
            assert a.p is not None
            left = params[i] if b.p is None else b.p  # a step that does not write p leaves it
            torch.testing.assert_close(left, a.p, rtol=1e-11, atol=1e-12, equal_nan=True)
            for key, value in b.states.items():
                torch.testing.assert_close(
                    value, a.states[key], rtol=1e-11, atol=1e-12, equal_nan=True
                )
            params[i] = a.p
            states[i].update(a.states)
        for key, value in found.shared.items():
            torch.testing.assert_close(value, expected.shared[key], rtol=1e-11, atol=1e-12)
        shared.update(expected.shared)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            "x = g\n    repeat 3:\n        x /= kth_largest(x, 2, over = all)\n    p -= x",
            "an order statistic",
        ),
        ("p -= lr * mean(g, over = workers)", "`worker sum`"),
        ("state s: [3, 3] over all = 1\n    p -= lr * g\n    s = 2 * s", "a state over parameters"),
        (
            "x = g\n    repeat 3:\n        x /= max(x, axis = 1, over = all)\n    p -= x",
            "a reduction to a tensor",
        ),
        ("p -= lr * sum(max(abs(g), axis = 1, over = all))", "a reduction over"),
    ],
)  # fmt: skip
def test_what_no_target_does_yet_is_a_clear_error(body: str, what: str) -> None:
    text = f"optimizer X(lr = 0.1):\n    {body}\n"
    sink = Sink()
    rule = lower_rule("X", make_scope(Source("x.opt", text), sink), sink)
    sink.check()
    assert rule is not None
    with pytest.raises(CompileError, match="E503") as caught:
        make_plan(rule)
    assert caught.value.diagnostics[0].message.startswith(what)


def test_what_a_shared_state_begins_with_costs_nothing_afterwards() -> None:
    text = """
optimizer X(lr = 0.1):
    state far: [] over all = 1 + norm(p, over = all)
    far = max(far, norm(g, over = all))
    p -= lr * far * g
"""
    sink = Sink()
    rule = lower_rule("X", make_scope(Source("x.opt", text), sink), sink)
    sink.check()
    assert rule is not None
    begun, begins = sorted(
        make_plan(rule).variants, key=lambda each: len(each.passes[0].reductions)
    )
    assert [len(each.passes[0].reductions) for each in (begun, begins)] == [1, 2]
