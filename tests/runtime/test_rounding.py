"""Parameters of 16 bits that lose nothing of small steps: four ways, in torch and in C."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl.zoo
from optdsl.runtime.cpu.launch import codec_functions
from optdsl.runtime.storage.rounding import of_half, random_bits, rounding_keys
from optdsl.runtime.storage.stored import BF16, FP16, Codec

WAYS: dict[str, dict[str, Any]] = {
    "stochastic": {"rounding": "stochastic"},
    "master": {"master": "float32"},
    "kahan": {"compensation": "kahan"},
    "split": {"compensation": "split"},
}
CODECS = [
    of_half(way, half) for way in WAYS for half in (BF16, FP16) if (way, half) != ("split", FP16)
]
KEY = 0x9ABCDEF1
LO = 1024
"""Where in its tensor the part begins that the C functions work on."""


def numbers() -> Tensor:
    """All kinds of float32: random bits, so infinities, NaN and subnormals, and usual ones."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31, (50_000,), generator=generator).to(torch.int32)
    usual = torch.randn(50_000, generator=generator) * 10.0 ** torch.randint(
        -9, 6, (50_000,), generator=generator
    )
    ends = torch.tensor(
        [0.0, -0.0, 65504.0, 65519.0, 65520.0, 3.4e38, 2**-14, 2**-24, 2**-25, 1e-30]
    )
    special = torch.tensor([float("inf"), float("nan")])
    return torch.cat([words.view(torch.float32), usual, ends, special, -ends, -special])


def empty(codec: Codec, count: int) -> list[Tensor]:
    return [torch.zeros(part.shape, dtype=part.dtype) for part in codec.layout((count,))]


def in_c(codec: Codec, what: str, values: Tensor, parts: list[Tensor]) -> None:
    """Calls a function of storage.c on the elements from LO on."""
    beside = parts[1].data_ptr() if len(parts) > 1 else KEY
    arguments = values.data_ptr() + 4 * LO, parts[0].data_ptr(), beside
    getattr(codec_functions(), f"{what}_{codec.name}")(
        *map(ctypes.c_void_p, arguments), ctypes.c_longlong(LO), ctypes.c_longlong(len(values) - LO)
    )


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Of numbers; any NaN is as any other."""
    nan = a.isnan() & b.isnan() if a.is_floating_point() else torch.zeros_like(a, dtype=torch.bool)
    word = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return bool(((a.view(word) == b.view(word)) | nan).all())


@pytest.mark.parametrize("codec", CODECS, ids=lambda each: each.name)
def test_c_and_torch_agree_in_every_bit(codec: Codec) -> None:
    values = numbers()
    ours, theirs = empty(codec, len(values)), empty(codec, len(values))
    codec.save(values, ours, KEY)
    in_c(codec, "save", values, theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert same_bits(a[LO:], b[LO:])
    back = torch.zeros_like(values)
    in_c(codec, "load", back, ours)
    assert same_bits(back[LO:], codec.load(ours, tuple(values.shape))[LO:])


@pytest.mark.parametrize("codec", CODECS, ids=lambda each: each.name)
def test_what_is_not_finite_stays_so_and_what_fits_stays_as_it_is(codec: Codec) -> None:
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0, 1.5, -(2.0**-20)])
    parts = empty(codec, len(special))
    codec.save(special, parts, KEY)
    loaded = codec.load(parts, (len(special),))
    assert torch.equal(loaded.nan_to_num(nan=7.0), special.nan_to_num(nan=7.0))
    assert same_bits(parts[0].float(), special)


@pytest.mark.parametrize("way", ["master", "split"])
def test_float32_values_come_back_whole(way: str) -> None:
    values, codec = numbers(), of_half(way, BF16)
    parts = empty(codec, len(values))
    codec.save(values, parts)
    assert same_bits(codec.load(parts, (len(values),)), values)
    rounded = values.to(torch.bfloat16)
    ties = (values.view(torch.int32) & 0xFFFF) == 0x8000
    assert same_bits(torch.where(ties, rounded, parts[0]), rounded)


@pytest.mark.parametrize("half", [BF16, FP16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("value", [1.0 + 2**-11 / 3, -3.0e-6, 1e-7])
def test_the_mean_of_random_roundings_is_exact(half: Codec, value: float) -> None:
    codec, count = of_half("stochastic", half), 200_000
    parts = empty(codec, count)
    values = torch.full((count,), value)
    codec.save(values, parts, 7)
    found = parts[0].double()
    low, high = found.min(), found.max()
    assert len(found.unique()) <= 2
    assert low <= values[0] <= high
    # Five deviations of the mean of so many coins.
    assert abs(found.mean() - values[0].double()) <= 5 * (high - low) / 2 / count**0.5 + 1e-12


def test_keys_and_bits_are_spread() -> None:
    members = np.arange(1000)
    keys = [
        rounding_keys(np.full(1000, seed), members, np.full(1000, t))
        for seed in (0, 2**40)
        for t in (1, 2)
    ]
    assert len(set(np.concatenate(keys).tolist())) > 3990
    random = random_bits(2**16, 12345)
    assert (torch.bincount(random & 255, minlength=256) - 256).abs().max() < 100
    for apart in (1, 8, 16, 32):
        pairs = torch.stack([random[apart:], random[:-apart]]).double()
        assert abs(torch.corrcoef(pairs)[0, 1]) < 0.02


# ---------------------------------------------------------------- whole optimizers


def trained(
    steps: int, way: str, dtype=torch.bfloat16, backend: str = "cpu", reload: int = -1, **more
):
    """Some steps; the parameters, and the optimizer."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4097,), (3, 257), (), (0,), (64, 64)]
    params = [Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
    make = partial(optdsl.zoo.AdamW, backend=backend, **WAYS.get(way, {}), **more)
    optimizer = make(params)
    for step in range(steps):
        if step == reload:
            saved = optimizer.state_dict()
            params = [Parameter(p.detach().clone()) for p in params]
            optimizer = make(params)
            optimizer.load_state_dict(saved)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("codec", CODECS, ids=lambda each: each.name)
def test_c_steps_as_the_interpreter_does(codec: Codec) -> None:
    way = codec.name.partition("_")[0]
    ours, _ = trained(5, way, codec.dtype)
    theirs, _ = trained(5, way, codec.dtype, backend="reference")
    for p, q in zip(ours, theirs, strict=True):
        # The last bit of a float32 value may turn a rounding, and that seldom.
        assert (p != q).double().mean().nan_to_num() < 0.002
        assert torch.allclose(p.float(), q.float(), rtol=0.01)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_saved_goes_on_as_if_it_was_not(way: str) -> None:
    for p, q in zip(trained(4, way)[0], trained(4, way, reload=2)[0], strict=True):
        assert torch.equal(p, q)


def test_the_seed_chooses_the_roundings() -> None:
    first, again, other = (trained(3, "stochastic", seed=seed)[0][0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("way", "key", "dtype"),
    [
        ("master", "p.master", torch.float32),
        ("kahan", "p.compensation", torch.bfloat16),
        ("split", "p.low", torch.int16),
    ],
)
def test_what_lies_beside_a_parameter_has_a_key(way: str, key: str, dtype: torch.dtype) -> None:
    params, optimizer = trained(1, way)
    held = optimizer.state_dict()["state"][0][key]
    assert (held.dtype, held.shape) == (dtype, params[0].shape)
    assert set(trained(1, way, torch.float32)[1].state_dict()["state"][0]) == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }


def test_a_parameter_that_was_changed_by_hand_counts() -> None:
    params, optimizer = trained(2, "master")
    with torch.no_grad():
        params[0].fill_(3.0)
        params[0].grad = torch.zeros_like(params[0])
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert torch.equal(params[0], torch.full_like(params[0], 3.0))


def drift(way: str) -> float:
    """The error of 200 steps of AdamW in bfloat16, as a part of the whole update."""
    generator = torch.Generator().manual_seed(0)
    start = (torch.randn(4096, generator=generator) * 0.02).to(torch.bfloat16)
    options = {"lr": 1e-4, "weight_decay": 0.1}
    p, exact = Parameter(start.clone()), Parameter(start.double())
    ours = optdsl.zoo.AdamW([p], backend="cpu", **options, **WAYS.get(way, {}))
    oracle = optdsl.zoo.AdamW([exact], backend="cpu", **options)
    for _ in range(200):
        g = torch.randn(4096, generator=generator).to(torch.bfloat16)
        p.grad, exact.grad = g, g.double()
        ours.step()
        oracle.step()
    moved = (exact.detach() - start.double()).abs().mean()
    return float((p.detach().double() - exact.detach()).abs().mean() / moved)


def test_small_steps_are_not_lost() -> None:
    found = {way: drift(way) for way in ("nearest", *WAYS)}
    assert max(found[way] for way in ("master", "kahan", "split")) <= 0.10
    assert found["stochastic"] < 0.7 * found["nearest"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rounding": "up"}, "rounding is 'up'; it is one of 'nearest', 'stochastic'"),
        ({"master": "float64"}, "master is 'float64'"),
        ({"compensation": "kahan", "rounding": "stochastic"}, "choose one of kahan and stochastic"),
    ],
)
def test_what_cannot_be_chosen_is_said(options: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        optdsl.zoo.AdamW([Parameter(torch.zeros(1))], **options)


def test_only_bfloat16_can_be_split() -> None:
    optimizer = optdsl.zoo.AdamW([Parameter(torch.zeros(1))], compensation="split")
    with pytest.raises(ValueError, match="float16 parameters can have"):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(1, dtype=torch.float16))]})
    assert len(optimizer.param_groups) == 1
