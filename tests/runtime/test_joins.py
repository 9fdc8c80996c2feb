"""Reductions over parameters whose results have axes of their own, on every backend."""

from __future__ import annotations

import pytest
import torch

import optdsl
import optdsl.zoo

RULES = """
optimizer Samples(lr = 0.1):
    input gs: [samples, *p]
    s = min(1, 1 / (norm(gs, over = all) + 1e-8))
    most = max(abs(gs), over = all)
    least = min(abs(gs), over = group)
    report kept = sum(s * where(most < 3, 1, least), axis = samples)
    p -= lr * sum((s - least) * gs, axis = samples) / size(gs, samples)

optimizer Chained(lr = 0.1):
    input gs: [samples, *p]
    state m
    w = norm(gs, over = all)
    x = gs / (w + 1e-8)
    y = x - mean(x, axis = samples)
    m = lerp(m, max(y / (norm(y, over = group) + 1), axis = samples), 0.5)
    p -= lr * m

optimizer Matrices(lr = 0.1):
    view last
    input gs: [samples, *p]
    a = norm(g.T @ g, over = all)
    b = median(norm(gs, over = all), axis = samples)
    p -= lr * (g / (a + b) + 0.1 * kth_largest(gs, 1, axis = samples))

optimizer Shared(lr = 0.1):
    input gs: [samples, *p], losses: [samples] over all
    state v: [] over all
    mine = mean(losses, axis = samples)
    v = lerp(v, mine^2, 0.1)
    keep = where(losses <= 2 * sqrt(v), 1, 0)
    p -= lr * sum(keep * gs, axis = samples) / (1 + sum(keep, axis = samples) * mine)
"""
SHAPES = [(4, 3), (3, 5), (6,), (2, 3, 2), (4, 3), (0, 2), ()]


def run(make, backend, dtype, counts=(3, 3, 5, 1, 3)):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    params = [drawn(*shape).to(dtype).requires_grad_() for shape in SHAPES]
    groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.3}]
    optimizer = make(groups, backend=backend)
    names = [each.name for each in optimizer.program.inputs]
    for count in counts:
        for p in params:
            p.grad = drawn(*p.shape).to(dtype)
        given = {"gs": [drawn(count, *p.shape) for p in params], "losses": drawn(count).abs()}
        optimizer.step(inputs={name: given[name] for name in names})
    reports = {name: float(value) for name, value in optimizer.reports.items()}
    return [p.detach().double() for p in params], reports, optimizer


@pytest.mark.parametrize("name", ["Samples", "Chained", "Matrices", "Shared"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_target_is_the_interpreter(rules, name, backend, dtype):
    if backend == "triton":
        pytest.importorskip("triton")
    make = getattr(rules, name)
    found, wanted = run(make, backend, dtype), run(make, "reference", dtype)
    bound = 1e-12 if dtype is torch.float64 else 2e-5
    for ours, theirs in zip(found[0], wanted[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)
    assert found[1] == pytest.approx(wanted[1], rel=bound)


def test_only_another_number_of_samples_makes_a_plan_anew(rules):
    plans = [run(rules.Samples, "cpu", torch.float32, (3,) * n)[2].counters.plans for n in (1, 6)]
    assert plans == [1, 1]
    assert run(rules.Samples, "cpu", torch.float32, (3, 4, 4))[2].counters.plans == 2


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_norm_of_a_sample_is_that_of_all_parameters(backend):
    """By hand: two parameters, two samples of the lengths 5 and 0.5."""
    a, b = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = optdsl.zoo.PrivateSGD([a, b], lr=1.0, sigma=0.0, batch=2, backend=backend)
    gs = [torch.tensor([[3.0], [0.3]]), torch.tensor([[4.0], [0.4]])]
    optimizer.step(inputs={"gs": gs})
    for p, expected in ((a, -(0.6 + 0.3) / 2), (b, -(0.8 + 0.4) / 2)):
        assert p.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_batch_without_samples_is_a_step_along_nothing(backend):
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = optdsl.zoo.PrivateSGD([p], sigma=0.0, backend=backend)
    optimizer.step(inputs={"gs": [torch.zeros(0, 3)]})
    assert torch.equal(p.detach(), torch.ones(3, dtype=torch.float64))
