"""Rules that clip beside timm and Opacus, on random shapes: 20 steps in float64.

They come with `.[peers]`. Of timm one file is loaded, not the package: that needs a torchvision
that was built for the same torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from tests.runtime.test_rules import compiled
from tests.zoo.oracles import Given, drawing
from tests.zoo.test_peers import SHAPES

STEPS, SAMPLES = 20, 6
NOISE = 0.7
"""What each draw is, here as there: what is compared is its deviation."""
BOUND = 1e-12


@pytest.fixture
def adaptive_clip_grad() -> Callable[..., None]:
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        pytest.skip("needs pip install '.[peers]'")
    file = Path(found.origin).parent / "utils" / "agc.py"
    spec = importlib.util.spec_from_file_location("timm_agc", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clip: Callable[..., None] = module.adaptive_clip_grad
    return clip


def parameters() -> tuple[list[Parameter], list[Parameter]]:
    """The same twice."""
    torch.manual_seed(0)
    drawn = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    return [Parameter(p.clone()) for p in drawn], [Parameter(p.clone()) for p in drawn]


def gap(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_adaptive_clipping_agrees(
    adaptive_clip_grad: Callable[..., None], momentum: float, record_property: Any
) -> None:
    ours, theirs = parameters()
    options = {"lr": 0.05, "momentum": momentum}
    optimizer = compiled("AGCSGD")(ours, backend="reference", clip_factor=0.3, **options)
    other = torch.optim.SGD(theirs, **options)
    clipped = 0
    for step in range(STEPS):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a) * 10.0 ** (step % 3 - 2)
            b.grad = a.grad.clone()
        adaptive_clip_grad(theirs, clip_factor=0.3)
        clipped += sum(not torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
        optimizer.step()
        other.step()
    assert 0 < clipped < STEPS * len(SHAPES), "some gradients are clipped, some are not"
    error = gap(ours, theirs)
    assert error <= BOUND
    record_property("checked", ("peer", "AGCSGD", "timm", error))


@pytest.mark.parametrize("sigma", [0, 1.3])
@pytest.mark.parametrize(
    ("name", "inner"), [("PrivateSGD", torch.optim.SGD), ("PrivateAdam", torch.optim.Adam)]
)
def test_private_steps_agree(
    name: str,
    inner: Callable[..., Any],
    sigma: float,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    opacus = pytest.importorskip("opacus", reason="needs pip install '.[peers]'")
    monkeypatch.setattr(
        "opacus.optimizers.optimizer._generate_noise",
        lambda std, reference, **_: torch.full_like(reference, NOISE * std),
    )
    ours, theirs = parameters()
    private = {"C": 2.0, "sigma": sigma, "batch": SAMPLES + 1, "clip_eps": 1e-6}
    optimizer = compiled(name)(ours, lr=0.05, backend="reference", **private)
    other = opacus.optimizers.DPOptimizer(
        inner(theirs, lr=0.05),
        noise_multiplier=sigma,
        max_grad_norm=2.0,
        expected_batch_size=SAMPLES + 1,
    )
    for step in range(STEPS):
        other.zero_grad()
        samples = [torch.randn(SAMPLES, *p.shape).double() * 10.0 ** (step % 2 - 1) for p in ours]
        for q, drawn in zip(theirs, samples, strict=True):
            q.grad_sample = drawn.clone()
        with drawing(Given(draw=torch.tensor(NOISE, dtype=torch.float64))):
            optimizer.step(inputs={"gs": samples})
        other.step()
    error = gap(ours, theirs)
    assert error <= BOUND
    record_property("checked", ("peer", name, "opacus", error))
