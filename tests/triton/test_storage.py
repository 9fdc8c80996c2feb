"""Storage on the Triton target: what is kept is what the C target keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import Parameter

import optdsl.zoo

SHAPES = [(4097,), (33,), (64, 65), (0,), ()]


def trained(backend: str, dtype: torch.dtype, device: str = "cpu", **options: Any) -> Any:
    """Two steps, the gradients of the second at other addresses."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in SHAPES]
    params = [Parameter(each.to(device, dtype)) for each in values]
    optimizer = optdsl.zoo.AdamW(params, backend=backend, **options)
    for _ in range(2):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p)
        optimizer.step()
    return optimizer


CHOICES: list[dict[str, Any]] = [
    {"storage": {"exp_avg": "bf16", "exp_avg_sq": "fp16"}},
    {"storage": "int8"},
    {"storage": "int4", "compensation": "kahan"},
    {"storage": "fp8", "rounding": "stochastic", "seed": 3},
    {"master": "float32"},
    {"compensation": "split"},
]


def same(ours: Any, theirs: Any) -> None:
    """Nearly all numbers are: the last bit of a value may turn a rounding."""
    pairs = zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True)
    for p, q in pairs:
        assert ours.state[p].keys() == theirs.state[q].keys()
        for a, b in (
            (p, q),
            *((ours.state[p][key], theirs.state[q][key]) for key in ours.state[p]),
        ):
            assert a.dtype is b.dtype
            a, b = (each.detach().cpu().double() for each in (a, b))
            assert not a.numel() or torch.isclose(a, b, rtol=1e-5).double().mean() > 0.995


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_storage_as_in_c(options: dict[str, Any]) -> None:
    same(trained("triton", torch.bfloat16, **options), trained("cpu", torch.bfloat16, **options))


@pytest.mark.gpu
@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_storage_on_a_gpu(options: dict[str, Any]) -> None:
    on_gpu = trained("triton", torch.bfloat16, "cuda", **options)
    same(on_gpu, trained("cpu", torch.bfloat16, **options))
