"""Gradient release on every rule; tests/runtime/test_release.py looks closer, at fewer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.cases import Case, contract, named, same, set_gradients, values

STEPS = 3


def backward(optimizer: Any, step: int) -> None:
    """A backward pass of a loss that has the gradients of `set_gradients`."""
    set_gradients(optimizer, step)
    params = [p for _, p in named(optimizer)]
    slopes = [p.grad for p in params]
    optimizer.zero_grad()
    sum((p * slope).sum() for p, slope in zip(params, slopes, strict=True)).backward()


@contract("gradient release", backends=["cpu", "reference"])
def test_parameters_step_when_their_gradient_is_there(case: Case, record_property: Any) -> None:
    params, others = case.parameters(), case.parameters()
    ours, plain = case.make(params), case.make(others)
    if case.optimizer.program.coupled:
        with pytest.raises(ValueError, match=r"cannot step in the backward pass: .* \(\w+\.opt:\d"):
            ours.attach()
        record_property("reason", "a statement needs several parameters, which the error names")
        return
    with ours.attach():
        for step in range(STEPS):
            backward(ours, step)
            assert all(p.grad is None for _, p in params)
            ours.step()
            set_gradients(plain, step)
            plain.step()
    assert same(values(params), values(others))
    assert not same(values(params), values(case.parameters()))
    assert str(ours.state_dict()) == str(plain.state_dict())
