"""Training beside references: what is there is not run again, and the verdict is of the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import page, training


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """What `train` was asked for, of two rules; losses are the seed, and 0.4 more of one side."""
    asked: list[tuple[Any, int]] = []

    def train(task: Any, make: Any, seed: int) -> dict[str, Any]:
        asked.append((make, seed))
        return {"held_out": seed + 0.4 * (make == "far"), "curve": [2.0, 1.0], "seconds": 0.0}

    made = {"Near": ("near", "a peer", "it"), "Far": ("far", "a peer", "it")}
    monkeypatch.setattr(training, "contenders", lambda: made)
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "characters", lambda scale: None)
    return asked


def test_what_is_there_is_not_run_again(ran: list[tuple[Any, int]], tmp_path: Path) -> None:
    out = tmp_path / "training.json"
    found = training.run(out, 20, 2)
    assert len(ran) == 2 * 2 * 2
    assert training.run(out, 20, 2) == found == json.loads(out.read_text("utf-8"))
    assert len(ran) == 8
    assert len(training.run(out, 20, 3)["runs"]) == 12 and len(ran) == 12
    training.run(out, 10, 2)
    assert len(ran) == 20, "runs of another length are others"
    training.chart(found, tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_the_verdict_is_of_the_figures(ran: list[tuple[Any, int]], tmp_path: Path) -> None:
    found = training.run(tmp_path / "training.json", 20, 3)
    for seed in range(3):  # seeds that are 0.1 apart, and 0.4 between the sides
        for side in ("ours", "reference"):
            found["runs"][f"Far, {side}, {seed}"]["held_out"] = 0.1 * seed + 0.4 * (side == "ours")
    (tmp_path / "training.json").write_text(json.dumps(found), "utf-8")
    near, far = page.training(tmp_path).splitlines()[2:]
    assert near == "| Near | a peer | 1.0000 | 1.0000 | 0.0000 | 1.0000 | yes |"
    assert far == "| Far | a peer | 0.5000 | 0.1000 | 0.4000 | 0.1000 | NO |"


def test_the_transcription_is_the_rule() -> None:
    """SWAN has no published code; where shapes and rates are alike ours and it step alike."""
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((4, 7), (7, 4), (5, 5))]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    first = training.optdsl.zoo.SWAN(ours, lr=0.1, backend="cpu")
    second = training.SWANReference(theirs, lr=0.1)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        first.step()
        second.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
