"""Random draws of Triton kernels are the interpreter's, bit for bit."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from optdsl import draws, randomness
from optdsl.runtime.triton.draws import draw_key, exponential, rand, randn
from tests.runtime.test_draws import bits


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("Kept", torch.float32),
        pytest.param("Kept", torch.float64, marks=pytest.mark.slow),  # 11 s, the same draws
        ("Rows", torch.bfloat16),
    ],
)
def test_kernels_draw_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    made = [bits(name, backend, dtype, 1500) for backend in ("triton", "reference")]
    assert all(torch.equal(own, wanted) for own, wanted in zip(*made, strict=True))


@triton.jit
def fill(out, table, COUNT: tl.constexpr):
    i = tl.arange(0, COUNT)
    key = draw_key(tl.load(table), 5, tl.load(table + 1).to(tl.float64), tl.load(table + 2))
    tl.store(out + i, rand(key, i))
    tl.store(out + COUNT + i, randn(key, i))
    tl.store(out + 2 * COUNT + i, exponential(key, i))


def test_elements_beyond_32_bits() -> None:
    first, count, stream = 2**32 - 100, 256, randomness.stream(3, 2)
    out = torch.zeros(3, count)
    fill[(1,)](out, torch.tensor([stream, 7, first]), count)
    elements = torch.arange(first, first + count)
    for kind, own in zip(("rand", "randn", "exponential"), out, strict=True):
        assert torch.equal(own, draws.drawn(kind, randomness.key(stream, 5, 7), elements))
