"""`host(x)` compiled: what the interpreter gives, and no one waits where nothing is decided."""

from __future__ import annotations

import pytest
import torch

import optdsl
from tests.runtime.stepping import beside_the_interpreter

RULES = """
optimizer Scaled(lr = 0.1, near = 0.5):
    n = host(norm(g, over = all))
    report seen = n
    p -= lr * min(1, near / n) / (1 + host(norm(p))) * t * g

optimizer Decided(lr = 0.1, near = 0.5):
    n = host(norm(g, over = all))
    x = g
    if n > 3 and t > 1:
        x = 2 * x
    else:
        x = 0.5 * x
    repeat 1 + ceil(n) % 3:
        x = 1.5 * x
    every host(ceil(rms(g))):
        x = x + 1
    p -= lr * x
"""
SHAPES = [(3,), (3,), (4, 5), (2, 2, 2), (0,)]


def drawn(p, generator):
    return torch.randn(p.shape, generator=generator, dtype=p.dtype)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("name", ["Scaled", "Decided"])
def test_the_target_is_the_interpreter(backend, name):
    if backend == "triton":
        pytest.importorskip("triton")
    make = getattr(optdsl.compile_text(RULES), name)
    results = beside_the_interpreter(make, backend, SHAPES, 4, drawn, torch.float64)
    torch.testing.assert_close(*results, rtol=1e-13, atol=1e-13)


def test_nothing_waits_where_nothing_is_decided():
    rules = optdsl.compile_text(RULES)
    scaled = rules.Scaled([torch.zeros(3, requires_grad=True)])
    assert not any(variant.libraries for variant in scaled.program.variants)
    assert not scaled.program.hosted
    decided = rules.Decided([torch.zeros(3, requires_grad=True)])
    assert decided.program.hosted  # so that capturing it is refused, with this statement
