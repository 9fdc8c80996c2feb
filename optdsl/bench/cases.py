"""What is optimized: sets of shapes, and how their gradients come.

Output: parameters with gradients. Relies on: torch alone. Does not do: states, steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import Parameter

Shape = tuple[int, ...]

GPT2_SMALL: tuple[Shape, ...] = (
    *[(50_257, 768), (1024, 768)],
    *(12 * [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]),
    *(12 * [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]),
    *[(768,), (768,)],
)
"""GPT-2 with 124M parameters: 148 tensors, the output layer tied to the embedding."""


@dataclass(frozen=True)
class Case:
    """`fresh`: every step has gradients at new places, as after `zero_grad(set_to_none=True)`.
    `sharded`: parameters and gradients are DTensors on a mesh of one process. `turn` is how many
    steps a contender takes in a row: of tiny tensors a single one measures what the contender
    before it left in the caches, and that is what `fresh` cases are for."""

    key: str
    title: str
    shapes: tuple[Shape, ...]
    fresh: bool = False
    sharded: bool = False
    turn: int = 1

    @property
    def numel(self) -> int:
        return sum(map(math.prod, self.shapes))

    def matrices(self) -> Case:
        """The hidden matrices alone, for rules that are for them."""
        chosen = tuple(s for s in self.shapes if len(s) == 2 and max(s) < 50_000)
        return replace(self, shapes=chosen)

    def scaled(self, factor: float) -> Case:
        """About `factor` of the elements: the first dimension of large tensors is cut."""
        if factor == 1:
            return self
        cut = tuple(
            (max(1, round(s[0] * factor)), *s[1:]) if math.prod(s) > 10_000 else s
            for s in self.shapes
        )
        return replace(self, shapes=cut, title=f"{self.title} x {factor:g}")

    def parameters(self, dtype: torch.dtype, device: str) -> list[Parameter]:
        """Parameters with gradients, the same numbers each time."""
        torch.manual_seed(0)
        mesh = one_process(device) if self.sharded else None
        params = []
        for shape in self.shapes:
            value, gradient = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
            if mesh is not None:
                value = distribute_tensor(value, mesh, [Shard(0)])
                gradient = distribute_tensor(gradient, mesh, [Shard(0)])
            params.append(Parameter(value))
            params[-1].grad = gradient
        return params


@cache
def one_process(device: str) -> DeviceMesh:
    """A mesh of this process alone."""
    if not dist.is_initialized():
        dist.init_process_group(store=HashStore(), rank=0, world_size=1)
    return init_device_mesh(device, (1,))


CASES = {
    case.key: case
    for case in (
        Case("a", "one of 64M", ((8192, 8192),)),
        Case("b", "GPT-2 small", GPT2_SMALL),
        Case("c", "1000 of 10k", 1000 * ((100, 100),)),
        Case("d", "200 of 64", 200 * ((64,),), turn=10),
        Case("d-new", "200 of 64, new gradients", 200 * ((64,),), fresh=True),
        Case("e", "1000 of 64, DTensors", 1000 * ((64,),), sharded=True, turn=5),
        Case("f", "10 of 16.8M", 10 * ((4096, 4096),)),
        Case("g", "200 of 1M", 200 * ((1024, 1024),)),
        Case("h", "10,000 of 64", 10_000 * ((64,),)),
    )
}
