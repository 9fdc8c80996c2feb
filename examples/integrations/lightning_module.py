"""A compiled optimizer in Lightning: automatic and manual optimization, two ways to clip.

python examples/integrations/lightning_module.py
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

import optdsl
from optdsl.zoo import Lion

CLIPPED_LION = """\
optimizer Clipped(lr = 1e-4, betas = (0.9, 0.99), max_norm = 1.0):
    beta1, beta2 = betas
    state m named "exp_avg"
    g *= min(1, max_norm / (norm(g, over = all) + 1e-6))
    p -= lr * sign(lerp(g, m, beta1))
    m = lerp(g, m, beta2)
"""


def data() -> DataLoader[tuple[Tensor, ...]]:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 4, generator=random)
    return DataLoader(
        TensorDataset(inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])), 32
    )


class Line(lightning.LightningModule):
    """Linear regression; Lightning calls backward and step."""

    optimizer: type[torch.optim.Optimizer] = Lion

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)
        self.losses: list[float] = []

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, wanted = batch
        loss = mse_loss(self.layer(inputs), wanted)
        self.losses.append(loss.item())
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        """The trainer clips (`gradient_clip_val`) before the step."""
        optimizer = self.optimizer(self.parameters(), lr=3e-2, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class ByHand(Line):
    """The same with `manual_optimization`, and the clip inside the rule."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return optdsl.compile_text(CLIPPED_LION).Clipped(self.parameters(), lr=3e-2)


def fit(module: Line, **options: Any) -> Line:
    trainer = lightning.Trainer(
        max_epochs=15,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data())
    return module


if __name__ == "__main__":
    automatic = fit(Line(), gradient_clip_val=1.0)
    by_hand = fit(ByHand())
    print(f"automatic: {automatic.losses[0]:.3f} -> {automatic.losses[-1]:.3f}")
    print(f"by hand:   {by_hand.losses[0]:.3f} -> {by_hand.losses[-1]:.3f}")
