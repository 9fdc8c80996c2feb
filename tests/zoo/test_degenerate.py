"""What shipped rules do where formulas have no answer: zero gradients and parameters, one element,
NaN and infinity, singular matrices.

A rule may leave a parameter without a gradient, or step it as it says; it may not turn it into NaN
or infinity. NaN and infinite gradients follow its arithmetic: on every target alike.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optdsl import interpreter
from optdsl.ir.nodes import Rule
from optdsl.verify.settings import settings
from tests.rules import interpreted, shipped_rules
from tests.verify.edges import FEW, KINDS, SHAPES, edges
from tests.verify.subjects import COMPILED, SURROUNDED, subject

SMALL = [(), (1,), (4,), (1, 5), (5, 1), (3, 4)]


def stepped(rule: Rule, params: list[Tensor], grads: list[list[Tensor]]) -> list[Tensor]:
    """The parameters after a step for each of `grads`, with the interpreter."""
    group = {hyper.name: hyper.default for hyper in rule.hypers}
    attributes = {each.name: each.default for each in rule.attributes}
    members = [
        interpreter.Member(p.clone(), None, group, t=0, index=i, attributes=attributes)
        for i, p in enumerate(params)
    ]
    for number, step in enumerate(grads, start=1):
        for member, g in zip(members, step, strict=True):
            member.g, member.t, member.steps = g, number, number
        outcome = interpreter.run(rule, members)
        for member, update in zip(members, outcome.updates, strict=True):
            member.p = member.p if update.p is None else update.p
            member.states |= update.states
            member.shared |= outcome.shared
    return [member.p for member in members]


def tensors(value: float) -> list[Tensor]:
    return [torch.full(shape, value, dtype=torch.float64) for shape in SMALL]


NAMES = sorted(shipped_rules().keys() - interpreted().keys())


@pytest.mark.parametrize("start", [0.0, 1.0], ids=["zero_parameters", "ones"])
@pytest.mark.parametrize("name", NAMES)
def test_zero_gradients_leave_numbers(name: str, start: float) -> None:
    for p in stepped(shipped_rules()[name], tensors(start), [tensors(0.0)] * 3):
        assert p.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_after_zeros_leaves_numbers(name: str) -> None:
    grads = [tensors(0.0), tensors(0.0), tensors(0.5), tensors(0.0)]
    for p in stepped(shipped_rules()[name], tensors(0.0), grads):
        assert p.isfinite().all()


SAMPLE = ("ClippedLion", "GaLore", "MeZO", "PrivateSGD")
"""One of each kind: elements and over all parameters, a library's factors, a model, inputs."""
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in COMPILED if name not in SAMPLE]


def held(name: str, target: str) -> None:
    """Runs each kind of bad input: what is NaN or infinite for the interpreter is the same for the
    target, all else within its bounds."""
    one, shapes = subject(name), FEW if name in SURROUNDED else SHAPES
    for kind in KINDS:
        trial = edges(kind)(one, target, torch.float32, settings(one.rule)[0], shapes)
        outcome = trial.run()
        assert outcome.passed, f"{kind}: {outcome.failure}"


@pytest.mark.parametrize("target", ["cpu", "reference"])
@pytest.mark.parametrize("name", [*SAMPLE, *SLOW])
def test_bad_input_is_what_the_rule_makes_of_it(name: str, target: str) -> None:
    held(name, target)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of Triton's interpreter
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "ClippedLion" else pytest.mark.slow)
        for name in COMPILED
    ],
)
def test_bad_input_is_that_for_triton(name: str) -> None:
    held(name, "triton")
