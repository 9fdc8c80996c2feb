"""The published values in tests/data, and the comparison of any implementation with them.

Input: tests/data/*.json (their README states the schema). Output: cases, and `check`, which drives
an implementation through a case and holds it to the expected values. Relies on: torch, for tensors;
optdsl.draws, to replace what it draws.
Does not do: compile anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor

from optdsl import draws

DATA = Path(__file__).parents[1] / "data"
VARIANTS = Path(__file__).with_name("variants.opt")
"""The rules that `Case.runs` names and that are not shipped."""


@dataclass(frozen=True)
class Objective:
    """f = sum(a (p - c)^2) / 2 + noise . p over all parameters, with one noise after the other."""

    a: list[Tensor]
    c: list[Tensor]
    noise: list[list[Tensor]]

    def model(self, run: Run, step: int) -> Quadratic:
        return Quadratic(self, run, self.noise[(step - 1) % len(self.noise)])


@dataclass(frozen=True)
class LogSumExp:
    """f = log(sum(exp(A p - b))) + ridge |p|^2 of one vector."""

    a: Tensor
    b: Tensor
    ridge: float
    run: Run | None = None

    def model(self, run: Run, step: int) -> LogSumExp:
        return replace(self, run=run)

    def loss(self, points: Sequence[Tensor] | None) -> Tensor:
        assert self.run is not None
        (p,) = self.run.params if points is None else points
        return torch.logsumexp(self.a @ p - self.b, 0) + self.ridge * (p @ p)

    def grad(self, points: Sequence[Tensor]) -> list[Tensor]:
        (p,) = points
        return [self.a.T @ torch.softmax(self.a @ p - self.b, 0) + 2 * self.ridge * p]


@dataclass(frozen=True)
class Quadratic:
    """An objective as the model of one step, with the parameters where `run` has them."""

    of: Objective
    run: Run
    noise: list[Tensor]

    def loss(self, points: Sequence[Tensor] | None) -> Tensor:
        at = self.run.params if points is None else points
        terms = zip(self.of.a, self.of.c, self.noise, at, strict=True)
        return torch.stack([(a * (p - c) ** 2 / 2 + n * p).sum() for a, c, n, p in terms]).sum()

    def grad(self, points: Sequence[Tensor]) -> list[Tensor]:
        terms = zip(self.of.a, self.of.c, self.noise, points, strict=True)
        return [a * (p - c) + n for a, c, n, p in terms]


Draw = Tensor | dict[int, Tensor]
"""What every random draw of a step gives, or what that of each place in the text does."""


@dataclass(frozen=True)
class Given:
    """What a step has besides gradients: the model, one dictionary of inputs per parameter, and the
    numbers that a random draw is to give: in this step, or `at` a number from 1."""

    closure: Quadratic | LogSumExp | None = None
    inputs: Sequence[dict[str, Tensor]] = ()
    draw: Draw | None = None
    stream: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Case:
    """One sequence of steps with its published outcome.

    `params` has one tensor per parameter, `grads` one list of them per step, or an objective gives
    them; `hyper` holds for every step, `schedule` gives one value per step, `inputs` one list of
    tensors, one per parameter, `draws` what is drawn, `stream` what is drawn `at` 1, 2 and so on,
    `start` the states that are there before the first step, by key, one per parameter. `expected`
    maps "params", "update" (old minus new parameter) or "eval" (the value for evaluation) to one
    list of tensors for each step in `at`; `states` maps a state's key to its values after the last
    step, `reports` a report's name to what it then says.
    """

    stem: str
    rule: str
    name: str
    runs: str
    source: str
    hyper: dict[str, Any]
    schedule: dict[str, list[float]]
    attributes: list[dict[str, Any]]
    params: list[Tensor]
    grads: list[list[Tensor]]
    at: list[int]
    objective: Objective | LogSumExp | None
    inputs: dict[str, list[list[Tensor]]]
    names: list[str]
    draws: list[Draw]
    stream: list[Tensor]
    start: dict[str, list[Tensor]]
    steps: int
    expected: dict[str, list[list[Tensor]]]
    states: dict[str, list[Tensor]]
    reports: dict[str, float]
    tolerance: float

    def __str__(self) -> str:
        return f"{self.stem}:{self.name}"

    def hyper_at(self, step: int) -> dict[str, Any]:
        """The hyperparameters of update number `step`, from 1."""
        return self.hyper | {key: values[step - 1] for key, values in self.schedule.items()}

    def given_at(self, step: int, run: Run) -> Given:
        """What update number `step` of `run` has besides the gradients."""
        return Given(
            self.objective.model(run, step) if self.objective else None,
            [
                {name: values[step - 1][i] for name, values in self.inputs.items()}
                for i in range(len(self.params))
            ],
            self.draws[step - 1] if self.draws else None,
            self.stream,
        )

    def grads_at(self, step: int, given: Given, run: Run) -> list[Tensor]:
        """The gradients of update number `step`; zeros where only inputs say what happens."""
        if given.closure:
            return given.closure.grad(run.params)
        if self.grads:
            return [grad.clone() for grad in self.grads[step - 1]]
        return [torch.zeros_like(p) for p in self.params]


class Run(Protocol):
    """An implementation in the middle of a run."""

    params: Sequence[Tensor]

    def step(self, grads: Sequence[Tensor], hyper: dict[str, Any], given: Given) -> None: ...

    def evaluation(self) -> Sequence[Tensor]:
        """The values that the parameters take in evaluation."""
        ...

    def state(self, key: str) -> Sequence[Tensor]:
        """The state `key` of each parameter."""
        ...

    @property
    def reports(self) -> Mapping[str, Any]:
        """What the last step reported."""
        ...


@contextmanager
def drawing(given: Given) -> Iterator[None]:
    """Every random draw gives the numbers that are `given`, in the interpreter, in library passes
    and on the host."""
    real = draws.draw

    def draw(*args: Any, **options: Any) -> Tensor:
        drawn, at = real(*args, **options), options["at"]
        if given.stream and at < 1:  # before the first step
            return drawn
        numbers = given.stream[at - 1] if given.stream else given.draw
        if isinstance(numbers, dict):
            numbers = numbers[options["site"]]
        if numbers is None:
            return drawn
        same = numbers.numel() == drawn.numel()
        return numbers.reshape(drawn.shape) if same else numbers.expand(drawn.shape)

    users = (
        "optdsl.draws.draw",
        "optdsl.runtime.stages.library.draw",
        "optdsl.runtime.parameters.cohorts.draw",
    )
    with ExitStack() as stack:
        for name in users:
            stack.enter_context(patch(name, draw))
        yield


def _tensors(values: list[Any]) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def _hyper(value: Any) -> Any:
    return tuple(_hyper(item) for item in value) if isinstance(value, list) else value


def _draw(raw: Any) -> Draw:
    if isinstance(raw, dict):
        return {int(site): torch.tensor(x, dtype=torch.float64) for site, x in raw.items()}
    return torch.tensor(raw, dtype=torch.float64)


def _objective(raw: dict[str, Any]) -> Objective | LogSumExp:
    if "A" in raw:
        return LogSumExp(*_tensors([raw["A"], raw["b"]]), raw["ridge"])
    return Objective(_tensors(raw["a"]), _tensors(raw["c"]), [_tensors(n) for n in raw["noise"]])


def _case(stem: str, rule: str, raw: dict[str, Any]) -> Case:
    grads = [_tensors(step) for step in raw.get("grads", [])]
    inputs = {
        name: [_tensors(step) for step in steps] for name, steps in raw.get("inputs", {}).items()
    }
    objective = _objective(raw["objective"]) if "objective" in raw else None
    steps = raw["steps"] if objective else len(grads or next(iter(inputs.values())))
    expected = dict(raw["expected"])
    at = expected.pop("at", list(range(1, steps + 1)))
    states = {key: _tensors(values) for key, values in expected.pop("states", {}).items()}
    reports = expected.pop("reports", {})
    for what, values in expected.items():
        if what not in ("params", "update", "eval") or len(values) != len(at):
            raise ValueError(
                f"{stem}:{raw['name']}: expected {what!r} does not fit {len(at)} steps"
            )
    return Case(
        stem=stem,
        rule=rule,
        name=raw["name"],
        runs=raw["runs"],
        source=raw["source"],
        hyper={key: _hyper(value) for key, value in raw["hyper"].items()},
        schedule=raw.get("schedule", {}),
        attributes=raw.get("attributes", [{}] * len(raw["params"])),
        params=_tensors(raw["params"]),
        grads=grads,
        objective=objective,
        inputs=inputs,
        names=raw.get("names", [""] * len(raw["params"])),
        draws=[_draw(each) for each in raw.get("draws", [])],
        stream=_tensors(raw.get("stream", [])),
        start={key: _tensors(values) for key, values in raw.get("start", {}).items()},
        steps=steps,
        at=at,
        expected={what: [_tensors(step) for step in steps] for what, steps in expected.items()},
        states=states,
        reports=reports,
        tolerance=raw["tolerance"],
    )


@cache
def cases() -> tuple[Case, ...]:
    """Every case of every file, by file name and order in the file."""
    found = []
    for path in sorted(DATA.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found += [_case(path.stem, content["rule"], raw) for raw in content["cases"]]
    return tuple(found)


def _gap(actual: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest absolute difference; Inf where the shapes differ or a difference is NaN."""
    if [a.shape for a in actual] != [w.shape for w in wanted]:
        return math.inf
    gaps = [(a.double() - w).abs().max().item() for a, w in zip(actual, wanted, strict=True)]
    return math.inf if any(math.isnan(gap) for gap in gaps) else max(gaps)


def _outcome(what: str, run: Run, before: Sequence[Tensor]) -> Sequence[Tensor]:
    if what == "eval":
        return run.evaluation()
    now = [p.detach() for p in run.params]
    if what == "params":
        return now
    return [old - new for old, new in zip(before, now, strict=True)]


def check(case: Case, run: Run, tolerance: float | None = None) -> float:
    """Drive `run`, made with `case.params`, through the case; the largest absolute error.

    Raises AssertionError, naming the step, where an error exceeds `tolerance` (that of the case,
    which is meant for float64), is NaN, or a shape differs.
    """
    limit = case.tolerance if tolerance is None else tolerance
    gaps = {}
    for number in range(1, case.steps + 1):
        before = [p.detach().clone() for p in run.params]
        given = case.given_at(number, run)
        run.step(case.grads_at(number, given, run), case.hyper_at(number), given)
        if number in case.at:
            for what, steps in case.expected.items():
                wanted = steps[case.at.index(number)]
                gaps[f"{what} after step {number}"] = _gap(_outcome(what, run, before), wanted)
    for key, wanted in case.states.items():
        gaps[f"state {key}"] = _gap(
            [x.reshape(w.shape) for x, w in zip(run.state(key), wanted, strict=True)], wanted
        )
    for name, number in case.reports.items():
        gaps[f"report {name}"] = abs(float(run.reports[name]) - number)
    for name, gap in gaps.items():
        if gap > limit:
            raise AssertionError(f"{case}: {name}: off by {gap:.3e}, allowed {limit:.0e}")
    return max(gaps.values())
