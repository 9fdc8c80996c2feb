"""A test for every shipped rule on every backend, whose outcome is a cell of docs/contract.md.

    @contract("maximize")
    def test_uphill(case: Case) -> None:
        optimizer = case.make(case.parameters(), maximize=True)

Input: the name of an item. Output: the test, once for each rule and backend. A test that finds a
rule rightly exempt asserts what happens instead and says why: `record_property("reason", "...")`;
the cell then shows the reason. Relies on: tests/rules.py. Does not do: the page (report.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl.zoo
from optdsl.runtime.optimizer import Optimizer
from tests.contract.items import ITEMS
from tests.rules import CORE, interpreted, shipped_rules

BACKENDS = ("cpu", "reference", "triton")
TWICE = {"AdamW", "Adafactor", "ClippedLion"}
"""The rules whose fast tests run on the reference, too."""
IN_TORCH = {
    "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adadelta", "Adamax",
    "Adafactor", "Muon",
}  # fmt: skip
"""The rules that torch.optim has under the same name."""
SHAPES = ((3, 4), (5,), (2, 2, 3))

Named = list[tuple[str, Parameter]]


@dataclass(frozen=True)
class Case:
    """One shipped rule on one backend."""

    rule: str
    backend: str

    def __str__(self) -> str:
        return f"{self.rule}-{self.backend}"

    @property
    def optimizer(self) -> type[Optimizer]:
        found: type[Optimizer] = getattr(optdsl.zoo, self.rule)
        return found

    @property
    def draws(self) -> bool:
        """Whether the rule draws random numbers."""
        variants = self.optimizer.program.variants
        in_kernels = any(variant.draws for variant in variants)
        return in_kernels or any(each.draws for variant in variants for each in variant.libraries)

    def make(self, params: Any, **options: Any) -> Any:
        """An optimizer on this backend; `params` as for torch.optim."""
        make: Callable[..., Any] = self.optimizer
        return make(params, **{"backend": self.backend, **options})

    def parameters(
        self, dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES
    ) -> Named:
        """Parameters with names, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(shape, generator=generator) for shape in shapes]
        return [(f"layer{i}.weight", Parameter(each.to(dtype))) for i, each in enumerate(values)]


def contract(item: str, *, backends: Sequence[str] = BACKENDS) -> Callable[[Any], Any]:
    """Runs a test, which takes `case`, for every shipped rule; its outcomes make the row `item`."""
    assert item in ITEMS, f"{item!r} is no item of the contract"
    cases = [
        pytest.param(case, id=str(case), marks=() if _is_fast(case) else pytest.mark.slow)
        for case in (Case(rule, backend) for rule in rules() for backend in backends)
    ]

    def mark(test: Any) -> Any:
        return pytest.mark.contract(item)(pytest.mark.parametrize("case", cases)(test))

    return mark


def _is_fast(case: Case) -> bool:
    return case.rule in CORE and (
        case.backend == "cpu" or (case.backend == "reference" and case.rule in TWICE)
    )


def rules() -> list[str]:
    """The shipped rules that a target runs, by name."""
    return sorted(shipped_rules().keys() - interpreted().keys())


def rate_of(case: Case) -> float:
    """The rule's own learning rate, or 0.01."""
    return float(dict(case.optimizer.program.hypers).get("lr", 0.01))


def train(optimizer: Any, steps: int, first: int = 0) -> None:
    """Steps with gradients that depend on the step and the parameter's name or place."""
    for step in range(first, first + steps):
        set_gradients(optimizer, step)
        optimizer.step()


def set_gradients(optimizer: Any, step: int) -> None:
    """New gradients for all parameters that want one."""
    for name, p in named(optimizer):
        if p.requires_grad:
            generator = torch.Generator().manual_seed(1000 * step + int(name[5]))
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def named(optimizer: Any) -> Iterator[tuple[str, Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)


def values(params: Named) -> list[Tensor]:
    """Copies of what the parameters hold now."""
    return [p.detach().clone() for _, p in params]


def same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit."""
    return all(map(torch.equal, found, wanted))
