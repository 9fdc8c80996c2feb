"""Gradient scaling on every rule, and the capture of a step into a CUDA graph, which
tests/triton/graphs.py plays without a GPU.

tests/runtime/test_amp.py and tests/triton/test_residence.py look closer, at fewer rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.amp import GradScaler

from tests.contract.cases import Case, contract, rate_of, same, set_gradients, values
from tests.triton.graphs import capture

SCALE = 512.0
Record = Callable[[str, object], None]


def backward(optimizer: Any, step: int, scaler: GradScaler, *, overflow: bool) -> None:
    """Gradients of a scaled loss that has those of `set_gradients`."""
    set_gradients(optimizer, step)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    slopes = [p.grad for p in params]
    optimizer.zero_grad()
    loss = sum((p * slope).sum() for p, slope in zip(params, slopes, strict=True))
    scaler.scale(loss).backward()
    if overflow:
        params[0].grad[0] = torch.inf


@contract("gradient scaling", backends=("cpu", "reference"))
def test_a_scaler_scales_unscales_and_skips(case: Case, record_property: Record) -> None:
    params, others = case.parameters(), case.parameters()
    ours, plain = case.make(params), case.make(others)
    scaler = GradScaler("cpu", init_scale=SCALE, growth_interval=2)
    if case.optimizer.program.inputs:
        ours.found_inf = torch.tensor(1.0)
        ours.step()
        assert same(values(params), values(others))
        record_property("reason", "the rule takes inputs, without which only a skipped step runs")
        return
    for step in range(4):
        before = values(params)
        backward(ours, step, scaler, overflow=step == 1)
        if step == 2:
            scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()
        if step == 1:
            assert same(values(params), before)
        else:
            set_gradients(plain, step)
            plain.step()
    assert scaler.get_scale() == SCALE  # halved, and doubled again
    assert same(values(params), values(others))
    assert not same(values(params), values(case.parameters()))


@contract("graph capture", backends=("triton",))
def test_a_graph_counts_by_itself(
    case: Case, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    params, others = case.parameters(), case.parameters()
    if case.optimizer.program.hosted:
        with pytest.raises(ValueError, match="cannot be capturable, since the host must look"):
            case.make(params, capturable=True)
        record_property("reason", "the host must look in each step, which the error says, and why")
        return
    ours, host = case.make(params, capturable=True), case.make(others)
    for (_, p), (_, q) in zip(params, others, strict=True):
        p.grad, q.grad = torch.zeros_like(p), torch.zeros_like(q)
    for step in range(4):
        if step == 2:
            with capture(monkeypatch, ours) as graph:
                ours.step()
        set_gradients(host, step)
        for (_, p), (_, q) in zip(params, others, strict=True):
            p.grad.copy_(q.grad)  # type: ignore[union-attr, arg-type]
        for optimizer in (ours, host):
            optimizer.param_groups[0]["lr"] = rate_of(case) * 0.5**step
        if step < 2:
            ours.step()
        else:
            ours.sync_hypers()
            graph.replay()
        host.step()
    assert same(values(params), values(others))
    first, second = ours.state_dict()["state"], host.state_dict()["state"]
    assert all(first[i].get("step") == second[i].get("step") for i in second)
