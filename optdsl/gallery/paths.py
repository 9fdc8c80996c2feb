"""Rules on functions of two variables: the way a parameter goes.

Input: an optimizer class. Output: points, for the learning rate of a sweep that ends lowest.
The parameter is a matrix of one row, so that rules for matrices show what they do with one. The
gradients are written out, so that a step costs nothing but the rule. Relies on: torch.
Does not do: draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from optdsl.gallery.inputs import answered, question

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


UNIT = 1 / 64
"""What a quantised number stands for."""


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
    declared, points = rule.program.inputs, [function.start]
    unit = UNIT if any(question(each) == "scale" for each in declared) else 1.0
    start = torch.tensor([function.start], dtype=torch.float64) / unit
    p = torch.nn.Parameter(start)
    named: dict[str, Any] = {} if rate is None else {"lr": rate}
    if "first" in dict(rule.program.attributes):
        named["attributes"] = {"first": True}
    optimizer = rule([("p", p)], **named)

    def closure() -> torch.Tensor:
        # A rule may evaluate far off, where powers would overflow.
        x, y = (p[0] * unit).clamp(-FAR, FAR).tolist()
        p.grad = unit * torch.tensor([function.gradient(x, y)], dtype=torch.float64)
        return torch.tensor(float(function.value(x, y)), dtype=torch.float64)

    for _ in range(steps):
        inputs = answered(declared, Spot(function, p, closure(), unit)) if declared else None
        optimizer.step(closure, inputs=inputs)
        x, y = (p[0] * unit).tolist()
        if not (abs(x) < 1e3 and abs(y) < 1e3):  # NaN included
            return Path(points, math.inf, rate)
        points.append((x, y))
    return Path(points, float(function.value(x, y)), rate)


@dataclass(frozen=True)
class Spot:
    """The parameter on a function whose value there is `value`, as a layer of one row that is
    given two numbers; `question` of inputs.py says what each answer is. There are four samples,
    whose functions are this one and PULLS of its variables, and no labels to draw."""

    function: Function
    p: torch.Tensor
    value: torch.Tensor
    unit: float

    def gradients(self) -> list[torch.Tensor]:
        return [self._slope + PULLS]

    def losses(self) -> torch.Tensor:
        return self.value + (PULLS * self.p.detach()).sum((1, 2))

    def given(self) -> list[torch.Tensor]:
        return [PULLS]

    def hessian(self) -> list[torch.Tensor]:
        return [torch.func.hessian(lambda q: self.function.value(q[0], q[1]))(self.p.detach()[0])]

    def diagonal(self) -> list[torch.Tensor]:
        return [self.hessian()[0].diagonal()[None]]

    def sampled(self) -> list[torch.Tensor]:
        return [self._slope]

    def inner(self) -> list[torch.Tensor]:
        return [torch.ones(1, 2, dtype=torch.float64)]

    def outer(self) -> list[torch.Tensor]:
        return [torch.ones(1, 1, dtype=torch.float64)]

    def scale(self) -> list[torch.Tensor]:
        return [torch.full((1, 1), self.unit, dtype=torch.float64)]

    @property
    def _slope(self) -> torch.Tensor:
        assert self.p.grad is not None
        return self.p.grad
