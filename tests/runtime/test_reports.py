"""Reports: numbers of a step that are read behind it."""

from __future__ import annotations

import math

import pytest
import torch

RULES = """
optimizer X(lr = 0.1, k = 2, most = 6.0):
    state m, total: [] over all
    size = norm(g, over = all)
    total += size
    m = lerp(m, g, 0.5)
    p -= lr * m
    report size = size
    report moved = norm(lr * m, over = all)
    report bound = min(most, size)
    report rate = lr
    report total = total
    if steps % k == 0:
        report even = 2 * size
"""


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_reports_are_what_the_step_saw(rules, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    params = [torch.zeros(shape, requires_grad=True) for shape in [(3, 4), (5,), (2, 2)]]
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = rules.X(groups, backend=backend)
    assert optimizer.reports == {}
    total, m = 0.0, 0.0
    for step in range(1, 5):
        for p in params:
            p.grad = torch.full_like(p, float(step))
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / step
        optimizer.step()
        size = step * math.sqrt(21)
        total, m = total + size, 0.5 * (m + step)
        wanted = {
            "size": size,
            "moved": 0.1 / step * m * math.sqrt(21),
            "bound": min(6.0, size),
            "rate": 0.1 / step,
            "total": total,
            "even": 2 * size if step % 2 == 0 else math.nan,
        }
        found = {name: float(each) for name, each in optimizer.reports.items()}
        assert found == pytest.approx(wanted, rel=1e-6, nan_ok=True)
        assert all(each.shape == () for each in optimizer.reports.values())


def test_a_report_stays_what_it_was(rules):
    p = torch.zeros(3, requires_grad=True)
    optimizer = rules.X([p])
    p.grad = torch.ones(3)
    optimizer.step()
    first = optimizer.reports
    p.grad = 5 * torch.ones(3)
    optimizer.step()
    assert float(first["size"]) == pytest.approx(math.sqrt(3))
    assert float(optimizer.reports["size"]) == pytest.approx(5 * math.sqrt(3))
    assert "size" not in optimizer.state_dict()["param_groups"][0]
