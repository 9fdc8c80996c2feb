"""Loops over axes, compiled: tensors of all numbers of axes, against the interpreter."""

from __future__ import annotations

import pytest
import torch

import optdsl
from tests.semantics.test_axes import FACTORS, SHAPES

MORE = """
    every 2:
        for axis in axes:
            state m: [size(axis), 1]
            m = lerp(m, sum(unfold(g, axis)^2, axis = 1), 0.5)
            p -= sum(m)
"""
BODY = "".join(f"    {line}\n" for line in FACTORS.strip().splitlines())
RULE = "optimizer Factors(lr = 0.1):\n" + BODY + MORE


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_target_is_the_interpreter(backend: str, dtype: torch.dtype) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    found = []
    for each in (backend, "reference"):
        generator = torch.Generator().manual_seed(0)
        params = [torch.zeros(s, dtype=dtype, requires_grad=True) for s in (*SHAPES, (2, 4, 3))]
        optimizer = optdsl.compile_text(RULE).Factors(params, backend=each)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            optimizer.step()
        states = optimizer.state_dict()["state"]
        found.append(([p.detach() for p in params], [states[i]["h.0"] for i in (1, 2, 3, 9)]))
    bound = 1e-4 if dtype is torch.float32 else 1e-11
    torch.testing.assert_close(*found, rtol=bound, atol=bound)
