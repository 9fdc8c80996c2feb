"""What a step launches: the passes of its plan, and nothing that would have to be compiled anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from triton.runtime.interpreter import GridExecutor

import optdsl.zoo
from optdsl.explain import explain_plan
from optdsl.runtime.triton.launch import TritonRunner
from tests.rules import CORE
from tests.triton.sources import ZOO, plan_of

Key = tuple[Any, ...]


@contextmanager
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Key]]:
    """What Triton would compile for the launches inside: it makes a kernel for each set of
    constants and options, and of each argument for its type and whether 16 divides it."""
    keys: set[Key] = set()
    run = GridExecutor.__call__

    def launched(self: Any, *args: Any, **kwargs: Any) -> None:
        kinds = [(each.dtype, each.data_ptr() % 16 == 0) for each in args]
        keys.add((self.fn.__name__, *kinds, *map(repr, sorted(kwargs.items(), key=str))))
        run(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(GridExecutor, "__call__", launched)
        yield keys


def trained(name: str, shapes: list[tuple[int, ...]], steps: int = 2, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = getattr(optdsl.zoo, name)(params, backend="triton", **options)
    for _ in range(steps):
        step(optimizer)
    return optimizer


def step(optimizer: Any) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def closure() -> Tensor:
        loss: Tensor = sum((p.square().sum() for p in params), torch.zeros(()))
        loss.backward()
        return loss

    if any(variant.models for variant in optimizer.program.variants):
        optimizer.step(closure)
        return
    closure()
    optimizer.step()


def rules(fast: set[str]) -> list[Any]:
    """Those that step on gradients alone; few of them are fast."""
    return [
        pytest.param(name, marks=() if name in fast else pytest.mark.slow)
        for name in sorted({source.split("/")[1] for source in ZOO})
    ]


@pytest.mark.parametrize("name", rules(CORE))
def test_a_step_launches_the_passes_of_its_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor, so one class and one tile: what `explain` says of the variant that ran."""
    optimizer = trained(name, [(12, 16)], steps=1)
    source = next(each for each in ZOO if each.split("/")[1] == name)
    plan = plan_of(source)
    reports = {tuple(e.name for e in r.passes): r.launches for r in explain_plan(plan).variants}
    begun: list[Any] = []
    begin = TritonRunner.begin

    def noted(self: Any, *, addresses: bool) -> None:
        begun.append(self._plan.classes[0].table.variant)
        begin(self, addresses=addresses)

    monkeypatch.setattr(TritonRunner, "begin", noted)
    for _ in range(2):
        before = optimizer.counters.launches
        step(optimizer)
        kernels = {each.name for each in begun.pop().kernels}
        ((names, launches),) = (e for e in reports.items() if kernels & set(e[0]))
        assert optimizer.counters.launches - before == launches
        assert kernels <= set(names) and launches >= len(kernels)


FLAT = {"AdamW", "ClippedLion", "LAMB", "SGD"}


def is_flat(name: str) -> bool:
    kernels = [e for v in getattr(optdsl.zoo, name).program.variants for e in v.kernels]
    return all(each.layout == "flat" for each in kernels)


@pytest.mark.parametrize("name", rules(FLAT))
def test_nothing_is_compiled_for_numbers_shapes_or_counts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of passes that need not tell rows from columns."""
    if not is_flat(name):
        pytest.skip("tiles of rows are as wide as they: test_other_rows_are_of_few_tiles")
    with compiled(monkeypatch) as before:
        trained(name, [(40, 32), (7,)], steps=3)
    with compiled(monkeypatch) as after:
        trained(name, [(9, 16)], steps=3)
        optimizer = trained(name, [(33,), (2, 3, 5), (), (1200,)], steps=1, maximize=True)
        for group in optimizer.param_groups:
            if "lr" in group:
                group["lr"] *= 0.37
        optimizer.add_param_group({"params": [Parameter(torch.ones(5, 7))]})
        step(optimizer)
        step(optimizer)
    assert before
    assert after <= before, after - before


def test_other_rows_are_of_few_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile's width and height come of the width of the rows alone, in powers of two."""
    with compiled(monkeypatch) as before:
        trained("Adafactor", [(40, 48), (3, 40), (2, 64)])
    with compiled(monkeypatch) as after:
        trained("Adafactor", [(70, 64), (17, 33), (1, 61), (5, 35)])
    assert after <= before, after - before


@pytest.mark.parametrize("options", [{"storage": "int8"}, {"storage": "fp8"}], ids=str)
def test_storage_compiles_once(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with compiled(monkeypatch) as before:
        trained("AdamW", [(4097,)], steps=1, **options)
    with compiled(monkeypatch) as after:
        trained("AdamW", [(64, 65), (4099,)], steps=1, lr=0.5, **options)
    assert after == before
