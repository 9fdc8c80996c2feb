"""Rules that order and gather, compiled: bit for bit what the interpreter gives."""

from __future__ import annotations

import pytest
import torch

import optdsl

RULE = """
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
"""
SHAPES = [(3, 5), (5, 3), (4,), (2, 4), (), (3, 5), (2, 2, 3)]


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_target_is_the_interpreter(backend, dtype, monkeypatch):
    if backend == "triton":
        pytest.importorskip("triton")
    module = optdsl.compile_text(RULE)
    results = []
    for each in (backend, "reference"):
        generator = torch.Generator().manual_seed(0)
        params = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in SHAPES]
        optimizer = module.Ordered(params, backend=each, seed=3)
        for _ in range(4):
            for p in params:
                # Eighths: sums of them are exact, so that no rounding tells the two apart.
                drawn = torch.randint(-40, 40, p.shape, generator=generator)
                p.grad = drawn.to(dtype) / 8
            optimizer.step()
        results.append([p.detach() for p in params])
    assert all(map(torch.equal, *results))
