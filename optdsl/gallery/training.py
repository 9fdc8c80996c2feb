"""Rules on two small tasks with real data: loss curves at the best learning rate of a sweep.

Input: an optimizer class. Output: losses. The data come with other packages: the handwritten digits
of scikit-learn, and the source text of Python's standard library. Models are perceptrons of some
ten thousand parameters, so that eighty rules times seven rates take minutes. Relies on: torch,
scikit-learn (an extra). Does not do: draw.
"""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optdsl.gallery.batches import Batch, quantised
from optdsl.gallery.inputs import answered, question

RATES = tuple(10 ** (k / 2) for k in range(-8, 1))
"""The sweep: 1e-4 to 1, two to a decade."""
BATCH, CONTEXT = 64, 8


@dataclass(frozen=True)
class Task:
    """`model()` starts from the same weights each time; `batch(step)` gives inputs and targets."""

    name: str
    steps: int
    model: Callable[[], nn.Module]
    batch: Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Curve:
    """The losses of every step; `rate` is None for a rule without a learning rate."""

    losses: list[float]
    rate: float | None

    @property
    def last(self) -> float:
        """The mean over the last tenth; infinite where the run left the finite numbers."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        mean = sum(tail) / len(tail)
        return mean if math.isfinite(mean) else math.inf


@cache
def tasks(whole: bool = False) -> tuple[Task, ...]:
    """Digits and characters; `whole`: what has room for the Hessian of each parameter, digits by a
    single layer. Raises ImportError without scikit-learn."""
    return (_digits("digits, one layer", 0),) if whole else (_digits("digits", 64), _characters())


def tasks_for(rule: Any) -> tuple[Task, ...]:
    """Those that a rule's inputs fit."""
    return tasks(any(question(each) == "hessian" for each in rule.program.inputs))


def _digits(name: str, hidden: int) -> Task:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.tensor(data.data / 16, dtype=torch.float32)
    labels = torch.tensor(data.target)

    def model() -> nn.Module:
        torch.manual_seed(0)
        if not hidden:
            return nn.Linear(64, 10)
        return nn.Sequential(nn.Linear(64, hidden), nn.GELU(), nn.Linear(hidden, 10))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = _drawn(step, len(pixels))
        return pixels[chosen], labels[chosen]

    return Task(name, 120, model, batch)


def _characters() -> Task:
    """The next character from the CONTEXT before it."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("ast", "argparse", "dataclasses", "functools", "typing")
    text = "\n".join((folder / f"{name}.py").read_text("utf-8") for name in names)
    codes = torch.tensor([min(ord(each), 127) for each in text])

    def model() -> nn.Module:
        torch.manual_seed(0)
        inner = nn.Linear(CONTEXT * 12, 96)
        return nn.Sequential(
            nn.Embedding(128, 12), nn.Flatten(), inner, nn.GELU(), nn.Linear(96, 128)
        )

    def batch(step: int) -> tuple[Tensor, Tensor]:
        at = _drawn(step, len(codes) - CONTEXT)
        return codes[at[:, None] + torch.arange(CONTEXT)], codes[at + CONTEXT]

    return Task("characters", 160, model, batch)


def _drawn(step: int, count: int) -> Tensor:
    return torch.randint(count, (BATCH,), generator=torch.Generator().manual_seed(step))


def best_curve(rule: Any, task: Task, steps: int | None = None) -> Curve:
    """The curve that ends lowest over RATES. Raises what the rule raises."""
    rates = RATES if "lr" in dict(rule.program.hypers) else (None,)
    found = [train(rule, task, rate, steps or task.steps) for rate in rates]
    return min(found, key=lambda each: each.last)


def train(rule: Any, task: Task, rate: float | None, steps: int) -> Curve:
    """One run. A rule that asks for scales trains quantised weights; an attribute `first` is true
    for the weights of the first linear layer."""
    declared, losses = rule.program.inputs, []
    model = task.model()
    if any(question(each) == "scale" for each in declared):
        model = quantised(model)
    named: dict[str, Any] = {} if rate is None else {"lr": rate}
    if "first" in dict(rule.program.attributes):
        named["attributes"] = {"first": {_first(model): True}}
    optimizer = rule(list(model.named_parameters()), **named)
    for step in range(steps):
        batch = task.batch(step)
        inputs = answered(declared, Batch(model, *batch, step)) if declared else None
        losses.append(float(optimizer.step(_closure(model, *batch), inputs=inputs)))
        if not losses[-1] < 1e3:  # NaN included
            return Curve([*losses, math.inf], rate)
    return Curve(losses, rate)


def _first(model: nn.Module) -> Tensor:
    return next(each.weight for each in model.modules() if isinstance(each, nn.Linear))


def _closure(model: nn.Module, inputs: Tensor, wanted: Tensor) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        model.zero_grad()
        loss = cross_entropy(model(inputs), wanted)
        torch.autograd.backward([loss])
        return loss.detach()

    return closure
