"""The examples of other people's training loops: they train, and go where torch's own rule goes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

GROUPED = pytest.mark.xdist_group("integrations")
"""In one worker, since the libraries take 8 s to import."""
FOLDER = Path(__file__).parents[2] / "examples" / "integrations"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples can be imported, also by the processes that they start."""
    monkeypatch.syspath_prepend(str(FOLDER))


def example(name: str, needs: str) -> ModuleType:
    pytest.importorskip(needs, reason=f"the extra `integrations` brings {needs}")
    return importlib.import_module(name)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@GROUPED
def test_hugging_face_makes_the_optimizer_from_its_class(tmp_path: Path) -> None:
    hugging_face = example("hugging_face", "transformers")
    ours = hugging_face.train_by_class(str(tmp_path), max_steps=12, logging_steps=1)
    assert type(ours.optimizer.optimizer).__module__.startswith("optdsl.")
    # The Trainer puts biases and norms in a group without decay.
    assert {g["weight_decay"] for g in ours.optimizer.param_groups} == {0.0, 0.01}
    # Losses and not weights: a key's bias has no effect, its gradient is noise, and Adam makes
    # steps of full length of that.
    torchs = hugging_face.train_by_class(
        str(tmp_path), torch.optim.AdamW, max_steps=12, logging_steps=1
    )
    found, wanted = hugging_face.losses(ours), hugging_face.losses(torchs)
    assert len(found) == 12
    assert found == pytest.approx(wanted, rel=1e-4)


@GROUPED
def test_hugging_face_resumes_where_it_stopped(tmp_path: Path) -> None:
    hugging_face = example("hugging_face", "transformers")
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    whole = hugging_face.train_by_class(str(tmp_path), **options)
    again = hugging_face.Trainer(
        model=hugging_face.small_model(),
        args=hugging_face.arguments(str(tmp_path), **options),
        train_dataset=hugging_face.Counting(),
        optimizer_cls_and_kwargs=(hugging_face.AdamW, {"lr": 1e-2, "betas": (0.9, 0.95)}),
    )
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert torch.equal(weights(whole.model), weights(again.model))


@GROUPED
def test_hugging_face_takes_an_optimizer_made_by_hand(tmp_path: Path) -> None:
    hugging_face = example("hugging_face", "transformers")
    first, last = hugging_face.losses(hugging_face.train_by_object(str(tmp_path)))[::3]
    assert last < first / 3


@GROUPED
def test_lightning_steps_automatically() -> None:
    lines = example("lightning_module", "lightning")

    class TorchLine(lines.Line):  # type: ignore[misc, name-defined]
        optimizer = torch.optim.AdamW

    class OurLine(lines.Line):  # type: ignore[misc, name-defined]
        optimizer = example("hugging_face", "transformers").AdamW

    ours, torchs = (lines.fit(each(), gradient_clip_val=1.0) for each in (OurLine, TorchLine))
    torch.testing.assert_close(weights(ours), weights(torchs), rtol=1e-4, atol=1e-6)
    lion = lines.fit(lines.Line(), gradient_clip_val=1.0)
    assert lion.losses[-1] < lion.losses[0] / 5


@GROUPED
def test_lightning_is_stepped_by_hand_with_the_clip_in_the_rule() -> None:
    lines = example("lightning_module", "lightning")
    by_hand = lines.fit(lines.ByHand())
    assert by_hand.losses[-1] < by_hand.losses[0] / 100


@GROUPED
def test_accelerate_accumulates_gradients() -> None:
    accelerated = example("accelerated", "accelerate")
    found = accelerated.train(epochs=20)
    assert found[-1] < 0.7 * found[0]


def test_data_parallel_processes_keep_the_same_weights(tmp_path: Path) -> None:
    data_parallel = example("data_parallel", "torch")
    (first, second) = data_parallel.train(str(tmp_path))
    for a, b in zip(first["weights"], second["weights"], strict=True):
        assert torch.equal(a, b)
    model = data_parallel.model()
    optimizer = data_parallel.AdamW(model.parameters(), lr=1e-2)
    for step in range(data_parallel.STEPS):
        inputs, wanted = data_parallel.batch(step)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), wanted).backward()
        optimizer.step()
    alone = weights(model)
    both = torch.cat([each.flatten() for each in first["weights"]])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-6)
