"""The contract where others have silently done nothing: few bits, compiled training."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from tests.contract.cases import Case, contract, rate_of, same, train, values


@contract("half precision")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_element_moves(case: Case, dtype: torch.dtype, record_property: Any) -> None:
    """Wherever the exact step is larger than what the dtype resolves, in the vector part and in
    the tail (torch 2.13's fused SGD leaves whole vectors of the CPU as they were)."""
    rate = {"lr": max(0.5, rate_of(case))} if "lr" in dict(case.optimizer.program.hypers) else {}
    # Small ones, so that the steps of nearly all rules are far above what is resolved.
    params = [
        (name, Parameter(p.detach() / 32)) for name, p in case.parameters(dtype, [(5, 8), (37,)])
    ]
    exact = [(name, Parameter(p.detach().double())) for name, p in params]
    start = values(exact)
    train(case.make(params, **rate), 2)
    train(Case(case.rule, "reference").make(exact, **rate), 2)
    # Matrix iterations amplify roundings.
    matrices = any(variant.libraries for variant in case.optimizer.program.variants)
    factor, owed = (64 if matrices else 4), 0
    for (_, p), (_, q), before in zip(params, exact, start, strict=True):
        resolved = factor * torch.finfo(dtype).eps * before.abs().clamp_min(torch.finfo(dtype).tiny)
        must = (q.detach() - before).abs() > resolved
        assert bool((p.detach().double() != before)[must].all())
        owed += int(must.sum())
    if owed < 16:
        record_property("reason", "the first steps are smaller than 16 bits resolve")


@contract("far elements", backends=["cpu"])
def test_indices_have_64_bits(case: Case) -> None:
    """In the C of every kernel: what counts is long long, and no int is in an index."""
    source = case.optimizer.program.c_source
    kernels = source[source.index("\nvoid ") :]
    loops = re.findall(r"for \((.*?)=", kernels)
    assert loops
    assert all(re.fullmatch(r"long long \w+ ", each) for each in loops)
    for narrow in set(re.findall(r"\b(?:int|unsigned|short) (\w+) =", kernels)):
        assert not re.search(rf"\[[^\]]*\b{narrow}\b", kernels), narrow


# What dynamo looks at when a function is first compiled takes half a second a case.
@pytest.mark.slow
@contract("compiled training", backends=["cpu"])
def test_a_compiled_function_may_step(case: Case) -> None:
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        params = case.parameters(shapes=[(3, 4), (3,)])
        optimizer = case.make(params)
        weight, bias = (p for _, p in params)

        def step(optimizer: Any = optimizer, weight: Any = weight, bias: Any = bias) -> Any:
            optimizer.zero_grad()
            loss = (weight.sum(1) + bias).square().sum()
            loss.backward()
            optimizer.step()
            return loss

        run = torch.compile(step, backend="eager") if compiled else step
        losses = [run().detach() for _ in range(3)]
        results.append([*losses, *values(params)])
        assert optimizer.counters.steps == 3
    assert same(*results)
