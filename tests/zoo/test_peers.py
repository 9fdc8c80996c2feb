"""Shipped rules beside a library's, on random shapes: 20 steps in float64, the rate halved midway.

It comes with `.[test]`. Only rules whose reference is known to be
right are here; tests/data says of each case what else it was compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runtime.test_rules import compiled

peers = pytest.importorskip("pytorch_optimizer", reason="needs pip install '.[test]'")

SHAPES = [(5,), (4, 6), (6, 4), (3, 2, 2, 2), (1, 7)]
Make = Callable[[list[Tensor]], Any]


def around(wrapper: str, **options: Any) -> Make:
    """The library's wrapper around torch's SGD with momentum."""
    return lambda p: getattr(peers, wrapper)(torch.optim.SGD(p, lr=0.05, momentum=0.9), **options)


def plain(name: str, **options: Any) -> Make:
    return lambda p: getattr(peers, name)(p, lr=0.05, **options)


DECAY = {"weight_decay": 0.1}
SGDM = {"momentum": 0.9}
NESTEROV = SGDM | {"nesterov": True}
SHORT = {"betas": (0.9, 0.95)}
# Ours with its options, theirs, and how far they may be apart: 1e-12, or where the library adds
# 1e-15 under a root 1e-9, works a norm out in float32 1e-7, or puts eps before the correction 1e-5.
CASES: list[tuple[str, dict[str, Any], Make, float]] = [
    ("AccSGD", DECAY, plain("AccSGD", **DECAY), 1e-12),
    ("SGDW", SGDM | DECAY, plain("SGDW", **SGDM, **DECAY), 1e-12),
    ("SGDW", NESTEROV | DECAY, plain("SGDW", **NESTEROV, **DECAY), 1e-12),
    ("QHM", SGDM | DECAY, plain("QHM", **SGDM, **DECAY, nu=0.7), 1e-12),
    ("Lion", DECAY, plain("Lion", **DECAY), 1e-12),
    ("Adan", DECAY, plain("Adan", **DECAY), 1e-12),
    ("Adan", DECAY | {"no_prox": True}, plain("Adan", **DECAY, weight_decouple=True), 1e-12),
    ("Adan", {"max_grad_norm": 0.5}, plain("Adan", max_grad_norm=0.5), 1e-7),
    ("AdEMAMix", DECAY, plain("AdEMAMix", **DECAY, weight_decouple=True), 1e-12),
    ("AdEMAMix", {"warmup": 30}, plain("AdEMAMix", t_alpha_beta3=30), 1e-12),
    ("Prodigy", {"d0": 0.1} | DECAY, plain("Prodigy", d0=0.1, **DECAY), 1e-12),
    ("AdaBelief", {"rectify": False} | DECAY, plain("AdaBelief", **DECAY), 1e-9),
    ("AdaBelief", SHORT, plain("AdaBelief", **SHORT, rectify=True), 1e-9),
    ("AdaBound", DECAY, plain("AdaBound", **DECAY, weight_decouple=False), 1e-9),
    ("AdaBound", {"amsbound": True}, plain("AdaBound", ams_bound=True), 1e-9),
    ("DiffGrad", DECAY, plain("DiffGrad", **DECAY, weight_decouple=False), 1e-9),
    ("AdamP", DECAY, plain("AdamP", **DECAY), 1e-5),
    ("AdamP", {"delta": 1.0}, plain("AdamP", delta=1.0), 1e-5),
    ("SGDP", SGDM | {"weight_decay": 0.01}, plain("SGDP", **SGDM, weight_decay=0.01), 1e-12),
    ("LookaheadSGD", SGDM, around("Lookahead"), 1e-12),
    ("OrthoGradSGD", SGDM, around("OrthoGrad"), 1e-12),
]  # fmt: skip


def trained(make: Make, params: list[Tensor], steps: list[list[Tensor]]) -> list[Tensor]:
    """`params` after the steps; each gradient is a copy, since some libraries write into it."""
    own = [p.clone().requires_grad_() for p in params]
    optimizer = make(own)
    for number, gradients in enumerate(steps):
        if number == len(steps) // 2:
            optimizer.param_groups[0]["lr"] *= 0.5
        for p, g in zip(own, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in own]


@pytest.mark.parametrize(
    ("name", "options", "theirs", "bound"), CASES, ids=[f"{c[0]}{i}" for i, c in enumerate(CASES)]
)
def test_twenty_steps_agree(
    name: str, options: dict[str, Any], theirs: Make, bound: float, record_property: Any
) -> None:
    torch.manual_seed(0)
    params = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    steps = [[torch.randn_like(p) for p in params] for _ in range(20)]
    ours = trained(
        lambda p: compiled(name)(p, lr=0.05, backend="reference", **options), params, steps
    )
    error = 0.0
    for a, b in zip(ours, trained(theirs, params, steps), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=bound)
        error = max(error, float((a - b).abs().max()))
    record_property("checked", ("peer", name, "pytorch_optimizer", error))
