"""How long steps take: contenders in turn, until the time is up.

Input: a function for each contender. Output: its samples in milliseconds. On a GPU events time the
device. Does not do: judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

LEAST_ROUNDS = 5
"""Below it a median says nothing; it is reached even where time is up."""


def race(
    steps: Mapping[str, Callable[[], Any]],
    seconds: float,
    before: Callable[[], None] | None = None,
    device: str = "cpu",
    turn: int = 1,
) -> dict[str, list[float]]:
    """Milliseconds of a step, for every turn of every contender; A B C A B C after one round to
    warm up. A turn is `turn` steps in a row, and its sample their mean.

    `before` runs before each turn and is not timed. A contender that takes more than an equal
    share of the time still gets LEAST_ROUNDS.
    """
    sample = _on_device if device != "cpu" else _on_host
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        if before:
            before()
        step()
    begin = time.perf_counter()
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - begin < seconds:
        for name, step in steps.items():
            if before:
                before()
            samples[name].append(sample(step, turn))
        rounds += 1
    return samples


def _on_host(step: Callable[[], Any], turn: int) -> float:
    begin = time.perf_counter()
    for _ in range(turn):
        step()
    return (time.perf_counter() - begin) * 1e3 / turn


def _on_device(step: Callable[[], Any], turn: int) -> float:
    start, end = (torch.Event(device="cuda", enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(turn):
        step()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / turn
