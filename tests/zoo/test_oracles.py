"""The published values themselves: they load, they name rules, torch's own optimizers keep them.

The last makes sure that `check` passes what is right, before it judges what this project compiles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.zoo.oracles import VARIANTS, Case, Given, cases, check

ZOO = Path(__file__).parents[2] / "optdsl" / "zoo"
TORCH = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "Adafactor": torch.optim.Adafactor,
}
TORCH_CASES = [case for case in cases() if case.runs in TORCH]


class TorchRun:
    """A rule of torch.optim as a run; `distort` is added to one entry of every gradient."""

    def __init__(self, case: Case, distort: float = 0.0) -> None:
        self.params = [p.clone().requires_grad_() for p in case.params]
        self.optimizer = TORCH[case.runs](self.params, **case.hyper_at(1), foreach=False)
        self.distort = distort

    def step(self, grads: Sequence[Tensor], hyper: dict[str, Any], given: Given) -> None:
        self.optimizer.param_groups[0].update(hyper)
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = grad
            p.grad.view(-1)[0] += self.distort
        self.optimizer.step()

    def evaluation(self) -> Sequence[Tensor]:
        raise AssertionError("torch.optim has no value for evaluation")

    def state(self, key: str) -> Sequence[Tensor]:
        return [self.optimizer.state[p][key] for p in self.params]

    @property
    def reports(self) -> Mapping[str, Any]:
        raise AssertionError("torch.optim reports nothing")


def _defined(paths: Sequence[Path]) -> set[str]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return set(re.findall(r"^(?:optimizer|wrapper) (\w+)", text, re.MULTILINE))


def test_every_shipped_file_has_its_values() -> None:
    assert {case.stem for case in cases()} - {"schedules"} == {p.stem for p in ZOO.glob("*.opt")}


def test_case_names_a_rule_that_is_written_down() -> None:
    known = _defined([VARIANTS, *ZOO.glob("*.opt")])
    assert {case.runs for case in cases()} <= known


def test_case_names_are_unique() -> None:
    names = [str(case) for case in cases()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", TORCH_CASES, ids=str)
def test_torch_keeps_the_values(case: Case) -> None:
    assert check(case, TorchRun(case)) <= 1e-14


@pytest.mark.parametrize("case", TORCH_CASES, ids=str)
def test_one_entry_wrong_by_a_millionth_is_noticed(case: Case) -> None:
    with pytest.raises(AssertionError, match="off by"):
        check(case, TorchRun(case, distort=1e-6))
