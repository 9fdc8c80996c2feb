"""`for axis in axes`: tensors of any number of axes, states of each, and what cannot be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.semantics.running import Run, body, codes, double

SHAPES: list[tuple[int, ...]] = [
    (), (4,), (3, 2), (2, 3, 4), (2, 1, 3, 2), (2, 3, 1, 2, 2), (2, 1, 2, 3, 2, 2), (0, 3),
    (2, 0, 3),
]  # fmt: skip

FACTORS = """
u = g
for axis in axes:
    state h: [size(axis), size(axis)] = eye(size(axis))
    h += gram(g, axis)
    u = along(h, u, axis)
for axis in axes:
    u /= len(axes) + trace(h)
p -= u
"""


def five(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with its axes behind the fifth merged into it; at least one axis."""
    return (*shape[:4], math.prod(shape[4:])) if len(shape) > 5 else shape or (1,)


def expected(g: Tensor) -> Tensor:
    """FACTORS by tensordot, from p = 0 after one step."""
    x = g.reshape(five(tuple(g.shape)))
    factors = []
    for axis, size in enumerate(x.shape):
        rows = x.movedim(axis, 0).unsqueeze(-1).flatten(1)
        factors.append(torch.eye(size, dtype=x.dtype) + rows @ rows.T)
    u = x
    for axis, h in enumerate(factors):
        u = torch.tensordot(h, u, dims=([1], [axis])).movedim(0, axis)
    for h in factors:
        u = u / (x.dim() + h.trace())
    return -u.reshape(g.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_axis_has_its_states_and_later_loops_find_them(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = Run(body(FACTORS), [torch.zeros(shape)]).step(g)
    torch.testing.assert_close(made.members[0].p, expected(g), rtol=1e-12, atol=1e-12)
    count = max(1, min(len(shape), 5))
    keys = {made.rule.state(name).key for name in made.members[0].states}
    assert keys == {f"h.{axis}" for axis in range(count)}


def test_all_factors_of_a_tensor_begin_in_one_step() -> None:
    made = Run(body(FACTORS), [torch.zeros(2, 3), torch.zeros(2, 3, 2)])
    made.step(torch.ones(2, 3), None).step(torch.ones(2, 3), torch.ones(2, 3, 2))
    assert made.state("h.1", 0)[0][0] == 1 + 2 * 2
    assert made.state("h.2", 1)[0][0] == 1 + 6
    assert {state.birth for state in made.rule.states} == {"h"}


def test_an_axis_unfolds_and_folds_back() -> None:
    g = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    kept = Run(body("u = 1 + unfold(g, 1)\np = fold(u @ u.T @ u, 1)"), [0 * g]).step(g)
    rows = 1 + g.movedim(1, 0).flatten(1)
    wanted = (rows @ rows.T @ rows).reshape(3, 2, 4).movedim(0, 1)
    torch.testing.assert_close(kept.members[0].p, wanted)


def test_what_a_transform_keeps_in_the_loop_is_of_the_axis() -> None:
    text = body("for axis in axes:\n    m = ema(gram(g, axis), 0.5)\n    p -= trace(m)")
    made = Run(text, [torch.zeros(2, 3)]).step(2.0)
    assert made.p()[0][0] == -24.0
    assert made.state("m.1") == double([[4.0] * 3] * 3).tolist()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("view last\nfor axis in axes:\n    g = 2 * g\np -= lr * g", "E317"),
        ("for axis in axes:\n    for other in axes:\n        g = 2 * g\np -= lr * g", "E317"),
        ("for axis, b in axes:\n    g = 2 * g\np -= lr * g", "E317"),
        ("repeat 2:\n    for axis in axes:\n        state h\n        h = g\np -= lr * g", "E401"),
        ("for axis in axes:\n    repeat 2:\n        state h\n        h = g\np -= lr * g", "E401"),
        ("for axis in axes:\n    state h = 1\n    h *= 2\np -= lr * g * h", "E203"),
        ("p -= lr * along(eye(cols), g, t)", "E307"),
        ("p -= lr * g * size(7)", "E307"),
        ("p -= lr * fold(g.T @ g, 1)", "E315"),
        ("view flat\np -= lr * unfold(g, 1)", "E315"),
        ("for axis in axes:\n    axis = 2\np -= lr * g * axis", "E203"),
    ],
)
def test_axes_that_cannot_be(text: str, code: str) -> None:
    assert code in codes(body(text, "lr = 1.0"))
