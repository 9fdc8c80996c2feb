"""A compiled optimizer in Hugging Face's Trainer, in both of its ways.

    python examples/integrations/hugging_face.py

`optimizer_cls_and_kwargs` leaves it to the Trainer to make the optimizer (and to keep weight decay
from biases and norms); `optimizers` takes one that was made by hand. The model is a GPT-2 of one
layer, made on the spot; it learns to count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import optdsl
from optdsl.zoo import AdamW

LENGTH, WORDS = 16, 32

CLIPPED_ADAMW = """\
optimizer Mine = Clipped(AdamW)

wrapper Clipped(inner, max_norm = 1.0):
    g *= min(1, max_norm / (norm(g, over = all) + 1e-6))
    step inner
"""


class Counting(Dataset[Mapping[str, torch.Tensor]]):
    """Sequences n, n + 1, n + 2, ... modulo the number of words."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> Mapping[str, torch.Tensor]:
        words = (torch.arange(LENGTH) + index) % WORDS
        return {"input_ids": words, "labels": words}


def small_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2)
    )


def arguments(folder: str, **changes: object) -> TrainingArguments:
    given = {
        "output_dir": folder,
        "max_steps": 40,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 4,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 10,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**{**given, **changes})


def losses(trainer: Trainer) -> list[float]:
    """The logged losses, in order."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def train_by_class(
    folder: str, optimizer: type[torch.optim.Optimizer] = AdamW, **changes: object
) -> Trainer:
    """The Trainer makes the optimizer from a class and keywords, and clips."""
    trainer = Trainer(
        model=small_model(),
        args=arguments(folder, **changes),
        train_dataset=Counting(),
        optimizer_cls_and_kwargs=(optimizer, {"lr": 1e-2, "betas": (0.9, 0.95)}),
    )
    trainer.train()
    return trainer


def train_by_object(folder: str) -> Trainer:
    """The optimizer is made here, clips in its own pass, and the Trainer is told not to clip."""
    model = small_model()
    rules = optdsl.compile_text(CLIPPED_ADAMW)
    optimizer = rules.Mine(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=40)
    trainer = Trainer(
        model=model,
        args=arguments(folder, max_grad_norm=0.0),
        train_dataset=Counting(),
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as output:
        for train in (train_by_class, train_by_object):
            print(f"{train.__name__}: {losses(train(output))}")
