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

optimizer Common(lr = 0.1, passes = 3):
    x = g
    for k in range(passes):
        x = lerp(x, randn(), 0.1 * (k + 1))
        repeat 2:
            x += rand([rows, 1])
    if rand([], over = all) < 0.5:
        x = 0.5 * x
    every 3:
        x *= exponential([], over = group)
    p -= lr * x * (1 + rand([], over = all, at = steps // 2))
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


@pytest.mark.parametrize("name", ["Noisy", "Held", "Common"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_numbers_on_every_backend(name: str, dtype: torch.dtype) -> None:
    found, expected = trained(name, "cpu", dtype), trained(name, "reference", dtype)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-6)
    assert not torch.equal(found[3], found[4]), "two parameters of one shape drew the same"


def test_what_is_drawn_for_all_is_one_number_in_groups_of_several_seeds() -> None:
    """The first parameter's seed counts; what is drawn for a group is that group's own."""
    rules = optdsl.compile_text(
        "optimizer One():\n    p -= g * rand([], over = all)\n"
        "optimizer Each():\n    p -= g * rand([], over = group)\n"
    )
    for name, same in (("One", True), ("Each", False)):
        found = []
        for backend in ("cpu", "reference"):
            params = [torch.zeros(3, requires_grad=True) for _ in range(2)]
            groups = [{"params": [p], "seed": 5 + i} for i, p in enumerate(params)]
            optimizer = getattr(rules, name)(groups, backend=backend)
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            assert torch.equal(*params) is same
            found.append(torch.cat(params).detach())
        torch.testing.assert_close(*found)


def test_a_seed_is_another_stream_and_the_same_seed_the_same() -> None:
    first, again = (trained("Noisy", "cpu", torch.float64, seed=7) for _ in range(2))
    other = trained("Noisy", "cpu", torch.float64, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[3], other[3])
