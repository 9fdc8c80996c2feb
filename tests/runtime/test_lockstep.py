"""Loops whose passes ask something of all parameters: values on every target, who takes part, what
the closure sees, what a closure that fails leaves."""

from __future__ import annotations

import pytest
import torch

import optdsl
import optdsl.zoo

RULES = """
optimizer Inner(lr = 0.1, n = 3, noise = 0.01):
    state m
    w = p
    v = 0 * p
    repeat n:
        d = grad(w)
        v = 0.9 * v + d / (1 + norm(d, over = all))
        w -= lr * v + noise * randn()
    m = lerp(m, p - w, 0.5)
    p -= m

optimizer Sides(lr = 0.1, n = 3):
    w = p
    mean_ = g
    for k in range(n):
        when ndim == 2:
            d = grad(w) @ eye(cols)
        otherwise:
            d = 2 * grad(w)
        if k % 2 == 0:
            mean_ = lerp(mean_, d, 0.5)
        w -= lr * d / (1 + max(abs(d), over = all))
    p -= lr * mean_

optimizer Retry(lr = 4, shrink = 0.25, tries = 8):
    state radius: [] over all = lr
    d = 0 * p
    repeat tries:
        d = -radius * g / norm(g, over = all)
        ok = loss(p + d) < loss(p)
        radius = where(ok, 2 * radius, shrink * radius)
        until host(ok)
    p += d

optimizer Nested(lr = 0.1, n = 2):
    w = p
    repeat n:
        v = 0 * w
        repeat n + 1:
            v = 0.5 * v + grad(w - lr * v)
        w -= lr * v
        w -= 0.01 * grad(w) * tanh(sum(v, over = all))
    p = w

optimizer Cautious(lr = 0.1, tries = 6):
    size = 1
    repeat tries:
        size = 0.5 * size
        until host(size * norm(g, over = group) < 1)
    alone = 1
    repeat tries:
        alone = 0.5 * alone
        until host(alone * norm(g) < 0.1)
    p -= lr * size * alone * (g @ eye(cols))

optimizer Looks(lr = 0.1, gap = 2):
    state q: [rows, rows] = eye(rows)
    state since: [], last: []
    since += 1
    if host(since >= gap and norm(g) > 1.05 * last):
        q = inverse(eye(rows) + g @ g.T)
        since = 0
        last = norm(g)
    else:
        last = 0.9 * last
    p -= lr * (q @ g)

optimizer Again(lr = 0.1):
    d = g
    if host(norm(g, over = all) > 1.5):
        d += grad(p - lr * g)
    elif host(norm(p, over = group) > 1):
        d *= 2
    p -= lr * d
"""
NAMES = ("Inner", "Sides", "Retry", "Nested", "Cautious", "Looks", "Again")
SHAPES = [(3, 4), (5,), (3, 4), (2, 3, 2), (0, 2)]


@pytest.fixture(scope="module")
def rules():
    return optdsl.compile_text(RULES)


class Problem:
    """Two groups of parameters, the second with other hyperparameters, of a smooth function."""

    def __init__(self, make, dtype=torch.float64, second=None, **options):
        generator = torch.Generator().manual_seed(9)
        drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        self.params = [each.to(dtype).requires_grad_() for each in drawn]
        groups = [{"params": self.params[:2]}, {"params": self.params[2:], **(second or {})}]
        self.optimizer = make(groups, **options)
        self.seen = []

    def closure(self):
        self.seen.append([p.detach().clone() for p in self.params])
        self.optimizer.zero_grad()
        terms = [(p - 0.1 * k) ** 2 / 2 + p**4 / 40 for k, p in enumerate(self.params)]
        loss = torch.stack([each.sum() for each in terms]).sum()
        loss.backward()
        return loss.detach()

    def run(self, steps=4):
        losses = [self.optimizer.step(self.closure).item() for _ in range(steps)]
        return losses, [p.detach().double() for p in self.params]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_the_target_is_the_interpreter(rules, name, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    make = getattr(rules, name)
    ours, theirs = Problem(make, backend=backend), Problem(make, backend="reference")
    torch.testing.assert_close(ours.run(), theirs.run(), rtol=1e-11, atol=1e-11)
    assert len(ours.seen) == len(theirs.seen)
    for found, wanted in zip(ours.seen, theirs.seen, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["Inner", "Sides", "Nested"])
def test_groups_go_as_many_passes_as_they_say(rules, name):
    make = getattr(rules, name)
    ours, theirs = (
        Problem(make, second={"n": 1}, backend=backend) for backend in ("cpu", "reference")
    )
    torch.testing.assert_close(ours.run(), theirs.run(), rtol=1e-11, atol=1e-11)
    assert len(ours.seen) == len(theirs.seen)
    same = Problem(make, second={"n": 2 if name == "Nested" else 3})
    assert not torch.equal(same.run()[1][2], ours.params[2])


def test_who_is_done_stands_where_it_was(rules):
    problem = Problem(rules.Inner, second={"n": 1})
    before = [p.detach().clone() for p in problem.params]
    problem.optimizer.step(problem.closure)
    _, second, third = problem.seen
    moved = [[not torch.equal(a, b) for a, b in zip(s, before, strict=True)] for s in problem.seen]
    assert moved[0] == [False] * 5, "every loop begins where the parameters are"
    assert moved[1] == moved[2] == [True, True, False, False, False]
    assert not torch.equal(second[0], third[0])
    assert problem.optimizer.counters.evaluations == 3


def test_a_step_is_retried_until_the_loss_falls(rules):
    problem = Problem(rules.Retry)
    losses, _ = problem.run(6)
    assert losses == sorted(losses, reverse=True)
    first = problem.seen[: len(problem.seen) - 5]
    assert len(first) > 2, "the first radius was too long"
    radius = problem.optimizer.param_groups[0]["radius"]
    assert 0 < float(radius) < 8


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_closure_that_fails_in_a_loop_leaves_everything_as_it_was(rules, backend):
    problem, other = (Problem(rules.Inner, backend=backend) for _ in range(2))
    problem.run(1)
    other.run(1)
    before = [p.detach().clone() for p in problem.params]
    calls = len(problem.seen)

    def fails():
        if len(problem.seen) == calls + 2:
            raise RuntimeError("out of data")
        return problem.closure()

    with pytest.raises(RuntimeError, match="out of data"):
        problem.optimizer.step(fails)
    assert all(torch.equal(p, q) for p, q in zip(problem.params, before, strict=True))
    found, wanted = problem.run(2), other.run(2)
    assert found[0] == wanted[0]
    assert all(map(torch.equal, found[1], wanted[1]))


def test_each_parameter_leaves_its_own_loop(rules):
    """Two of one shape, which torch's routines work on together elsewhere."""
    params = [torch.zeros(2, 2).requires_grad_() for _ in range(2)]
    optimizer = rules.Cautious(params, lr=1.0, backend="cpu")
    for p, size in zip(params, (0.2, 0.4), strict=True):
        p.grad = size * torch.eye(2)
    optimizer.step()
    # norm(g, over = group) is 0.63: one half. Alone, 0.28 / 4 and 0.57 / 8 are below 0.1.
    torch.testing.assert_close(params[0].detach(), -0.2 / 2 / 4 * torch.eye(2))
    torch.testing.assert_close(params[1].detach(), -0.4 / 2 / 8 * torch.eye(2))


def test_the_host_runs_one_side_alone(rules, monkeypatch):
    """An inverse for the parameter that looks, none for its neighbour of the same shape."""
    found = []
    real = optdsl.linalg.inverse
    monkeypatch.setattr(optdsl.linalg, "inverse", lambda x: found.append(len(x)) or real(x))
    params = [torch.zeros(2, 2).requires_grad_() for _ in range(2)]
    optimizer = rules.Looks(params, gap=1, backend="cpu")
    for sizes in ((1.0, 1.0), (1.0, 2.0)):
        for p, size in zip(params, sizes, strict=True):
            p.grad = size * torch.eye(2)
        optimizer.step()
    assert found == [1, 1, 1], "each looks at first, then the second again"


def test_what_the_host_reads_is_one_condition_for_all_where_they_meet():
    text = "optimizer X(lr = 0.1):\n    d = g\n    if host(norm(g) > 1):\n"
    text += "        d = grad(p - g)\n    p -= lr * d\n"
    with pytest.raises(optdsl.CompileError, match="must be one for all parameters"):
        optdsl.compile_text(text)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("shape", [(3,), (1, 4), ()], ids=str)
def test_a_singular_matrix_and_no_gradient_leave_the_parameter(backend, shape):
    p = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    optimizer = optdsl.zoo.GradNormSmooth([p], backend=backend)

    def closure():
        optimizer.zero_grad()
        loss = ((p - 1) ** 2).sum()
        loss.backward()
        return loss.detach()

    hessian = torch.zeros(p.numel(), p.numel(), dtype=torch.float64)
    optimizer.step(closure, inputs={"hessian": [hessian]})
    assert torch.equal(p.detach(), torch.ones(shape, dtype=torch.float64))
    assert float(optimizer.param_groups[0]["gamma"]) == 2, "a step of nothing loses nothing"
