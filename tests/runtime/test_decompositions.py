"""Rules with decompositions, compiled, against the interpreter; no matrix stops a step."""

from __future__ import annotations

import pytest
import torch

RULES = """
optimizer X(lr = 0.1, rank = 2, gap = 3, eps = 0.01):
    when ndim == 2:
        state q: [short, rank], l: [rows, rows], m: [long, min(rank, rows)]
        l += g @ g.T
        if (t - 1) % gap == 0:
            u, s, v = svd(tall(g))
            q = v @ eye(short, rank)
            m = tall(g) @ q @ eye(rank, min(rank, rows))
        w, e = eigh(l)
        a, b = qr(g)
        c = cholesky(l + eye(rows))
        r = inverse_root(l, 4, eps) + inverse(l + eye(rows))
        x = solve(l + eye(rows), g)
        y = untall(tall(g) @ q @ q.T) + (a @ b) * w + e @ (w * (e.T @ g))
        p -= lr * (r @ g + y + c @ x + sum(m))
    otherwise:
        p -= lr * g
"""
SHAPES = [(3, 5), (5, 3), (4,), (1, 4), (4, 1), (1, 1), (2, 2), (3, 5)]


def run(rules, backend, gradients, dtype=torch.float64, **hyper):
    """The parameters after one step for each list of gradients."""
    generator = torch.Generator().manual_seed(1)
    params = [
        torch.randn(g.shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for g in gradients[0]
    ]
    optimizer = rules.X(params, backend=backend, **hyper)
    for grads in gradients:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.to(dtype)
        optimizer.step()
    return [p.detach().double() for p in params]


def gradients(steps=5, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for _ in range(steps)
    ]


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_the_target_is_the_interpreter(rules, rank):
    found, wanted = (run(rules, each, gradients(), rank=rank) for each in ("cpu", "reference"))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        assert ours.isfinite().all()


def test_float32_is_near(rules):
    # A root of what the statistics lack would be of no use here: only rows <= cols are compared.
    shapes = [(3, 5), (1, 4), (4,)]
    given = gradients(2, shapes)
    found, wanted = (
        run(rules, b, given, d) for b, d in (("cpu", torch.float32), ("reference", torch.float64))
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_zero_gradients_move_nothing(rules):
    zero = [[torch.zeros(shape) for shape in SHAPES] for _ in range(2)]
    start = run(rules, "cpu", [[torch.zeros(shape) for shape in SHAPES]], lr=0.0)
    found = run(rules, "cpu", zero)
    assert all(map(torch.equal, found, start))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_one_gradient_that_is_not_finite_spoils_one_parameter(rules, backend):
    given = gradients(2)
    given[0][0][0, 0] = torch.nan
    given[0][1][2, 1] = torch.inf
    found = run(rules, backend, given)
    assert not found[0].isfinite().any()
    assert not found[1].isfinite().any()
    assert all(each.isfinite().all() for each in found[2:])
