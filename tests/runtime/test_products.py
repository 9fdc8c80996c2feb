"""Matrix products in bfloat16: what asks for them, and how far off they are."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import Parameter

import optdsl
import optdsl.zoo

SHAPES = [(24, 40), (40, 24), (24, 40), (5,)]


def stepped(rule, products, dtype=torch.float32, backend="cpu", steps=3):
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]
    before = [p.detach().clone() for p in params]
    optimizer = rule(params, products=products, backend=backend)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    return [p.detach() - b for p, b in zip(params, before, strict=True)], optimizer


def off(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", ["Muon", "PolarMuon"])
def test_products_in_bfloat16_are_off_by_a_few_hundredths(name: str) -> None:
    whole, _ = stepped(getattr(optdsl.zoo, name), None)
    short, optimizer = stepped(getattr(optdsl.zoo, name), "bfloat16")
    for found, wanted in zip(short[:3], whole[:3], strict=True):
        assert 1e-4 < off(found, wanted) < 0.05
    assert torch.equal(short[3], whole[3])  # no matrix
    assert all(
        value.dtype is torch.float32
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def test_muon_is_as_far_off_as_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    params = [torch.randn(s, generator=generator) for s in SHAPES[:2]]
    updates = []
    for make in (
        lambda ps: optdsl.zoo.Muon(ps, lr=0.02, backend="cpu", products="bfloat16"),
        lambda ps: torch.optim.Muon(ps, lr=0.02),
    ):
        own = [Parameter(p.clone()) for p in params]
        optimizer = make(own)
        for p in own:
            p.grad = torch.linspace(-1, 1, p.numel()).reshape(p.shape).sin() + p.detach()
        optimizer.step()
        updates.append([p.detach() - q for p, q in zip(own, params, strict=True)])
    for ours, theirs in zip(*updates, strict=True):
        assert off(ours, theirs) < 0.03


def test_float64_keeps_its_products() -> None:
    whole, _ = stepped(optdsl.zoo.Muon, None, torch.float64)
    short, _ = stepped(optdsl.zoo.Muon, "bfloat16", torch.float64)
    assert all(map(torch.equal, whole, short))


def test_what_is_kept_and_what_has_factors_stays_whole() -> None:
    rule = optdsl.compile_text(
        "optimizer Kept(lr = 0.1):\n"
        "    state q: [rows, rows]\n"
        "    q = lerp(q, g @ g.T, 0.1)\n"
        "    p -= lr * inverse(q + eye(rows)) @ g\n"
    ).Kept
    assert not any(each.products for v in rule.program.variants for each in v.libraries)
    with pytest.raises(TypeError, match="products"):
        rule([Parameter(torch.zeros(2, 2))], products="bfloat16")


def test_the_choice_is_copied_and_another_is_refused() -> None:
    first, optimizer = stepped(optdsl.zoo.Muon, "bfloat16")
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin._choice.products is torch.bfloat16
    with pytest.raises(ValueError, match="products is 'float16'; it is one of None, 'bfloat16'"):
        optdsl.zoo.Muon([Parameter(first[0])], products="float16")


def test_no_hyperparameter_has_the_name() -> None:
    with pytest.raises(optdsl.CompileError, match="products"):
        optdsl.compile_text("optimizer A(products = 1):\n    p -= products * g\n")
