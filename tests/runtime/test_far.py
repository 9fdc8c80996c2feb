"""Elements beyond 2^31 are reached, in memory of which few pages are ever touched."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl
from optdsl.runtime.stages import tables
from optdsl.zoo import AdamW

FAR = 2**31
TASKS = 2
"""The last tasks of each pass, which alone are run."""
RULE = """
optimizer Rows(lr = 0.1):
    p -= lr * g / (1 + norm(g, axis = 1))

optimizer Longest(lr = 0.1):
    p -= lr * g / (1 + max(abs(g), over = all))
"""


def sparse(*shape: int) -> Tensor:
    """Zeros on a file without blocks: a page is there once it is written."""
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * int(np.prod(shape)))
        return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=shape))


@pytest.fixture
def _last_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tables.pieces

    def last(*given: Any) -> tuple[Any, Any]:
        lo, hi = whole(*given)
        return lo[-TASKS:], hi[-TASKS:]

    monkeypatch.setattr(tables, "pieces", last)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(shape: Sequence[int], count: int) -> tuple[Parameter, Parameter]:
    """A parameter of `shape`, and one of its last `count` rows; both with a gradient."""
    far, near = Parameter(sparse(*shape)), Parameter(numbers(count, *shape[1:], seed=0))
    near.grad = numbers(count, *shape[1:], seed=1)
    far.data[-count:] = near.data
    far.grad = sparse(*shape)
    far.grad[-count:] = near.grad
    return far, near


@pytest.mark.usefixtures("_last_tasks")
def test_an_element_of_a_vector() -> None:
    # The last tasks: one of 16,384 elements, one of 5.
    count = 16_384 + 5
    far, near = pair((FAR + count,), count)
    ours, plain = AdamW([far], lr=0.1), AdamW([near], lr=0.1)
    step = torch.tensor(0.0)
    ours.state[far] = {
        "step": step,
        "exp_avg": sparse(*far.shape),
        "exp_avg_sq": sparse(*far.shape),
    }
    for _ in range(3):
        ours.step()
        plain.step()
    assert torch.equal(far[FAR:], near)
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(ours.state[far][key][FAR:], plain.state[near][key])
    for kept in (far, *list(ours.state[far].values())[1:]):
        assert not kept[FAR - 4096 : FAR].any()
        assert not kept[: 2**16].any()  # where 32 bits would have wrapped to


@pytest.mark.usefixtures("_last_tasks")
@pytest.mark.parametrize("rule", ["Rows", "Longest"])
def test_a_row_of_a_matrix(rule: str, tmp_path: Path) -> None:
    (tmp_path / "far.opt").write_text(RULE)
    make = getattr(optdsl.load(tmp_path / "far.opt"), rule)
    # Rows of 2^15 elements are tasks of their own; flat ones are halves of them.
    rows, cols = 2**16 + 3, 2**15
    far, near = pair((rows, cols), 1)
    before = near.detach().clone()
    near.data[:], near.grad = before, near.grad.clone()
    ours, plain = make([far]), make([near])
    ours.step()
    plain.step()
    assert not torch.equal(near, before)
    assert torch.equal(far[-1:], near)
    assert not far[-4:-1].any()
    assert not far[:4].any()


def test_rows_that_32_bits_cannot_count_are_refused_on_triton(tmp_path: Path) -> None:
    (tmp_path / "far.opt").write_text(RULE)
    far = Parameter(sparse(1, 2**30 + 1))
    far.grad = sparse(1, 2**30 + 1)
    ours = optdsl.load(tmp_path / "far.opt").Rows([("wide", far)], backend="triton")
    with pytest.raises(ValueError, match="parameter 'wide' has rows of 1073741825 elements"):
        ours.step()
    assert int(ours.state[far]["step"]) == 0
