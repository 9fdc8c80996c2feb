"""Numbers that come with a step, `input NAME on host`: used wherever a host number may stand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optdsl

RULES = """
optimizer Clusters(lr = 0.5, beta = 0.5):
    input k: int on host
    state m: [3, *p]
    p -= lr * (g - m[k])
    m[k] = lerp(m[k], g, 1 - beta)

optimizer Told(lr = 0.5):
    input loss on host, calm: bool on host, rate on host over group
    state best on host = 1e9
    if calm:
        p -= lr * rate * g
    elif loss < best:
        p -= lr * g * rand(at = floor(loss))
    best = min(best, loss)
    report seen = loss + best

optimizer Seldom(lr = 0.5):
    input gap: int on host
    every 2:
        p -= lr * gap * g
"""


def made(name, **settings):
    params = [torch.zeros(3, requires_grad=True), torch.zeros(2, 2, requires_grad=True)]
    for p in params:
        p.grad = torch.ones_like(p)
    groups = [{"params": [p]} for p in params]
    return params, getattr(optdsl.compile_text(RULES), name)(groups, **settings)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_the_target_is_the_interpreter(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    steps = [
        {"loss": 3, "calm": False, "rate": [1, 2]},
        {"loss": 2.5, "calm": True, "rate": [0.5, 2]},
        {"loss": torch.tensor(4.0), "calm": False, "rate": [1, 2]},
        {"loss": np.float32(2), "calm": False, "rate": (1, 2)},
    ]
    results = []
    for each in (backend, "reference"):
        params, optimizer = made("Told", backend=each, seed=5)
        found = []
        for inputs in steps:
            optimizer.step(inputs=inputs)
            found += [p.detach().clone() for p in params]
            found += [optimizer.reports["seen"].double(), optimizer.param_groups[1]["best"]]
        results.append(found)
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert results[0][-1] == 2
    assert results[0][2] == 6


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_an_entry_is_chosen_by_a_number_of_the_step(backend):
    params, optimizer = made("Clusters", backend=backend)
    for k in (0, 2, 0, 1):
        optimizer.step(inputs={"k": k})
    assert params[0].tolist() == [-0.5 - 0.5 - 0.25 - 0.5] * 3
    m = optimizer.state[params[0]]["m"]
    assert m[:, 0].flatten().tolist() == [0.75, 0.5, 0.5]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "the input 'k' is missing; call step(inputs={'k': ...})"),
        ({"k": None}, "the input 'k' is missing"),
        ({"k": 1.5}, "the input 'k' is a whole number, not 1.5"),
        ({"k": True}, "the input 'k' is a whole number, not True"),
        ({"k": torch.ones(2)}, "the input 'k' is a whole number"),
        ({"k": 1, "j": 2}, "has no input 'j'; it has: k"),
    ],
)
def test_what_is_no_such_number_changes_nothing(backend, inputs, said):
    params, optimizer = made("Clusters", backend=backend)
    before = optimizer.state_dict()
    with pytest.raises(ValueError) as raised:
        optimizer.step(inputs=inputs)
    assert said in str(raised.value)
    assert optimizer.state_dict() == before
    assert not params[0].any()
    optimizer.step(inputs={"k": 0})
    assert params[0].all()


def test_it_is_needed_where_a_statement_reads_it():
    params, optimizer = made("Seldom")
    optimizer.step()
    with pytest.raises(ValueError, match="'gap' is missing"):
        optimizer.step()
    optimizer.step(inputs={"gap": 4})
    assert params[0].tolist() == [-2.0] * 3


def test_gradients_are_not_stepped_as_they_come():
    _, optimizer = made("Clusters")
    with pytest.raises(ValueError, match="`k` comes with each step"):
        optimizer.attach()
