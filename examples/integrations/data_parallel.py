"""A compiled optimizer with DistributedDataParallel: two processes on one machine, over gloo.

    python examples/integrations/data_parallel.py

Every process takes the same step on the same averaged gradients, so that the weights stay equal to
the last bit: sums are formed in a fixed order. A random draw's key holds no rank, for the same
reason.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from optdsl.zoo import AdamW

STEPS = 30


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole batch of a step; each process takes its half."""
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(step))
    return inputs, inputs.square().sum(1, keepdim=True)


def worker(rank: int, world: int, folder: str) -> None:
    """One process: its part of every batch; its weights and losses go to a file."""
    torch.set_num_threads(1)
    meeting = f"file://{Path(folder).absolute() / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    parallel = DistributedDataParallel(model())
    optimizer = AdamW(parallel.parameters(), lr=1e-2)
    losses = []
    for step in range(STEPS):
        inputs, wanted = (each.chunk(world)[rank] for each in batch(step))
        loss = mse_loss(parallel(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    weights = [p.detach() for p in parallel.module.parameters()]
    torch.save({"weights": weights, "losses": losses}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def train(folder: str, world: int = 2) -> list[dict[str, list]]:
    """Runs all processes; what each of them found, by rank."""
    multiprocessing.spawn(worker, (world, folder), nprocs=world)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as output:
        for rank, found in enumerate(train(output)):
            print(f"rank {rank}: loss {found['losses'][0]:.3f} -> {found['losses'][-1]:.3f}")
