"""Storage on the Triton target: what is kept is what the codecs in torch keep, bit for bit, and
kernels load and save it themselves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl.zoo
from optdsl.runtime.stages.packing import Able
from optdsl.runtime.triton import launch as target
from tests.triton.graphs import capture
from tests.verify.test_trials import subject

SHAPES = [(4097,), (33,), (0,), ()]


def trained(
    backend: str,
    dtype: torch.dtype,
    device: str = "cpu",
    make: Any = optdsl.zoo.AdamW,
    shapes: Any = SHAPES,
    **options: Any,
) -> Any:
    """Two steps, the gradients of the second at other addresses."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    params = [Parameter(each.to(device, dtype)) for each in values]
    optimizer = make(params, backend=backend, **options)
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


def kept(optimizer: Any) -> list[tuple[str, Tensor]]:
    """All that an optimizer keeps: its parameters, and their states by key."""
    found = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            own = {k: v for k, v in optimizer.state[p].items() if isinstance(v, Tensor)}
            found += [("p", p.detach()), *own.items()]
    return found


def same(ours: Any, theirs: Any) -> None:
    """Nearly all numbers are: the last bit of a value may turn a rounding."""
    for (key, a), (other, b) in zip(kept(ours), kept(theirs), strict=True):
        assert key == other and a.dtype is b.dtype
        a, b = (each.cpu().double() for each in (a, b))
        assert not a.numel() or torch.isclose(a, b, rtol=1e-5).double().mean() > 0.995


@pytest.mark.parametrize(
    "options",
    [pytest.param(each, marks=pytest.mark.slow if len(each) > 1 else ()) for each in CHOICES],
    ids=str,
)
def test_storage_as_in_c(options: dict[str, Any]) -> None:
    same(trained("triton", torch.bfloat16, **options), trained("cpu", torch.bfloat16, **options))


@pytest.mark.gpu
@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_storage_on_a_gpu(options: dict[str, Any]) -> None:
    on_gpu = trained("triton", torch.bfloat16, "cuda", **options)
    same(on_gpu, trained("cpu", torch.bfloat16, **options))


# ---------------------------------------------------------------- fused with the kernels


WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def same_bits(ours: Any, theirs: Any) -> None:
    """Any NaN is as any other."""
    for (key, a), (other, b) in zip(kept(ours), kept(theirs), strict=True):
        assert key == other and a.dtype is b.dtype
        if key != "step":
            nan = a.isnan() & b.isnan() if a.is_floating_point() else torch.tensor(False)
            word = WORDS[a.element_size()]
            assert ((a.view(word) == b.view(word)) | nan).all(), (key, tuple(a.shape))


WAYS: list[dict[str, Any]] = [{"rounding": "stochastic", "seed": 5}, {"compensation": "kahan"}]
IN_ROWS = """\
optimizer InRows(lr = 0.1, beta = 0.5):
    state m, low, row: [rows, 1]
    m = lerp(m, g, beta)
    low = min(low, g)
    row = max(row, max(abs(m), axis = 1))
    p -= lr * (m + 0.1 * low) / (1 + row * mean(abs(g), axis = 0))
"""
"""Its last pass knows rows from columns, reduces along both, and writes all."""
WIDE = [(2, 256), (9, 512)]
LAST = """\
optimizer Last(lr = 0.1, beta = 0.1):
    view last
    state m
    m = lerp(m, g, beta)
    p -= lr * m / (1 + norm(g)) / (1 + max(m, axis = 1))
"""
TEXTS = {"InRows": IN_ROWS, "Last": LAST}

SLOW = pytest.mark.slow
"""More than 10 s, for a pair of ways that others have one by one."""
FUSED = [
    ("AdamW", torch.float32, [(64, 65)], {"storage": "int8"}),
    ("AdamW", torch.float32, [(4097,)], {"storage": "fp8"}),
    ("AdamW", torch.float16, SHAPES, {"storage": "int4", "compensation": "kahan"}),
    ("AdamW", torch.bfloat16, SHAPES, {"rounding": "stochastic", "seed": 2**40 + 3}),
    pytest.param("AdamW", torch.float16, SHAPES, {"rounding": "stochastic"}, marks=SLOW),
    ("AdamW", torch.bfloat16, SHAPES, {"storage": "bf16", "compensation": "split"}),
    ("InRows", torch.float32, WIDE, {"storage": "int8"}),
    pytest.param(
        *("InRows", torch.bfloat16, WIDE, {"storage": "int4", "rounding": "stochastic"}), marks=SLOW
    ),
    ("InRows", torch.float16, [(6, 5), (7, 96), (5, 1, 7)], {"master": "float32"}),
    ("InRows", torch.bfloat16, [(6, 5), (7, 96), (40, 3)], {"rounding": "stochastic"}),
    pytest.param(
        *("Last", torch.float32, [(2, 9, 256), (3, 6, 512)], {"storage": "int8"}), marks=SLOW
    ),
]


@pytest.mark.parametrize(
    ("name", "dtype", "shapes", "options"), FUSED, ids=lambda each: str(each).split(".")[-1]
)
def test_kernels_keep_the_bits_that_torch_does(
    name: str, dtype: torch.dtype, shapes: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = subject(name, TEXTS.get(name, "")).optimizer
    ours = trained("triton", dtype, make=make, shapes=shapes, **options)
    assert ours.counters.unpacked == 0
    monkeypatch.setattr(target, "ABLE", Able())
    rows = replace(target.CUTTING, column_rows=target.CODED_ROWS)  # else sums have other orders
    monkeypatch.setattr(target, "CUTTING", rows if "storage" in options else target.CUTTING)
    theirs = trained("triton", dtype, make=make, shapes=shapes, **options)
    assert theirs.counters.unpacked
    same_bits(ours, theirs)


def test_what_is_not_finite_is_kept_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(**options: Any) -> Any:
        p = Parameter(torch.ones(5000, dtype=torch.bfloat16))
        p.grad = torch.ones_like(p)
        p.grad[7], p.grad[3000], p.grad[4999] = torch.nan, torch.inf, -torch.inf
        optimizer = optdsl.zoo.SGD([p], momentum=0.9, backend="triton", **options)
        optimizer.step()
        optimizer.step()
        return optimizer

    choices = [{"storage": each, **way} for each, way in zip(("int8", "fp8"), WAYS, strict=True)]
    ours = [poisoned(**options) for options in choices]
    monkeypatch.setattr(target, "ABLE", Able())
    for mine, options in zip(ours, choices, strict=True):
        same_bits(mine, poisoned(**options))


@pytest.mark.parametrize("options", [{"storage": "int8"}, *WAYS], ids=str)
def test_a_step_is_one_launch(options: dict[str, Any]) -> None:
    """Tensors of whole blocks and others; smaller ones than have codes would be a class more."""
    shapes = [(4096,), (4097,)]
    optimizer = trained("triton", torch.bfloat16, shapes=shapes, **options)
    assert optimizer.counters.launches == 2
    assert optimizer.counters.unpacked == optimizer.counters.batches == 0


def test_rows_that_end_within_a_block_are_loaded_for_the_whole_step() -> None:
    make = subject("InRows", IN_ROWS).optimizer
    optimizer = trained("triton", torch.float32, make=make, shapes=[(5, 1000)], storage="int8")
    assert optimizer.counters.unpacked == 4  # two states, two steps
    reference = trained("cpu", torch.float32, make=make, shapes=[(5, 1000)], storage="int8")
    same(optimizer, reference)


# What a graph does with codes and masters is what it does with keys, and takes 10 to 30 s.
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(each, marks=() if each.get("rounding") else pytest.mark.slow)
        for each in ({"storage": "int8"}, *WAYS)
    ],
    ids=str,
)
def test_a_graph_steps_by_itself(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is allocated and nothing read by the host while it is captured; the keys of random
    roundings, too, are drawn by the device. A step that is skipped keeps every code."""
    shapes = [(4100,), (33,)]
    make = partial(optdsl.zoo.AdamW, capturable=True)
    ours = trained("triton", torch.bfloat16, make=make, shapes=shapes, **options)
    found, scale = torch.zeros(()), torch.ones(())
    ours.grad_scale, ours.found_inf = scale, found
    with capture(monkeypatch, ours) as graph:
        ours.step()
    before = [(key, each.clone()) for key, each in kept(ours)]
    found.fill_(1.0)
    graph.replay()
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(before, kept(ours), strict=True))
    found.fill_(0.0)
    graph.replay()
    host = trained("triton", torch.bfloat16, shapes=shapes, **options)
    host.step()
    same_bits(ours, host)
