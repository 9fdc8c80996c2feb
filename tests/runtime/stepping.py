"""Parameters with gradients, and optimizers of hand-written programs, for the tests of steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from tests.runtime import programs
from tests.runtime.programs import optimizer_class

SGD = optimizer_class(programs.SGD)
Lookahead = optimizer_class(programs.LOOKAHEAD)
Clip = optimizer_class(programs.CLIP)
Distance = optimizer_class(programs.DISTANCE)
Uneven = optimizer_class(programs.UNEVEN)
Factored = optimizer_class(programs.FACTORED)
Gram = optimizer_class(programs.GRAM)
Whole = optimizer_class(programs.WHOLE)
Hosted = optimizer_class(programs.HOSTED)

SHAPES = [(3, 4), (40_000,), (), (5, 0), (2, 3, 5), (1,), (600, 70)]


def parameters(shapes=SHAPES, dtype=torch.float64, seed=0) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def set_gradients(params, step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    return [p.grad for p in params]


def copies(params) -> list[Tensor]:
    return [p.detach().double().clone() for p in params]


def close(params, expected, tolerance=1e-12) -> None:
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach().double(), q, rtol=tolerance, atol=tolerance)


def clip(values, gs, lr=0.1, max_norm=1.0):
    total = sum(float(g.double().square().sum()) for g in gs if g is not None) ** 0.5
    factor = min(1.0, max_norm / (total + 1e-6))
    return [
        p if g is None else p - lr * factor * g.double() for p, g in zip(values, gs, strict=True)
    ]


def eighths(p, generator) -> Tensor:
    """A gradient for `p` whose sums are exact, so that no rounding tells two targets apart."""
    return torch.randint(-40, 40, p.shape, generator=generator).to(p.dtype) / 8


def beside_the_interpreter(make, backend, shapes, steps, gradient, dtype, **options):
    """The parameters, from zero, after some steps with a backend, and with the interpreter."""
    results = []
    for each in (backend, "reference"):
        generator = torch.Generator().manual_seed(0)
        params = [Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
        optimizer = make(params, backend=each, **options)
        for _ in range(steps):
            for p in params:
                p.grad = gradient(p, generator)
            optimizer.step()
        results.append([p.detach() for p in params])
    return results
