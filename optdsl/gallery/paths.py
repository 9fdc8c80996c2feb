"""Rules on functions of two variables: the way a parameter goes.

Input: an optimizer class. Output: points, for the learning rate of a sweep that ends lowest.
The parameter is a matrix of one row, so that rules for matrices show what they do with one. The
gradients are written out, so that a step costs nothing but the rule. Relies on: torch.
Does not do: draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from optdsl.gallery.samples import supplied
from optdsl.runtime.program import Input

Point = tuple[float, float]


@dataclass(frozen=True)
class Function:
    """`best` is where the least value is, `box` (x0, x1, y0, y1) what is drawn."""

    name: str
    value: Callable[[Any, Any], Any]
    gradient: Callable[[float, float], Point]
    start: Point
    best: Point
    box: tuple[float, float, float, float]

    def shows(self, points: list[Point]) -> bool:
        """Whether none is outside of the box."""
        x0, x1, y0, y1 = self.box
        return all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in points)


def _rosenbrock(x: Any, y: Any) -> Any:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _rosenbrock_slope(x: float, y: float) -> Point:
    return -2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)


def _beale(x: Any, y: Any) -> Any:
    parts = [(c - x + x * y**k) ** 2 for k, c in enumerate((1.5, 2.25, 2.625), 1)]
    return parts[0] + parts[1] + parts[2]


def _beale_slope(x: float, y: float) -> Point:
    dx = dy = 0.0
    for k, c in enumerate((1.5, 2.25, 2.625), 1):
        rest = c - x + x * y**k
        dx += 2 * rest * (y**k - 1)
        dy += 2 * rest * x * k * y ** (k - 1)
    return dx, dy


def _rastrigin(x: Any, y: Any) -> Any:
    cos = math.cos if isinstance(x, float) else torch.cos
    return 20 + x**2 - 10 * cos(2 * math.pi * x) + y**2 - 10 * cos(2 * math.pi * y)


def _rastrigin_slope(x: float, y: float) -> Point:
    wave = 20 * math.pi
    return (
        2 * x + wave * math.sin(2 * math.pi * x),
        2 * y + wave * math.sin(2 * math.pi * y),
    )


FUNCTIONS = (
    Function(
        "Rosenbrock", _rosenbrock, _rosenbrock_slope, (-1.2, 1.6), (1, 1), (-1.8, 1.8, -0.7, 2.4)
    ),
    Function("Beale", _beale, _beale_slope, (0.5, -1.5), (3, 0.5), (-0.5, 4.2, -2.2, 1.6)),
    Function(
        "Rastrigin", _rastrigin, _rastrigin_slope, (-2.35, 1.7), (0, 0), (-3.1, 3.1, -3.1, 3.1)
    ),
)
STEPS = 250
RATES = tuple(10 ** (k / 2) for k in range(-8, 3))
"""The sweep: 1e-4 to 10, two to a decade."""
FAR = 1e6
PULLS = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 1.0]], [[0.0, -1.0]]]).double()
"""What each of four samples has besides the slope that they have in common."""


@dataclass(frozen=True)
class Path:
    """`rate` is None for a rule without a learning rate."""

    points: list[Point]
    value: float
    rate: float | None


def best_path(rule: Any, function: Function, steps: int = STEPS) -> Path:
    """The path that ends lowest over RATES; of those that stay in the box, if any does. Raises
    what the rule raises."""
    rates = RATES if "lr" in dict(rule.program.hypers) else (None,)
    found = [_path(rule, function, rate, steps) for rate in rates]
    inside = [each for each in found if function.shows(each.points) and each.value < math.inf]
    return min(inside or found, key=lambda each: each.value)


def _path(rule: Any, function: Function, rate: float | None, steps: int) -> Path:
    p = torch.nn.Parameter(torch.tensor([function.start], dtype=torch.float64))
    optimizer = rule([("p", p)], **({} if rate is None else {"lr": rate}))

    def closure() -> torch.Tensor:
        # A rule may evaluate far off, where powers would overflow.
        x, y = p[0].clamp(-FAR, FAR).tolist()
        p.grad = torch.tensor([function.gradient(x, y)], dtype=torch.float64)
        return torch.tensor(float(function.value(x, y)), dtype=torch.float64)

    declared, points = rule.program.inputs, [function.start]
    for _ in range(steps):
        inputs = _inputs(declared, p, closure()) if declared else None
        optimizer.step(closure, inputs=inputs)
        x, y = p[0].tolist()
        if not (abs(x) < 1e3 and abs(y) < 1e3):  # NaN included
            return Path(points, math.inf, rate)
        points.append((x, y))
    return Path(points, float(function.value(x, y)), rate)


def _inputs(declared: Sequence[Input], p: torch.Tensor, value: torch.Tensor) -> dict[str, Any]:
    """Of four samples, whose functions are this one and PULLS of its variables."""
    assert p.grad is not None
    return supplied(declared, [p.grad + PULLS], value + (PULLS * p.detach()).sum((1, 2)))
