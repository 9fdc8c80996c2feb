"""Tensors that a thread steps alone: all work is there once, in order, and no bit differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import optdsl
from optdsl.runtime.cpu import launch as cpu
from optdsl.runtime.cpu.nearness import Phase, phases
from optdsl.runtime.stages.plan import DevicePlan
from optdsl.runtime.stages.tables import StageTable

SHAPES = [(64, 48), (5,), (300, 200), (1000,), (0,), (7, 3), (40_000,), ()] * 3

RULES = {
    "tensor": "optimizer Mine = LAMB\n",
    "rows": "optimizer Mine = Adafactor\n",
    "all": """\
optimizer Mine = Clipped(LAMB)

wrapper Clipped(inner, max_norm = 1.0):
    g *= min(1, max_norm / (norm(g, over = all) + 1e-6))
    step inner
""",
    "between": """\
optimizer Mine(lr = 0.1):
    u = g / (norm(g) + 1)
    v = u * max(1, norm(u, over = all))
    p -= lr * v / (norm(v) + 1)
""",
}


def made(rule: str, seed: int = 0) -> tuple[Any, list[Parameter]]:
    torch.manual_seed(seed)
    params = [Parameter(torch.randn(shape)) for shape in SHAPES]
    return optdsl.compile_text(RULES[rule], "mine.opt").Mine(params), params


def run(rule: str, steps: int = 2) -> tuple[Any, list[Parameter]]:
    optimizer, params = made(rule)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return optimizer, params


@pytest.mark.parametrize("rule", RULES)
def test_no_bit_differs(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "SERIAL_WORK", 0)
    results = []
    for room in (2**62, 2**17, 1):
        for threads in (1, 2, 5):
            monkeypatch.setattr(cpu, "NEAR", room)
            monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
            results.append([p.detach() for p in run(rule)[1]])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def plan_of(rule: str) -> DevicePlan:
    optimizer, _ = run(rule)
    (plans,) = optimizer._engine._plans._plans.values()
    (plan,) = plans
    return plan


def stage_lists(found: Sequence[Phase]) -> list[list[StageTable]]:
    return [stages for phase in found for stages in (phase.shared, *phase.alone)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("room", [1, 2**17, 2**40])
@pytest.mark.parametrize("rule", RULES)
def test_all_work_is_there_once_and_in_order(rule: str, room: int, threads: int) -> None:
    stages = plan_of(rule).stages
    found = phases(stages, threads, room)
    assert all(len(phase.alone) == threads for phase in found)
    for stage in stages:
        parts = [s for each in stage_lists(found) for s in each if s.number == stage.number]
        for table, launch in stage.launches:
            own = [part.tasks for s in parts for t, part in s.launches if t is table]
            assert same_rows(np.concatenate(own), launch.tasks)
        assert same_rows(np.concatenate([s.finish for s in parts]), stage.finish)
        assert sum(len(s.finish_shared) for s in parts) == len(stage.finish_shared)
    for each in stage_lists(found):
        launches = [one for stage in each for one in stage.launches]
        for tensor in {(id(t), int(row)) for t, part in launches for row in part.tasks[:, 0]}:
            order = [s.number for s in each if holds(s, tensor)]
            assert order == sorted(order) and len(order) == len(set(order))


def holds(stage: StageTable, tensor: tuple[int, int]) -> bool:
    return any(id(t) == tensor[0] and tensor[1] in part.tasks[:, 0] for t, part in stage.launches)


def same_rows(found: np.ndarray, wanted: np.ndarray) -> bool:
    return sorted(map(tuple, found.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_what_is_summed_over_all_ends_a_phase() -> None:
    found = phases(plan_of("all").stages, 2, 2**17)
    assert [bool(stages) for stages in (found[0].shared, *found[0].alone)] == [True, False, False]
    assert len(found) == 2 and all(found[1].alone)


def test_threads_have_about_equal_parts() -> None:
    (phase,) = phases(plan_of("tensor").stages, 2, 2**17)
    launches = [[part for stage in each for _, part in stage.launches] for each in phase.alone]
    work = [sum(int(part.work.sum()) for part in each) for each in launches]
    assert max(work) < 1.3 * min(work)


def test_one_tensor_is_for_all_threads() -> None:
    p = Parameter(torch.randn(300, 300))
    p.grad = torch.randn(300, 300)
    optimizer = optdsl.compile_text(RULES["tensor"], "mine.opt").Mine([p])
    optimizer.step()
    (plans,) = optimizer._engine._plans._plans.values()
    (phase,) = phases(plans[0].stages, 2, 2**10)
    assert len(phase.shared) == 2 and not any(phase.alone)
