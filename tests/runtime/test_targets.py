"""Which target runs a step, and what happens where one cannot."""

from __future__ import annotations

import pytest
import torch

from optdsl.runtime.native import NativeError
from tests.runtime.programs import Adam
from tests.runtime.test_step import close, parameters, set_gradients
from tests.runtime.twins import SHAPES, run, twins


def test_without_a_compiler_the_error_says_so(monkeypatch):
    from optdsl.runtime.cpu import launch as cpu

    monkeypatch.setenv("CC", "/nonexistent/cc")
    cpu.driver.cache_clear()
    try:
        params = parameters(SHAPES)
        ours = Adam(params)
        with pytest.raises(NativeError, match="no C compiler: set CC"):
            run(ours, params, 1)
    finally:
        cpu.driver.cache_clear()


class Interpreted(Adam):
    """Adam in torch, as an interpreter of the reference target."""

    class Outcome:
        def __init__(self, updates):
            self.updates, self.shared, self.reports = updates, {}, {}

    class Update:
        def __init__(self, p, states):
            self.p, self.states = p, states

    @staticmethod
    def interpreter(members, dtype):
        updates = []
        for member in members:
            beta1, beta2 = member.group["betas"]
            p, g = member.p.to(dtype), member.g.to(dtype)
            zero = torch.zeros_like(p)
            m = torch.lerp(member.states.get("m", zero).to(dtype), g, 1 - beta1)
            v = torch.lerp(member.states.get("v", zero).to(dtype), g * g, 1 - beta2)
            hat = (v / (1 - beta2**member.t)).sqrt() + member.group["eps"]
            p = p - member.group["lr"] * m / (1 - beta1**member.t) / hat
            updates.append(Interpreted.Update(p, {"m": m, "v": v}))
        return Interpreted.Outcome(updates)


def test_the_reference_target_keeps_states_alike():
    params, others = twins()
    ours, torchs = (
        Interpreted(params, lr=0.1, backend="reference"),
        torch.optim.Adam(others, lr=0.1),
    )
    for step in range(4):
        for p, q, g in zip(params, others, set_gradients(params, step), strict=True):
            p.grad = q.grad = None if step == 1 and p is params[0] else g
        ours.step()
        torchs.step()
    close(params, others)
    assert ours.counters.calls == 0
    compiled = Interpreted(params, lr=0.1)
    compiled.load_state_dict(ours.state_dict())
    run(compiled, params, 1, 9)
    run(torchs, others, 1, 9)
    close(params, others)


def test_the_reference_target_stands_in_with_one_warning(monkeypatch):
    from optdsl.runtime.cpu import launch as cpu

    monkeypatch.setenv("CC", "/nonexistent/cc")
    cpu.driver.cache_clear()
    try:
        params, others = twins()
        ours, torchs = Interpreted(params, lr=0.1), torch.optim.Adam(others, lr=0.1)
        with pytest.warns(UserWarning, match="reference interpreter runs this optimizer") as caught:
            run(ours, params, 3)
        assert len(caught) == 1
        run(torchs, others, 3)
        close(params, others)
    finally:
        cpu.driver.cache_clear()


def test_a_generated_file_alone_has_no_reference():
    params = parameters(SHAPES)
    ours = Adam(params, backend="reference")
    with pytest.raises(RuntimeError, match="needs the compiler"):
        run(ours, params, 1)
