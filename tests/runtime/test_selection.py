"""Reductions over blocks and under conditions, compiled: what the interpreter gives."""

from __future__ import annotations

import pytest
import torch

import optdsl
from tests.runtime.stepping import beside_the_interpreter, eighths

RULES = """
optimizer Blocked(lr = 0.5, n = 4):
    state v: [ceil(numel / n), 1]
    v += sum(abs(g), blocks = n)
    g = where(max(p, blocks = n) > 0.5, 2 * g, g)
    p -= lr * (v * g + count(g, blocks = n))

optimizer Sorted(lr = 0.5, n = 4):
    p -= lr * (median(g, blocks = n) + where(abs(g) >= kth_largest(abs(g), 2, blocks = n), g, 0))

optimizer Where(lr = 0.5, n = 4):
    small = sum(g, where = abs(g) < 2) - max(g, where = g < 1, over = all)
    p -= lr * (small + count(g, where = p > 0) + kth_largest(g, 3, where = g < 1))
    if ndim >= 2:
        p -= lr * sum(g, where = g > 0, axis = 1)
"""
SHAPES = [(), (0,), (1,), (3,), (4,), (5,), (1000,), (3, 5), (2, 3, 7), (3, 5)]


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize(
    ("name", "n"), [("Blocked", 3), ("Blocked", 1001), ("Sorted", 4), ("Where", 1)]
)
def test_the_target_is_the_interpreter(backend, name, n):
    if backend == "triton":
        pytest.importorskip("triton")
    make = getattr(optdsl.compile_text(RULES), name)
    results = beside_the_interpreter(make, backend, SHAPES, 3, eighths, torch.float32, n=n)
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


LAID = """
optimizer Laid(lr = 0.01, beta = 0.9, n = 64, eps = 1e-8):
    state v: [ceil(numel / n), 1]
    m = ema(g, beta)
    v = lerp(v, mean(g^2, blocks = n), 1 - beta)
    scale = norm(m / (sqrt(v) + eps)) / (1 + std(p, blocks = n)) + count(p, blocks = n)
    g = where(max(abs(g), blocks = n) > 2, 0.5 * g, g)
    p -= lr * m / (sqrt(v) + eps) / scale + 1e-3 * g / numel
"""


LAYOUTS = [
    (torch.float64, None, 1e-13),
    (torch.float32, "int8", 1e-5),
    (torch.bfloat16, "bf16", 1e-6),
]


@pytest.mark.parametrize(
    ("backend", "dtype", "storage", "close"),
    [
        *(("cpu", *each) for each in LAYOUTS),
        ("triton", *LAYOUTS[0]),
        *(pytest.param("triton", *each, marks=pytest.mark.slow) for each in LAYOUTS[1:]),
    ],
)
def test_blocks_that_divide_are_rows_of_a_kernel(backend, dtype, storage, close):
    if backend == "triton":
        pytest.importorskip("triton")
    make = optdsl.compile_text(LAID).Laid
    results = []
    for each in (backend, "reference"):
        generator = torch.Generator().manual_seed(0)
        # Of the first three 64 divides the size; their rows are no blocks.
        shapes = [(64, 65), (128,), (2, 4, 72), (3, 5), (0,), (64, 65)]
        params = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        optimizer = make(params, backend=each, storage=storage)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            optimizer.step()
        results.append([p.detach() for p in params])
        results[-1].append(optimizer.state[params[1]]["v"])
    torch.testing.assert_close(*results, rtol=close, atol=close, equal_nan=True)
    library, rows = optimizer.program.variants
    assert library.libraries
    assert (rows.blocks, rows.libraries) == ("n", ())
    assert {kernel.layout for kernel in rows.kernels} == {"rows"}


@pytest.mark.parametrize(
    "more",
    [
        "p -= mean(g, axis = 0)",
        "p -= mean(g, blocks = 3)",
        "p -= randn()",
        "p -= rows * g",
        "p -= flip(g)",
        "p -= grad(p + max(g, blocks = 4))",
        "state q: [1, cols]\n    q = max(q, max(g, axis = 0))\n    p -= q",
        "view last",
        "p -= norm(g, over = all)",
    ],
)
def test_rows_that_are_no_blocks_keep_to_the_library(more):
    lines = "\n    ".join([more, "p -= lr * mean(g, blocks = 4)"])
    made = optdsl.compile_text(f"optimizer X(lr = 0.1):\n    {lines}\n").X
    program = made([torch.zeros(3, requires_grad=True)]).program
    assert all(variant.blocks is None for variant in program.variants)


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_a_length_that_is_none_is_refused(n):
    make = optdsl.compile_text(RULES).Blocked
    with pytest.raises(ValueError, match="blocks = n, whole and at least 1; got n = "):
        make([torch.zeros(3, requires_grad=True)], n=n)
    optimizer = make([torch.zeros(3, requires_grad=True)])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["n"] = 2
    with pytest.raises(ValueError, match="n"):
        optimizer.step()
    assert optimizer.state_dict()["state"][0]["v"].tolist() == [[3.0]]


def test_a_block_of_no_length_of_a_parameter_of_its_own_is_not_a_number():
    text = "optimizer X(lr = 1.0):\n    p -= lr * mean(g, blocks = cols // 2)\n"
    params = [torch.zeros(shape, requires_grad=True) for shape in [(4,), (3, 0), (2, 4)]]
    for p in params:
        p.grad = torch.ones_like(p)
    optdsl.compile_text(text).X(params).step()
    assert params[0].isnan().all()
    assert (params[2] == -1).all()
