"""What test_shards.py runs in processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict as saved
from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict as load
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import Parameter

import optdsl.zoo


def model() -> nn.Module:
    """With parameters of which a process has more than another, or nothing."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    for each in made:
        if isinstance(each, nn.Linear):
            fully_shard(each)
    fully_shard(made)
    return made


def train(net: nn.Module, optimizer: Any, first: int, steps: int) -> None:
    for step in range(first, first + steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()


def values(net: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor().detach().clone() for p in net.parameters()]


def fsdp(backend: str) -> None:
    """As torch's own AdamW, with states that are cut as their parameters are."""
    ours, theirs = model(), model()
    optimizer = optdsl.zoo.AdamW(ours.parameters(), lr=0.1, backend=backend)
    train(ours, optimizer, 0, 4)
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.1), 0, 4)
    for found, wanted in zip(values(ours), values(theirs), strict=True):
        torch.testing.assert_close(found, wanted)
    for p in ours.parameters():
        state = optimizer.state[p]["exp_avg"]
        assert isinstance(state, DTensor) and isinstance(p, DTensor)
        assert (state.placements, state.shape) == (p.placements, p.shape)


def checkpoint(folder: str) -> None:
    """Saved by all, loaded by all, and on as if nothing had been."""
    whole, before, after = model(), model(), model()
    train(whole, optdsl.zoo.AdamW(whole.parameters(), lr=0.1), 0, 5)
    optimizer = optdsl.zoo.AdamW(before.parameters(), lr=0.1)
    train(before, optimizer, 0, 3)
    content = {"model": before.state_dict(), "optimizer": saved(before, optimizer)}
    dcp.save(content, checkpoint_id=folder)
    optimizer = optdsl.zoo.AdamW(after.parameters(), lr=0.5)
    content = {"model": after.state_dict(), "optimizer": saved(after, optimizer)}
    dcp.load(content, checkpoint_id=folder)
    after.load_state_dict(content["model"])
    load(after, optimizer, content["optimizer"])
    train(after, optimizer, 3, 2)
    assert all(map(torch.equal, values(after), values(whole)))


def refused(make: Callable[[list[Parameter]], Any], *said: str) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    p = Parameter(distribute_tensor(torch.ones(128, 128), mesh, [Shard(0)]))
    p.grad = distribute_tensor(torch.ones(128, 128), mesh, [Shard(0)])
    try:
        make([p])
    except (ValueError, RuntimeError) as error:
        assert all(each in str(error) for each in said), error
    else:
        raise AssertionError("it was taken")
    assert bool((p.to_local() == 1).all())


def refusals() -> None:
    """What a rule needs whole, it says."""
    refused(optdsl.zoo.LAMB, "is cut by", "norm(", "lamb.opt:")
    refused(optdsl.zoo.Muon, "is cut by", "muon.opt:")
    refused(lambda ps: optdsl.zoo.AdamW(ps, storage="int8").step(), "DTensor", "one number")

    def replicated(params: list[Parameter]) -> None:
        optimizer = optdsl.zoo.AdamW(params)
        for p in params:
            whole = distribute_tensor(torch.ones(128, 128), p.device_mesh, [Replicate()])  # type: ignore[attr-defined]
            p.grad = None
            p.grad = whole
        optimizer.step()

    refused(replicated, "gradient", "Replicate", "Shard")


def alone() -> None:
    """On a mesh of one process nothing is cut, and every rule steps as on plain tensors."""
    mesh = init_device_mesh("cpu", (1,))
    for name in ("LAMB", "SWAN", "AdamW", "Adafactor"):
        torch.manual_seed(0)
        plain = [Parameter(torch.randn(6, 4)), Parameter(torch.randn(5))]
        cut = [Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)])) for p in plain]
        optimizers = [getattr(optdsl.zoo, name)(params, lr=0.1) for params in (plain, cut)]
        for step in range(3):
            torch.manual_seed(step)
            for p, q in zip(plain, cut, strict=True):
                p.grad = torch.randn_like(p)
                q.grad = distribute_tensor(p.grad.clone(), mesh, [Shard(0)])
            for optimizer in optimizers:
                optimizer.step()
            if step == 1:  # to other memory, in copies that go on
                cut_copy = deepcopy(optimizers[1].state_dict())
                optimizers[1].load_state_dict(cut_copy)
        for p, q in zip(plain, cut, strict=True):
            assert torch.equal(p, q.to_local()), name


def together(folder: str) -> None:
    """All that takes two processes, whose start is what takes the time."""
    for backend in ("cpu", "reference"):
        fsdp(backend)
    checkpoint(folder)
    refusals()


CASES: dict[str, Callable[..., None]] = {"together": together, "alone": alone}

if __name__ == "__main__":
    case, argument, store, rank, world = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world)
    )
    CASES[case](*([argument] if argument else []))
    dist.destroy_process_group()
