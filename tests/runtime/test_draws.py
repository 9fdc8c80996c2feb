"""Random draws of compiled rules are those of the interpreter: same seed, t, parameter, element,
and so the same bits."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

import optdsl
from optdsl import draws, randomness
from optdsl.runtime.native import load_kernels

RULES = """
optimizer Noisy(lr = 0.1, temperature = 0.5):
    p -= lr * g + sqrt(2 * lr * temperature) * randn()

optimizer Held(lr = 0.1, gap = 3):
    z = rand(at = (t - 1) // gap)
    state m
    m = m + z
    p -= lr * (g + z + exponential([rows, 1]) * randn())

optimizer Common(lr = 0.1, passes = 3):
    x = g
    for k in range(passes):
        x = lerp(x, randn(), 0.1 * (k + 1))
        repeat 2:
            x += rand([rows, 1])
    if rand([], over = all) < 0.5:
        x = 0.5 * x
    every 3:
        x *= exponential([], over = group)
    p -= lr * x * (1 + rand([], over = all, at = steps // 2))
"""
SHAPES = [(), (0,), (5,), (4, 3), (4, 3), (2, 3, 2, 2)]


def trained(name: str, backend: str, dtype: torch.dtype, **options: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    params = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape in SHAPES]
    optimizer = getattr(optdsl.compile_text(RULES), name)(params, backend=backend, **options)
    for _ in range(4):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("name", ["Noisy", "Held", "Common"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_numbers_on_every_backend(name: str, dtype: torch.dtype) -> None:
    found, expected = trained(name, "cpu", dtype), trained(name, "reference", dtype)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-6)
    assert not torch.equal(found[3], found[4]), "two parameters of one shape drew the same"


def test_what_is_drawn_for_all_is_one_number_in_groups_of_several_seeds() -> None:
    """The first parameter's seed counts; what is drawn for a group is that group's own."""
    rules = optdsl.compile_text(
        "optimizer One():\n    p -= g * rand([], over = all)\n"
        "optimizer Each():\n    p -= g * rand([], over = group)\n"
    )
    for name, same in (("One", True), ("Each", False)):
        found = []
        for backend in ("cpu", "reference"):
            params = [torch.zeros(3, requires_grad=True) for _ in range(2)]
            groups = [{"params": [p], "seed": 5 + i} for i, p in enumerate(params)]
            optimizer = getattr(rules, name)(groups, backend=backend)
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            assert torch.equal(*params) is same
            found.append(torch.cat(params).detach())
        torch.testing.assert_close(*found)


def test_a_seed_is_another_stream_and_the_same_seed_the_same() -> None:
    first, again = (trained("Noisy", "cpu", torch.float64, seed=7) for _ in range(2))
    other = trained("Noisy", "cpu", torch.float64, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[3], other[3])


@pytest.mark.parametrize("options", [{}, {"rounding": "stochastic"}], ids=str)
def test_a_seed_may_change_between_steps(options: dict[str, Any]) -> None:
    """For draws in kernels, those in the library, and roundings at random."""
    make = optdsl.compile_text(SEEDED).Seeded
    dtype = torch.bfloat16 if options else torch.float64
    found = []
    for backend in ("cpu", "reference"):
        p = torch.ones(3, 4, dtype=dtype, requires_grad=True)
        optimizer = make([p], backend=backend, seed=7, **options)
        for seed in (7, 8, 8, 7):
            optimizer.param_groups[0]["seed"] = seed
            p.grad = torch.full_like(p, 0.25)
            optimizer.step()
        found.append(p.detach())
    assert torch.equal(*found)


SEEDED = """
optimizer Seeded(lr = 2^-6):
    p -= lr * (g + where(rand() < 0.5, 1, 0) + where(rand([rows, 1]) < 0.5, 2, 0))
"""

KEPT = """
optimizer Kept(lr = 0.1):
    state a, b, c
    a, b, c = rand(), randn(at = t // 2), exponential()
    p = randn()

optimizer Rows(lr = 0.1):
    view last
    state a, b
    a = randn()
    b = rand() * max(abs(g), axis = 1)
    p = a

optimizer Blocks(lr = 0.1):
    state a
    a = randn()
    p = a * max(abs(g), blocks = 4)

optimizer Seldom(lr = 0.1):
    state a
    every 2 from 1:
        a = randn()
    p = lerp(a, rand() * randn(), 0.5)
"""


def bits(
    name: str, backend: str, dtype: torch.dtype, large: int = 20_000, **options: object
) -> list[torch.Tensor]:
    """p and all states after some steps; one parameter is a view of another order."""
    shapes = [(), (5,), (37, large // 150), (3, 4, 5), (large,)]
    params = [torch.ones(shape, dtype=dtype) for shape in shapes]
    params.append(torch.ones(large // 330, 90, dtype=dtype).t())
    optimizer = getattr(optdsl.compile_text(KEPT), name)(
        [p.requires_grad_() for p in params], backend=backend, seed=1 << 40 | 5, **options
    )
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    states = [value for p in params for _, value in sorted(optimizer.state[p].items())]
    return [*(p.detach() for p in params), *(each for each in states if each.numel() > 1)]


CASES = [
    ("Kept", torch.float32),
    ("Kept", torch.float64),
    ("Kept", torch.bfloat16),
    ("Rows", torch.float32),
    ("Blocks", torch.float32),
    ("Seldom", torch.float32),
]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_kernels_draw_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    variants = getattr(optdsl.compile_text(KEPT), name).program.variants
    for each in variants:
        # Where blocks do not divide a parameter the library takes their maxima, and what they meet.
        assert each.draws or (name == "Blocks" and each.blocks is None and each.libraries)
    for own, wanted in zip(bits(name, "cpu", dtype), bits(name, "reference", dtype), strict=True):
        assert torch.equal(own, wanted)


@pytest.mark.parametrize(
    "options", [{"storage": "int8"}, {"rounding": "stochastic"}, {"master": "float32"}], ids=str
)
def test_kernels_draw_bit_for_bit_in_parts_of_a_task(options: dict[str, object]) -> None:
    """Codes are worked on in chunks, parameters of 16 bits in strips."""
    made = [bits("Kept", backend, torch.bfloat16, **options) for backend in ("cpu", "reference")]
    assert all(torch.equal(own, wanted) for own, wanted in zip(*made, strict=True))


def test_elements_beyond_32_bits() -> None:
    """A kernel's task that begins before element 2^32 and ends behind it."""
    program = optdsl.compile_text("optimizer Far():\n    p = randn()\n").Far.program
    lo, count, seed, at = 2**32 - 100, 333, 3, 7
    out = torch.zeros(count)
    pointers = [out.data_ptr() - 4 * lo, 0, randomness.stream(seed, 2)]
    task = (ctypes.c_longlong * 4)(0, lo, lo + count, 0)
    tables = (ctypes.c_longlong * 3)(*pointers), (ctypes.c_longlong * 8)()
    scalars = (ctypes.c_double * 1)(at)
    (variant,) = program.variants
    assert variant.buffers == ("p",) and len(variant.stored) == 1
    kernel = getattr(load_kernels(program.c_source, "float32"), variant.kernels[0].name)
    kernel(task, *tables, scalars, None, None)
    elements = torch.arange(lo, lo + count)
    assert torch.equal(
        out, draws.drawn("randn", randomness.key(randomness.stream(seed, 2), 1, at), elements)
    )


def test_numbers_of_updates_beyond_24_bits_are_told_apart() -> None:
    rules = optdsl.compile_text("optimizer Late(k = 0):\n    p = randn(at = t + k)\n")
    found = {}
    for backend in ("cpu", "reference"):
        for k in (2**24, 2**24 + 1):
            p = torch.zeros(9, requires_grad=True)
            rules.Late([p], k=k, backend=backend).step()
            found[backend, k] = p.detach()
    for k in (2**24, 2**24 + 1):
        assert torch.equal(found["cpu", k], found["reference", k])
    assert not torch.equal(found["cpu", 2**24], found["cpu", 2**24 + 1])


def test_what_the_library_reads_it_draws() -> None:
    """And what is of another shape: a kernel reads it."""
    rules = optdsl.compile_text(
        "optimizer Product(lr = 0.1):\n    z = randn()\n    p -= lr * (z @ z.T @ g + z)\n"
        "optimizer Wide(lr = 0.1):\n    p -= lr * g * rand([rows, 1])\n"
    )
    for name in ("Product", "Wide"):
        (variant,) = getattr(rules, name).program.variants
        assert any(each.draws for each in variant.libraries) and not variant.draws
