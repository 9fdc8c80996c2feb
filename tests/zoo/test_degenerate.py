"""What shipped rules do where formulas have no answer: zero gradients and parameters, one element.

A rule may leave such a parameter, or step it as it says; it may not turn it into NaN or infinity.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from optdsl import interpreter
from optdsl.ir.nodes import Rule
from tests.rules import interpreted, marked, shipped_plans, shipped_rules
from tests.runtime.test_rules import compiled

SHAPES = [(), (1,), (4,), (1, 5), (5, 1), (3, 4)]


def stepped(rule: Rule, params: list[Tensor], grads: list[list[Tensor]]) -> list[Tensor]:
    """The parameters after a step for each of `grads`, with the interpreter."""
    group = {hyper.name: hyper.default for hyper in rule.hypers}
    attributes = {each.name: each.default for each in rule.attributes}
    members = [
        interpreter.Member(p.clone(), None, group, t=0, index=i, attributes=attributes)
        for i, p in enumerate(params)
    ]
    for number, step in enumerate(grads, start=1):
        for member, g in zip(members, step, strict=True):
            member.g, member.t, member.steps = g, number, number
        outcome = interpreter.run(rule, members)
        for member, update in zip(members, outcome.updates, strict=True):
            member.p = member.p if update.p is None else update.p
            member.states |= update.states
            member.shared |= outcome.shared
    return [member.p for member in members]


def tensors(value: float) -> list[Tensor]:
    return [torch.full(shape, value, dtype=torch.float64) for shape in SHAPES]


NAMES = sorted(shipped_rules().keys() - interpreted().keys())


@pytest.mark.parametrize("start", [0.0, 1.0], ids=["zero_parameters", "ones"])
@pytest.mark.parametrize("name", NAMES)
def test_zero_gradients_leave_numbers(name: str, start: float) -> None:
    for p in stepped(shipped_rules()[name], tensors(start), [tensors(0.0)] * 3):
        assert p.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_after_zeros_leaves_numbers(name: str) -> None:
    grads = [tensors(0.0), tensors(0.0), tensors(0.5), tensors(0.0)]
    for p in stepped(shipped_rules()[name], tensors(0.0), grads):
        assert p.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("name", marked(sorted(shipped_plans())))
def test_gradients_that_are_no_numbers_go_where_the_rule_sends_them(name: str, bad: float) -> None:
    """One bad element in one gradient of three steps: C and the interpreter agree on every element,
    infinities and NaN among them."""
    found = []
    for backend in ("cpu", "reference"):
        torch.manual_seed(0)
        params = [Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]
        optimizer = compiled(name)(
            [(f"layer{i}", p) for i, p in enumerate(params)], backend=backend
        )
        for number in range(3):
            for p in params:
                p.grad = torch.randn_like(p)
            if number == 1:
                assert params[-1].grad is not None
                params[-1].grad[1, 2] = bad
            optimizer.step()
        found.append([p.detach() for p in params])
    for c, exact in zip(*found, strict=True):
        torch.testing.assert_close(c, exact, rtol=1e-9, atol=1e-11, equal_nan=True)
