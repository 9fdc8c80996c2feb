"""Rules that order and gather, compiled: bit for bit what the interpreter gives."""

from __future__ import annotations

import pytest
import torch

import optdsl
from tests.runtime.stepping import beside_the_interpreter, eighths

RULES = """
optimizer Ordered(lr = 0.5, gap = 2, k = 2):
    if ndim == 2:
        state active: [k, 1], m: [k, cols]
        if (t - 1) % gap == 0:
            active = permutation(rows, k)
        m = take(g, active)
        p -= lr * put(m, active, sign(g))
        p -= lr * reshape(reshape(g, [cols, rows]) + 1, [rows, cols])
        p -= lr * take(flip(g), argsort(sum(abs(g), axis = 0), axis = 1), axis = 1)
    p -= lr * where(abs(g) >= kth_largest(abs(g), 3), g, 0) + median(g) + kth_smallest(g, k)

optimizer Queues(lr = 0.5, k = 2):
    state sizes: [k, 1], firsts: [k, cols], past: [k, *p], places: [3, 1]
    sizes[(t - 1) % k] = norm(g, over = all)
    firsts[0] = take(g, 0).T
    past[t % k] = norm(g, over = all) * g
    places = put(2, 1, 0 * places)
    p -= lr * (sum(sizes) + take(firsts, k - 2) + past[0] + sum(places))
"""
SHAPES = [(3, 5), (5, 3), (4,), (2, 4), (), (3, 5), (2, 2, 3)]


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("name", ["Ordered", "Queues"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_target_is_the_interpreter(backend, name, dtype):
    if backend == "triton":
        pytest.importorskip("triton")
    make = getattr(optdsl.compile_text(RULES), name)
    results = beside_the_interpreter(make, backend, SHAPES, 4, eighths, dtype, seed=3)
    if name == "Queues":  # roots of sums over several parameters are rounded
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
    else:
        assert all(map(torch.equal, *results))
