"""Whatever a training script does between steps, in any order, ours goes on as torch's does."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from tests.runtime.programs import Adam
from tests.runtime.test_step import close, copies

SHAPES = [(3, 4), (), (7,), (0, 2), (2, 3, 2), (40, 3)]


class History:
    """An optimizer of ours and one of torch's, which live through the same."""

    def __init__(self, first: int) -> None:
        generator = torch.Generator().manual_seed(1)
        values = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        self.params = [[Parameter(each.clone()) for each in values] for _ in range(2)]
        self.used = first
        self.optimizers: list[Any] = [
            make(ps[:first], lr=0.1)
            for make, ps in zip((Adam, torch.optim.Adam), self.params, strict=True)
        ]
        self.clock = 0

    def step(self, mask: list[bool]) -> None:
        self.clock += 1
        generator = torch.Generator().manual_seed(self.clock)
        for index, pair in enumerate(zip(*self.params, strict=True)):
            g = torch.randn(pair[0].shape, generator=generator, dtype=torch.float64)
            for p in pair:
                p.grad = g.clone() if mask[index] else None
        for each in self.optimizers:
            each.step()

    def rate(self, lr: float) -> None:
        for each in self.optimizers:
            each.param_groups[-1]["lr"] = lr

    def add(self) -> None:
        if self.used < len(SHAPES):
            for each, ps in zip(self.optimizers, self.params, strict=True):
                each.add_param_group({"params": [ps[self.used]], "lr": 0.05})
            self.used += 1

    def move(self, index: int) -> None:
        for ps in self.params:
            ps[index].data = ps[index].data.clone()

    def turn(self) -> None:
        """Lays a matrix out by columns."""
        for ps in self.params:
            ps[0].data = ps[0].data.T.contiguous().T

    def forget(self, index: int) -> None:
        """Drops a parameter's states, so that they begin anew."""
        for each, ps in zip(self.optimizers, self.params, strict=True):
            each.state[ps[min(index, self.used - 1)]].clear()

    def copied(self) -> None:
        self.optimizers, self.params = copy.deepcopy((self.optimizers, self.params))

    def swapped(self) -> None:
        """Each goes on from the other's checkpoint."""
        saved = []
        for each in self.optimizers:
            file = io.BytesIO()
            torch.save(each.state_dict(), file)
            file.seek(0)
            saved.append(torch.load(file))
        for each, other in zip(self.optimizers, reversed(saved), strict=True):
            each.load_state_dict(other)

    def compare(self) -> None:
        ours, torchs = self.params
        close(ours, copies(torchs))


index = st.integers(0, len(SHAPES) - 1)
masks = st.lists(st.booleans(), min_size=len(SHAPES), max_size=len(SHAPES))
actions = st.one_of(
    st.tuples(st.just("step"), masks),
    st.tuples(st.just("step"), st.just([True] * len(SHAPES))),
    st.tuples(st.just("rate"), st.sampled_from([0.0, 0.01, 1.0])),
    st.tuples(st.sampled_from(["move", "forget"]), index),
    st.tuples(st.sampled_from(["add", "turn", "copied", "swapped"])),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, len(SHAPES)), st.lists(actions, min_size=3, max_size=14))
def test_any_history(first, history):
    both = History(first)
    for name, *arguments in history:
        getattr(both, name)(*arguments)
        both.compare()
    both.step([True] * len(SHAPES))
    both.compare()
