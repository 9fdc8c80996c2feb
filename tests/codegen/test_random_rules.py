"""Generated modules of random rules, run on the CPU, against the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optdsl.codegen.module import python_module
from optdsl.diagnostics import CompileError, Sink
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import make_scope
from optdsl.interpreter import Member, run
from optdsl.ir.nodes import Rule
from optdsl.schedule.make import make_plan
from optdsl.source import Source
from tests.schedule.test_random_rules import Writer

SHAPES = [(), (3,), (4, 3), (2, 5), (40, 17), (3, 2, 4)]
STEPS = 3


def compiled(seed: int, view: str) -> tuple[str, Rule, Any] | None:
    """Text, rule and class; None for a rule with more variants than there may be."""
    head, *body = Writer(seed).rule().splitlines(keepends=True)
    text = "".join([head, f"    view {view}\n", *body])
    sink = Sink()
    rule = lower_rule("Random", make_scope(Source("random.opt", text), sink), sink)
    sink.check()
    assert rule is not None
    try:
        module = python_module(make_plan(rule), version="0")
    except CompileError as error:
        assert error.diagnostics[0].code == "E510", text
        return None
    names: dict[str, Any] = {"__name__": "generated_random"}
    exec(compile(module, "random.py", "exec"), names)
    return text, rule, names["Random"]


def expected(rule: Rule, params: list[Tensor], grads: list[list[Tensor]]) -> list[Tensor]:
    """The parameters after all steps, by the interpreter; two groups, turn by turn."""
    group = {each.name: each.default for each in rule.hypers}
    states: list[dict[str, Tensor]] = [{} for _ in params]
    shared: dict[tuple[str, int | None], Tensor] = {}
    for step, now in enumerate(grads, 1):
        members = [
            Member(p, g, group, step, step, i % 2, i, "", states[i], shared)
            for i, (p, g) in enumerate(zip(params, now, strict=True))
        ]
        outcome = run(rule, members)
        params = [each.p for each in outcome.updates if each.p is not None]
        for own, update in zip(states, outcome.updates, strict=True):
            own.update(update.states)
        shared.update(outcome.shared)
    return params


def check(seed: int, view: str, dtype: torch.dtype, tolerance: float) -> None:
    found = compiled(seed, view)
    if found is None:
        return
    text, rule, optimizer_class = found
    random = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=random).to(dtype) for shape in SHAPES]
    grads = [
        [torch.randn(shape, generator=random).to(dtype) for shape in SHAPES] for _ in range(STEPS)
    ]
    ours = [p.clone().requires_grad_() for p in params]
    optimizer = optimizer_class([{"params": ours[0::2]}, {"params": ours[1::2]}], backend="cpu")
    for now in grads:
        for p, g in zip(ours, now, strict=True):
            p.grad = g.clone()
        optimizer.step()
    wanted = expected(rule, params, grads)
    for p, q in zip(ours, wanted, strict=True):
        scale = max(1.0, float(q.abs().max()))
        error = float((p.detach().double() - q.double()).abs().max())
        assert error <= tolerance * scale, f"{tuple(p.shape)}: {error}\n{text}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("view", ["rows", "last", "flat"])
def test_a_random_rule_in_float64(seed: int, view: str) -> None:
    check(seed, view, torch.float64, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 100))
@pytest.mark.parametrize("view", ["rows", "last", "flat"])
def test_many_random_rules_in_float64(seed: int, view: str) -> None:
    check(seed, view, torch.float64, 1e-9)
