"""Random draws of compiled rules are those of the interpreter: same seed, t, parameter, element."""

from __future__ import annotations

import pytest
import torch

import optdsl

RULES = """
optimizer Noisy(lr = 0.1, temperature = 0.5):
    p -= lr * g + sqrt(2 * lr * temperature) * randn()

optimizer Held(lr = 0.1, gap = 3):
    z = rand(at = (t - 1) // gap)
    state m
    m = m + z
    p -= lr * (g + z + exponential([rows, 1]) * randn())
"""
SHAPES = [(), (0,), (5,), (4, 3), (4, 3), (2, 3, 2, 2)]


def trained(name: str, backend: str, dtype: torch.dtype, **options: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    params = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape in SHAPES]
    optimizer = getattr(optdsl.compile_text(RULES), name)(params, backend=backend, **options)
    for _ in range(4):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("name", ["Noisy", "Held"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_numbers_on_every_backend(name: str, dtype: torch.dtype) -> None:
    found, expected = trained(name, "cpu", dtype), trained(name, "reference", dtype)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-6)
    assert not torch.equal(found[3], found[4]), "two parameters of one shape drew the same"


def test_a_seed_is_another_stream_and_the_same_seed_the_same() -> None:
    first, again = (trained("Noisy", "cpu", torch.float64, seed=7) for _ in range(2))
    other = trained("Noisy", "cpu", torch.float64, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[3], other[3])
