"""What rules promise beyond their published values: parts that no oracle covers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl.zoo

BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference"])


@BACKENDS
def test_sparse_spam_moves_the_same_part_until_the_next_reset(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, vector = Parameter(torch.ones(40, 50)), Parameter(torch.ones(30))
    optimizer = optdsl.zoo.SPAM(
        [matrix, vector], interval=3, density=0.25, warmup=0, calm=2, seed=1, backend=backend
    )
    moved: list[Tensor] = []
    for _ in range(8):
        before = [p.detach().clone() for p in (matrix, vector)]
        for p in (matrix, vector):
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
        assert bool((vector != before[1]).all()), "a vector moves as a whole"
        moved.append(matrix.detach() != before[0])
    for step, mask in enumerate(moved, start=1):
        assert 0.2 < mask.double().mean() < 0.3
        first = max(1, step // 3 * 3)
        assert torch.equal(mask, moved[first - 1])
    assert not torch.equal(moved[0], moved[2])
    assert not torch.equal(moved[2], moved[5])


@BACKENDS
def test_rounds_of_fedspeed_are_those_of_its_authors(backend: str) -> None:
    """Two clients with the losses a/2 |x - b|^2, K = 2; the server's mean of both, from an
    independent implementation of the authors' code."""
    curvature, centres = (1.0, 2.0), ((1.0, 0.0, -1.0), (0.0, 2.0, 1.0))
    wanted = [
        [0.6380938998134287, -0.17014943087636425, 1.5117354628721567],
        [0.3000033066576943, 1.538096818161149, 0.12378652373153631],
    ]
    server = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    clients = [Parameter(server.clone()) for _ in curvature]
    optimizers = [
        optdsl.zoo.FedSpeed([p], lr=0.1, lam=0.1, rho=0.05, K=2, backend=backend) for p in clients
    ]
    for expected in wanted:
        for p, a, b, optimizer in zip(clients, curvature, centres, optimizers, strict=True):
            with torch.no_grad():
                p.copy_(server)

            def closure(p: Parameter = p, a: float = a, b: tuple[float, ...] = b) -> Tensor:
                p.grad = None
                loss = a / 2 * (p - torch.tensor(b, dtype=torch.float64)).square().sum()
                loss.backward()  # type: ignore[no-untyped-call]
                return loss.detach()

            for _ in range(2):
                optimizer.step(closure)
        ends = torch.stack([p.detach() for p in clients])
        duals = torch.stack([o.state[p]["h"] for o, p in zip(optimizers, clients, strict=True)])
        server = ends.mean(0) + duals.mean(0)
        gap = (server - torch.tensor(expected, dtype=torch.float64)).abs().max()
        assert gap <= 1e-12
