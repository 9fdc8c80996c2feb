"""Order statistics over parameters, compiled: what the interpreter gives, and a sort by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl

RULES = """
optimizer Top(lr = 1.0, k = 3):
    when ndim >= 2:
        s = abs(p * g)
        g *= where(s >= kth_largest(s, k, over = all), 1, 0)
    p -= lr * g

optimizer Each(lr = 1.0, k = 2):
    state low: [] over group
    low = kth_smallest(g, k, over = group)
    p -= lr * (g - low + kth_smallest(p, 2 * k, over = all) + kth_largest(norm(g), 1, over = all))

optimizer Rarely(lr = 1.0):
    every 2:
        p -= kth_largest(mean(g, axis = 1), 2, over = all)
    p -= lr * kth_smallest(g @ eye(cols), 100000, over = all)
"""
SHAPES = [(3, 5), (4,), (2, 4), (), (0, 3), (3, 5), (2, 2, 3)]


def run(make, backend: str, dtype: torch.dtype, bad: float | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.randint(-9, 9, s, generator=generator) / 4 for s in SHAPES]
    params = [p.to(dtype).requires_grad_() for p in params]
    optimizer = make([{"params": params[:3]}, {"params": params[3:], "lr": 0.5}], backend=backend)
    for step in range(4):
        for p in params:
            drawn = torch.randint(-40, 40, p.shape, generator=generator)
            p.grad = None if step == 1 and p.ndim == 1 else drawn.to(dtype) / 8
        if bad is not None and step == 2:
            params[0].grad[0, 0] = bad
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("name", ["Top", "Each", "Rarely"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_target_is_the_interpreter(rules, name, backend, dtype):
    if backend == "triton":
        pytest.importorskip("triton")
    make, bound = getattr(rules, name), 1e-5 if dtype is torch.float32 else 1e-12
    found, wanted = run(make, backend, dtype), run(make, "reference", dtype)
    torch.testing.assert_close(found, wanted, rtol=bound, atol=bound)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_counts(rules, bad):
    found, wanted = (run(rules.Top, each, torch.float64, bad) for each in ("cpu", "reference"))
    torch.testing.assert_close(found, wanted, equal_nan=True)
    assert not all(p.isfinite().all() for p in found)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_largest_of_all_matrices_by_hand(rules, backend):
    a, b, c = (torch.tensor(x, requires_grad=True) for x in ([[1.0, 2.0]], [[3.0], [4.0]], [9.0]))
    optimizer = rules.Top([a, b, c], k=2, backend=backend)
    for p in (a, b, c):
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    assert (a.tolist(), b.tolist(), c.tolist()) == ([[1.0, 2.0]], [[2.5], [3.5]], [8.5])


@pytest.mark.parametrize(
    "statistic", ["g, 1, axis = 1, over = all", "g, 1, over = workers", "g, norm(g), over = all"]
)
def test_statistics_that_cannot_be(statistic):
    with pytest.raises(optdsl.CompileError):
        optdsl.compile_text(f"optimizer X():\n    p -= kth_smallest({statistic})\n")


LATER = """
optimizer Shared(lr = 0.1, n = 4):
    v = ema(mean(g^2, blocks = n), 0.9)
    if t > 1:
        g = g / (sqrt(v) + 1e-8)
    p -= lr * g / norm(g, over = all)
"""


def test_tensors_of_two_variants_are_summed_in_one_stage() -> None:
    """At t = 1 nothing keeps the sum of squares from the first stage, later the averages do."""
    made = optdsl.compile_text(LATER).Shared
    results = []
    for backend in ("cpu", "reference"):
        generator = torch.Generator().manual_seed(0)
        params = [Parameter(torch.ones(shape, dtype=torch.float64)) for shape in ((8, 6), (4, 3))]
        optimizer = made(params[:1], backend=backend)
        for step in range(3):
            if step == 1:
                optimizer.add_param_group({"params": params[1:]})
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            optimizer.step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(*results, rtol=1e-13, atol=0)
