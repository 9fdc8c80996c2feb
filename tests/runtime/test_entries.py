"""States of which a step goes to entries by numbers that the host knows: `past[t % 3] = g`."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import Parameter

import optdsl
from optdsl.compiler import compile_source
from optdsl.explain import explain_plan
from optdsl.source import Source
from tests.runtime.stepping import eighths

RULES = """
optimizer Ring(lr = 0.5, beta = 0.5, k = 0):
    state past: [3, *p]
    past[t % 3] = g
    p -= lr * (past[k] + past[(t + 1) % 3])
    past[k] = beta * past[0]
    past[(t + 1) % 3] -= past[k]

optimizer Where(lr = 0.5, k = 0):
    state past: [4, *p]
    if max(g) > 1:
        past[k] = g
        if min(g) < -1:
            past[t % 4] = 2 * g
    p -= lr * past[t % 4] / (1 + max(abs(past[1]), over = all))

optimizer Rows(lr = 0.5, k = 0):
    state past: [2, *p], top: [rows, 1]
    past[t % 2] = g - max(past[1 - k], axis = 1)
    top = max(past[1], axis = 1)
    p -= lr * (past[k] - top)

optimizer Early(lr = 0.5, k = 0):
    state past: [2, *p], h = 1, w = 0.5
    old = past[k]
    h = -h
    w = -w
    past[t % 2] = g * h * w
    p -= lr * old * min(1, max(abs(g * h * w)))

optimizer Copied(lr = 0.5):
    state past: [3, *p], kept: [3, *p]
    past[t % 3] = g
    p -= lr * kept[0]
    kept = past

optimizer Products(lr = 0.5, k = 0):
    view last
    state past: [3, *p]
    q = past[k] @ (g.T @ past[t % 3])
    past[t % 3] = g
    past[(t + k) % 3] = q
    p -= lr * past[2]

optimizer AggMo(lr = 0.5, betas = (0, 0.5, 0.75)):
    state m: [len(betas), *p]
    for k in range(len(betas)):
        m[k] = betas[k] * m[k] + g
        p -= lr / 4 * m[k]

optimizer Queue(lr = 0.5, window = 2):
    view flat
    state past: [window, *p] = 1
    p -= lr * past[t % window]
    past[t % window] = g
"""
NAMES = ("Ring", "Where", "Rows", "Early", "Copied", "Products", "AggMo", "Queue")
LIBRARY = ("Copied", "Products")
COMPILED = optdsl.compile_text(RULES)
SHAPES = [(3, 5), (4, 4), (17,), (0, 3), (1,), (2, 3, 16), (40, 25), ()]
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def stepped(name, backend, dtype, few=0):
    """Parameters and states, after steps whose entries change: eighths make all sums exact."""
    generator = torch.Generator().manual_seed(0)
    shapes = SHAPES[:few] if few else SHAPES
    params = [Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    optimizer = getattr(COMPILED, name)(params, backend=backend)
    for step in range(5):
        if "k" in optimizer.param_groups[0]:
            optimizer.param_groups[0]["k"] = (0, 1, 1.0, 0)[step % 4]
        for p in params:
            p.grad = eighths(p, generator)
        optimizer.step()
    kept = [
        {k: v for k, v in optimizer.state[p].items() if k != "step"} for p in params if p.numel()
    ]
    return [*(p.detach() for p in params), kept], optimizer


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in NAMES),
        *((name, dtype) for name in ("Ring", "Rows") for dtype in DTYPES[1:]),
    ],
    ids=str,
)
def test_the_target_is_the_interpreter(name, dtype, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    few = 4 if backend == "triton" else 0  # its interpreter is slow
    found, optimizer = stepped(name, backend, dtype, few)
    wanted, _ = stepped(name, "reference", dtype, few)
    exact = name != "Where"  # which divides
    torch.testing.assert_close(found, wanted, **({"rtol": 0, "atol": 0} if exact else {}))
    assert bool(optimizer.counters.batches) == (name in LIBRARY)


BYTES = {
    "Ring": 36,  # g p and three entries, p and three
    "Where": 40,  # g; g past[1]; g p and two, p and two
    "Rows": 28,  # g p and three, p and one
    "Early": 44,  # past[t % 2] waits for past[k], which may be it: x is kept for it
    "AggMo": 36,
    "Queue": 20,
}


def test_a_step_moves_the_entries_that_it_names():
    rules = compile_source(Source("entries.opt", RULES), None, tuple(BYTES)).rules
    assert {rule.name: explain_plan(rule.plan).steady.bytes for rule in rules} == BYTES


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_the_other_entries_stay_where_they_are(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    p = Parameter(torch.zeros(5, 7))
    optimizer = COMPILED.Queue([p], backend=backend, window=4)
    p.grad = torch.ones(5, 7)
    optimizer.step()
    past = optimizer.state[p]["past"]
    address, past[0], past[3] = past.data_ptr(), math.nan, math.inf
    optimizer.step()
    assert optimizer.state[p]["past"].data_ptr() == address
    assert past[:, 0, 0].tolist()[1:] == [1, 1, math.inf] and past[0].isnan().all()
    assert p.eq(-1).all()


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("k", [-1, 3, -0.5, math.nan, math.inf])
def test_an_entry_that_there_is_not_changes_nothing(k, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    params = [Parameter(torch.zeros(2, 3)), Parameter(torch.zeros(4))]
    groups = [{"params": [params[0]]}, {"params": [params[1]], "k": k}]
    optimizer = COMPILED.Ring(groups, backend=backend)
    for p in params:
        p.grad = torch.ones_like(p)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"no entry|entry \S+ of an axis of 3"):
        optimizer.step()
    assert not any(p.any() for p in params)
    assert str(optimizer.state_dict()) == str(before)
    optimizer.param_groups[1]["k"] = 2.5  # the third
    optimizer.step()
    assert optimizer.state[params[1]]["past"][:, 0, 0].tolist() == [0, 1, 0]


def test_a_window_that_is_shorter_than_it_counts_to():
    """The size of the axis is a number that only the host knows."""
    text = (
        "optimizer Late(lr = 1.0, n = 2):\n    state past: [n, *p]\n    past[t % 3] = g\n    p -= g"
    )
    p = Parameter(torch.zeros(3))
    optimizer = optdsl.compile_text(text).Late([p])
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(ValueError, match="'past' has no entry 2, only 0 to 1"):
        optimizer.step()
    assert p.eq(-1).all() and optimizer.state[p]["step"] == 1
