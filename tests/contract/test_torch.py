"""The contract that torch's own tests of its optimizers state, driven by their `OptimizerInfo`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.contract.cases import IN_TORCH, Case, contract, named, rate_of, same, train, values
from tests.contract.infos import info_of

STEPS = 20


@dataclass(frozen=True)
class Problem:
    """torch's small problem; its loss may be steeper, and its parameters begin on a simplex. `rate`
    is a factor of the rule's own learning rate."""

    rate: float = 1.0
    steep: float = 1.0
    simplex: bool = False


PROBLEMS = [
    *(Problem(rate) for rate in (1, 0.1, 0.01)),
    *(Problem(rate, simplex=True) for rate in (1, 0.1)),
    Problem(0.01, steep=1e4),
]
"""Rates are meant for models; on this problem some that torch does not have are too large. Some
rules stay on a simplex, and samplers follow the slope of all data's losses, not of their mean."""


def losses(
    case: Case, problem: Problem, options: dict[str, Any], schedules: Any = ()
) -> tuple[float, float]:
    """The loss before and after STEPS steps."""
    torch.manual_seed(0)
    start = [torch.randn(10, 5), torch.randn(10)]
    if problem.simplex:
        start = [each.flatten().softmax(0).reshape(each.shape) for each in start]
    weight, bias = map(Parameter, start)
    inputs = torch.rand(5)
    optimizer = case.make([("weight", weight), ("bias", bias)], **deepcopy(options))
    made = [make(optimizer) for make in schedules]

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (weight.mv(inputs) + bias).pow(2).sum() * problem.steep
        loss.backward()
        return loss.detach()

    first = float(closure())
    for _ in range(STEPS):
        loss = optimizer.step(closure)
        for each in made:
            each.step(*([loss] if isinstance(each, ReduceLROnPlateau) else []))
    return first, float(closure())


@contract("right direction", backends=["cpu", "reference"])
def test_goes_the_right_direction(case: Case) -> None:
    rated = "lr" in dict(case.optimizer.program.hypers)

    def rate(problem: Problem) -> dict[str, Any]:
        own = not rated or case.rule in IN_TORCH
        return {} if own else {"lr": problem.rate * rate_of(case)}

    def suits(problem: Problem) -> bool:
        down = losses(case, problem, rate(problem))
        up = losses(case, problem, {**rate(problem), "maximize": True})
        return is_less(down) and not is_less(up)

    problem = PROBLEMS[0] if case.rule in IN_TORCH else next(filter(suits, PROBLEMS))
    info = info_of(case)
    for given in info.optim_inputs_func(device="cpu"):
        for schedules in ([], *(info.scheduler_inputs if rated else ())):
            first, last = losses(case, problem, rate(problem) | given.kwargs, schedules)
            uphill = bool(given.kwargs.get("maximize"))
            assert (last > first) if uphill else (last < first), (given.desc, schedules)


def is_less(pair: tuple[float, float]) -> bool:
    return pair[1] < pair[0]


@contract("zero gradients")
def test_zero_gradients_move_what_the_formula_moves(case: Case, record_property: Any) -> None:
    known = dict(case.optimizer.program.hypers)
    still = {"weight_decay": 0} if "weight_decay" in known else {}
    moved = []
    for each in (case, Case(case.rule, "reference")):
        params = each.parameters()
        optimizer = each.make(params, **still)
        for _ in range(2):
            for _, p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
        moved.append(not same(values(params), values(each.parameters())))
    assert moved[0] is moved[1]
    if moved[0]:
        record_property("reason", "the formula moves without a gradient")


# ---------------------------------------------------------------- checkpoints


@pytest.fixture
def scalars_in_float64() -> Iterator[None]:
    """torch keeps NAdam's product of momenta, a number, in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def reloaded(optimizer: Any) -> Any:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def check_muon(case: Case) -> str:
    """Runs of torch.optim.Muon, which is for matrices, counts no steps, and iterates in bfloat16:
    momenta go on as if nothing had been between, parameters to its 8 bits. Returns that."""
    params = case.parameters(torch.float64, [(6, 4), (3, 5)])
    theirs = torch.optim.Muon(params)
    train(theirs, 3)
    middle, checkpoint = values(params), reloaded(theirs)
    train(theirs, 3, 3)
    others, third = (
        [(n, Parameter(m.clone())) for (n, _), m in zip(params, middle, strict=True)]
        for _ in range(2)
    )
    ours, returned = case.make(others), torch.optim.Muon(third)
    ours.load_state_dict(checkpoint)
    returned.load_state_dict(reloaded(ours))
    for found in (ours, returned):
        train(found, 3, 3)
        for (_, a), (_, b), start in zip(named(found), params, middle, strict=True):
            pair = (each.state[p]["momentum_buffer"] for each, p in ((found, a), (theirs, b)))
            torch.testing.assert_close(*pair, rtol=0, atol=1e-12)
            assert (a - b).norm() < 2**-5 * (b - start).norm()
    return (
        "momenta are the same; torch.optim.Muon iterates in bfloat16, so parameters are to its bits"
    )


@contract("torch's checkpoints", backends=["cpu", "reference"])
@pytest.mark.usefixtures("scalars_in_float64")
def test_runs_move_between_here_and_torch(case: Case, record_property: Any) -> None:
    if case.rule not in IN_TORCH:
        record_property("reason", "torch.optim has no such rule")
        return
    peer = getattr(torch.optim, case.rule)
    if case.rule == "Muon":
        record_property("reason", check_muon(case))
        return
    for given in info_of(case).optim_inputs_func(device="cpu"):
        options = {k: float(v) if torch.is_tensor(v) else v for k, v in given.kwargs.items()}
        params = case.parameters(torch.float64)
        theirs = peer(params, **options)
        train(theirs, 3)
        middle, checkpoint = values(params), reloaded(theirs)
        train(theirs, 3, 3)
        wanted = values(params)

        others = [(n, Parameter(m.clone())) for (n, _), m in zip(params, middle, strict=True)]
        ours = case.make(others)
        ours.load_state_dict(checkpoint)
        back = reloaded(ours)
        train(ours, 3, 3)
        third = [(n, Parameter(m.clone())) for (n, _), m in zip(params, middle, strict=True)]
        returned = peer(third, **options)
        returned.load_state_dict(back)
        train(returned, 3, 3)
        for found in (values(others), values(third)):
            for a, b in zip(found, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=given.desc)
