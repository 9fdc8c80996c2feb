"""Reductions over blocks of consecutive elements, and over elements for which a condition holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.semantics.running import Run, body, codes, diagnosed, double

NAN = math.nan


def drawn(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def stepped(text: str, g: Tensor, signature: str = "lr = 1.0") -> Tensor:
    """What a rule of the lines `text`, which end in an assignment of p, makes of p = 0."""
    return Run(body(text, signature), [torch.zeros_like(g)]).step(g).members[0].p


def middle(x: Tensor) -> Tensor:
    x = x.sort().values
    return (x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2


def spread(x: Tensor, n: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """What `function` gives of each n consecutive elements, in the place of each of them."""
    out = torch.empty(x.numel(), dtype=torch.float64)
    for start in range(0, x.numel(), n):
        out[start : start + n] = function(x.flatten()[start : start + n])
    return out.reshape(x.shape)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum(g": torch.sum,
    "mean(g": torch.mean,
    "max(g": torch.amax,
    "min(g": torch.amin,
    "norm(g": torch.linalg.vector_norm,
    "norm(g, 1": lambda x: x.abs().sum(),
    "rms(g": lambda x: (x * x).mean().sqrt(),
    "dot(g, g": lambda x: (x * x).sum(),
    "var(g, ddof = 0": lambda x: x.var(correction=0),
    "count(g": lambda x: torch.tensor(float(len(x))),
    "median(g": middle,
    "kth_largest(g, 2": lambda x: x.sort(descending=True).values[min(1, len(x) - 1)],
}


SHAPES = [(), (0,), (1,), (3,), (4,), (5,), (2, 3, 7), (1000,)]


@pytest.mark.parametrize("n", [1, 4, 1001])
def test_blocks_are_worked_out_one_by_one(n: int) -> None:
    given = [drawn(shape) for shape in SHAPES]
    lines = [f"state s{i}\ns{i} = {call}, blocks = {n})" for i, call in enumerate(FUNCTIONS)]
    run = Run(body("\n".join([*lines, "p -= g"])), given).step(*given)
    for i, (call, function) in enumerate(FUNCTIONS.items()):
        for g, member in zip(given, run.members, strict=True):
            found, wanted = member.states[f"s{i}"].reshape(g.shape), spread(g, n, function)
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13, msg=call)


def test_a_state_has_one_number_for_each_block() -> None:
    g = drawn((3, 5))
    text = "state v: [ceil(numel / n), 1] = 1\np -= g / sqrt(v)\nv = mean(g^2, blocks = n)"
    run = Run(body(text, "n = 4"), [torch.zeros(3, 5)]).step(g)
    assert run.members[0].states["v"].shape == (4, 1)
    assert torch.equal(run.members[0].p, -g)
    want = run.members[0].p - g / spread(g**2, 4, torch.mean).sqrt()
    torch.testing.assert_close(run.step(g).members[0].p, want, rtol=1e-14, atol=0)
    average = Run(body("v = ema(mean(g^2, blocks = n), 0.5)\np -= v * g", "n = 4"), [g]).step(g)
    assert average.members[0].states["average"].shape == (4, 1)


def test_blocks_meet_every_shape_that_goes_with_p() -> None:
    g = drawn((3, 4))
    wanted = spread(g, 5, torch.amax)
    assert torch.equal(
        stepped("p = where(max(g, blocks = 5) > 0, g, 1)", g), g.where(wanted > 0, 1)
    )
    rows = stepped("p = max(g, blocks = 5) - max(g, axis = 1)", g)
    assert torch.equal(rows, wanted - g.amax(1, keepdim=True))
    two = stepped("p = max(g, blocks = 5) + max(g, blocks = 3)", g)
    assert torch.equal(two, wanted + spread(g, 3, torch.amax))
    host = stepped("if t == 1:\n    x = max(g, blocks = 5)\nelse:\n    x = g\np = x", g)
    assert torch.equal(host, wanted)
    flat = stepped("view flat\np = max(g, blocks = 5)", g)
    assert torch.equal(flat, wanted)
    batch = torch.stack([g, 10 * g])
    last = stepped("view last\np = max(g, blocks = 5)", batch)
    assert torch.equal(last, torch.stack([wanted, 10 * wanted]))


def test_what_is_not_a_number_stays_in_its_block() -> None:
    g = double([1.0, NAN, 2.0, 3.0, 5.0])
    for name, last in (("mean", 5.0), ("max", 5.0), ("median", 5.0), ("norm", 5.0)):
        found = stepped(f"p = {name}(g, blocks = 2)", g)
        assert found.isnan().tolist() == [True, True, False, False, False]
        assert found[4] == last


def test_a_condition_says_which_elements_count() -> None:
    g = double([[3.0, NAN, 1.0, 4.0], [-1.0, -2.0, NAN, -5.0], [2.0, 2.0, 9.0, -7.0]])
    kept = [row[row > 0] for row in g]
    for name, function in (("sum", torch.sum), ("mean", torch.mean), ("median", middle)):
        found = stepped(f"p = 0 * p + {name}(g, axis = 1, where = g > 0)", g)[:, 0]
        empty = 0.0 if name == "sum" else NAN
        wanted = [function(x).item() if len(x) else empty for x in kept]
        torch.testing.assert_close(found, double(wanted), equal_nan=True)
    std = stepped("p = 0 * p + std(g, axis = 1, where = g > 0)", g)[:, 0]
    assert std.isnan().tolist() == [False, True, False]
    assert stepped("p = 0 * p + count(g, where = g > 0, over = all)", g)[0, 0] == 6
    assert stepped("p = 0 * p + mean(g, where = g > 0, over = all)", g)[0, 0] == 21 / 6
    assert stepped("p = 0 * p + min(g, where = g > 5)", g)[0, 0] == 9
    assert stepped("p = 0 * p + max(g, where = g > 10)", g)[0, 0] == -math.inf
    assert stepped("p = 0 * p + kth_largest(g, 9, where = g > 2)", g)[0, 0] == 3
    both = stepped("p = 0 * p + sum(g, where = g > 0, blocks = 6)", g)
    assert both.flatten()[[0, 5, 6, 11]].tolist() == [8.0, 8.0, 13.0, 13.0]
    rows = stepped("p = 0 * p + mean(max(g, axis = 1), where = ones > 0)".replace("ones", "t"), g)
    assert rows.isnan().all()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("p -= lr * mean(g, blocks = 2, axis = 0)", "E307"),
        ("p -= lr * mean(g, blocks = 2, over = all)", "E307"),
        ("p -= lr * mean(norm(g), blocks = 2)", "E307"),
        ("p -= lr * mean(g, blocks = 0)", "E314"),
        ("p -= lr * mean(g, blocks = t)", "E314"),
        ("p -= lr * mean(g, blocks = numel / 2)", "E314"),
        ("p -= lr * mean(g, blocks = norm(g))", "E314"),
        ("p -= lr * mean(g, blocks = all)", "E308"),
        ("p -= lr * mean(g, where = 1)", "E311"),
        ("p -= lr * max(g, p, blocks = 2)", "E208"),
        ("p -= lr * kth_largest(g, 2, over = all, where = g > 0)", "E322"),
        ("state v: [ceil(numel / 2), 1]\np -= lr * (mean(g, blocks = 3) + v) @ g", "E304"),
        ("p -= lr * mean(g, blocks = 2) @ g", "E304"),
    ],
)
def test_what_cannot_be_selected(text: str, code: str) -> None:
    assert code in codes(body(text, "lr = 0.1"))


def test_a_block_length_is_held_to_when_a_group_is_added() -> None:
    run = Run(body("p -= mean(g, blocks = n)", "n = 4"), [torch.zeros(3)])
    (need,) = run.rule.requirements
    assert need.text == "blocks = n, whole and at least 1"
    assert codes(body("p -= lr * g / (1e-8 + rms(g, blocks = 64))")) == []
    (found,) = diagnosed(body("p -= lr * mean(g, blocks = numel / 2)"))
    assert found.help == "`//` divides and rounds down"
