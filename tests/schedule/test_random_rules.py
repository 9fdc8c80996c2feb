"""Plans of random rules against the interpreter: barriers, rows, columns, branches in any order."""

from __future__ import annotations

import random

import pytest
import torch

from optdsl.diagnostics import CompileError, Sink
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import make_scope
from optdsl.interpreter import Member, run
from optdsl.schedule.make import make_plan
from optdsl.source import Source
from tests.schedule.run_plan import run_plan

SHAPES = [(), (3,), (4, 3), (2, 5)]
REDUCTIONS = [
    "norm({0})",
    "mean({0})",
    "rms({0})",
    "max(abs({0}))",
    "dot({0}, {1})",
    "norm({0}, over = all)",
    "norm({0}, over = group)",
    "max({0}, over = all)",
    "mean({0}, axis = 1)",
    "mean({0}, axis = 0)",
    "max(abs({0}), axis = 1)",
    "sum({0}, axis = 0)",
]
FULL = [
    "{0} + {1}",
    "{0} - lr * {1}",
    "{0} * {1}",
    "lerp({0}, {1}, 0.3)",
    "tanh({0})",
    "{0} / (1 + {1}^2)",
    "where({0} > {1}, {0}, -{1})",
    "sign({0}) * {1}",
    "max({0}, {1})",
    "{0} * lr + {1} / t",
]


class Writer:
    """Writes a rule whose every statement uses what stands before it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.full = ["p", "g", "m", "v"]
        self.count = 0

    def value(self) -> str:
        template = self.random.choice(FULL)
        return template.format(*self.random.choices(self.full, k=2))

    def small(self) -> str:
        template = self.random.choice(REDUCTIONS)
        return template.format(*self.random.choices(self.full, k=2))

    def statement(self, indent: str, in_branch: bool) -> list[str]:
        kind = self.random.choice(["full", "full", "scaled", "scaled", "state", "p", "branch"])
        if kind == "branch" and not in_branch:
            condition = self.random.choice(["t % 2 == 0", "t == 1", "ndim >= 2", "momentum > 0"])
            body = [line for _ in range(2) for line in self.statement(indent + "    ", True)]
            return [f"{indent}if {condition}:", *body]
        if kind == "state":
            return [f"{indent}{self.random.choice(['m', 'v'])} = {self.value()}"]
        if kind in ("p", "branch"):
            return [f"{indent}p -= lr * ({self.value()})"]
        name = f"x{self.count}"
        self.count += 1
        text = f"{indent}{name} = {self.value()}"
        if kind == "scaled":
            factor = f"tanh({self.small()}) / (1 + abs({self.small()}))"
            text = f"{indent}{name} = ({self.value()}) * {factor}"
        if not in_branch:
            self.full.append(name)
        return [text]

    def rule(self) -> str:
        body = [
            line for _ in range(self.random.randint(3, 7)) for line in self.statement("    ", False)
        ]
        state = ["    state m, v, size: [], total: [] over all"]
        tail = [
            f"    p -= lr * {self.full[-1]}",
            f"    size = 0.5 * size + norm({self.full[-1]})",
            f"    total = max(total, norm({self.full[-1]}, over = all))",
        ]
        head = "optimizer Random(lr = 0.01, momentum = 0.9):"
        return "\n".join([head, *state, *body, *tail, ""])


@pytest.mark.parametrize("seed", range(80))
def test_a_random_rule(seed: int) -> None:
    text = Writer(seed).rule()
    sink = Sink()
    rule = lower_rule("Random", make_scope(Source("random.opt", text), sink), sink)
    sink.check()
    assert rule is not None
    try:
        plan = make_plan(rule)
    except CompileError as error:  # more variants than a rule may have
        assert error.diagnostics[0].code == "E510", text
        return
    torch.manual_seed(seed)
    params = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    states: list[dict[str, torch.Tensor]] = [{} for _ in params]
    shared: dict[tuple[str, int | None], torch.Tensor] = {}
    group = {each.name: each.default for each in rule.hypers}
    for step in (1, 2, 3):
        members = [
            Member(p, torch.randn_like(p), group, step, step, i % 2, i, "", states[i], shared)
            for i, p in enumerate(params)
        ]
        expected, found = run(rule, members), run_plan(plan, members)
        for i, (a, b) in enumerate(zip(expected.updates, found.updates, strict=True)):
            assert a.p is not None and b.p is not None
            torch.testing.assert_close(
                b.p, a.p, rtol=1e-9, atol=1e-10, msg=lambda m: f"{m}\n{text}"
            )
            for key, value in b.states.items():
                torch.testing.assert_close(value, a.states[key], rtol=1e-9, atol=1e-10)
            params[i] = a.p
            states[i].update(a.states)
        shared.update(expected.shared)
