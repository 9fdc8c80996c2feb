"""A compiled optimizer under Hugging Face's Accelerate, with gradient accumulation.

python examples/integrations/accelerated.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from optdsl.zoo import LAMB


def train(accumulate: int = 2, epochs: int = 20) -> list[float]:
    """Trains a small classifier; the loss of each epoch's last batch."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    inputs = torch.randn(256, 8)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = LAMB(model.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 8 // accumulate)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=32)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    losses = []
    for _ in range(epochs):
        for batch, wanted in loader:
            with accelerator.accumulate(model):
                loss = cross_entropy(model(batch), wanted)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    found = train()
    print(f"loss {found[0]:.3f} -> {found[-1]:.3f}")
