"""Whose memory a step works on: gradients that come and go, strides, moved and shared tensors."""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict

import pytest
import torch
from torch.nn import Parameter

from tests.runtime import programs
from tests.runtime.programs import Adam, optimizer_class
from tests.runtime.stepping import (
    Clip,
    clip,
    close,
    copies,
    parameters,
    set_gradients,
)


def test_t_stands_still_without_a_gradient():
    params = parameters([(4, 3), (5,), (6,)])
    others = [Parameter(each) for each in copies(params)]
    ours, torchs = Adam(params, lr=0.1), torch.optim.Adam(others, lr=0.1)
    for step in range(6):
        set_gradients(params, step)
        params[step % 2].grad = None
        for p, q in zip(params, others, strict=True):
            q.grad = p.grad
        ours.step()
        torchs.step()
    close(params, others, 1e-12)
    steps = [int(each["step"]) for each in ours.state_dict()["state"].values()]
    assert steps == [3, 3, 6]
    # The second mask splits the cohorts for good; from then on each mask has its kept plan.
    assert ours.counters.plans == 3


def test_no_gradients_at_all_is_no_step():
    params = parameters()
    before = copies(params)
    ours = Adam(params)
    ours.step()
    close(params, before, 0)
    assert ours.state_dict()["state"] == {}


def test_gradients_need_not_be_contiguous():
    params = parameters([(30, 20), (6, 5, 4), (8,), (9, 3)])
    values = copies(params)
    gs = [
        torch.randn(20, 30, dtype=torch.float64).T,
        torch.randn(6, 4, 5, dtype=torch.float64).transpose(1, 2),
        torch.randn(1, dtype=torch.float64).expand(8),
        torch.randn(9, 6, dtype=torch.float64)[:, ::2],
    ]
    for p, g in zip(params, gs, strict=True):
        p.grad = g
    ours = Clip(params)
    ours.step()
    close(params, clip(values, gs))


def test_the_same_memory_with_other_strides_is_seen():
    p = Parameter(torch.zeros(3, 3, dtype=torch.float64))
    memory = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    ours = Clip([p], lr=1.0, max_norm=1e9)
    p.grad = memory
    ours.step()
    p.grad = memory.T
    ours.step()
    close([p], [-(memory + memory.T)])


def test_the_same_memory_with_another_dtype_is_refused():
    p = Parameter(torch.zeros(3, 3))
    p.grad_dtype = None
    ours = Clip([p], lr=1.0, max_norm=1e9)
    memory = p.grad = torch.ones(3, 3)
    ours.step()
    ours.step()
    p.grad = memory.view(torch.int32)
    with pytest.raises(RuntimeError, match=r"gradient of parameter 0 is torch.int32 \[3, 3\]"):
        ours.step()
    p.grad = memory
    ours.step()
    assert torch.equal(p, torch.full((3, 3), -3.0))


def test_the_same_memory_that_negates_is_resolved():
    p = Parameter(torch.zeros(1, dtype=torch.float64))
    ours = Clip([p], lr=1.0, max_norm=1e9)
    z = torch.ones(1, dtype=torch.complex128) * 1j
    for step, wanted in ((z, -1.0), (z, -2.0), (z.conj(), -1.0), (z.conj(), 0.0), (z, -1.0)):
        p.grad = step.imag
        assert p.grad.is_contiguous()
        ours.step()
        assert p.item() == wanted


def test_views_that_negate_are_resolved():
    z = torch.randn(4, 3, dtype=torch.complex128)
    p = Parameter(z.conj().imag)
    assert p.is_neg()
    value = p.detach().clone()
    ours = Clip([p], lr=1.0, max_norm=1e9)
    for _ in range(2):
        p.grad = torch.randn(4, 3, dtype=torch.complex128).conj().imag
        assert p.grad.is_neg()
        value = value - p.grad
        ours.step()
    close([p], [value])


def test_parameters_need_not_be_contiguous():
    base = torch.randn(20, 30, dtype=torch.float64)
    params = [Parameter(base.clone().T), Parameter(torch.randn(4, 6, dtype=torch.float64)[:, ::2])]
    assert not any(p.is_contiguous() for p in params)
    values = copies(params)
    ours = Clip(params)
    strides = [p.stride() for p in params]
    for step in range(3):
        values = clip(values, set_gradients(params, step))
        ours.step()
    close(params, values)
    assert [p.stride() for p in params] == strides


def test_unaligned_memory_is_worked_on():
    memory = torch.randn(101)
    p = Parameter(memory[1:])
    assert p.data_ptr() % 16
    p.grad = torch.randn(103)[3:]
    before, ours = copies([p]), Clip([p])
    ours.step()
    close([p], clip(before, [p.grad]), 1e-6)


def test_gradients_are_not_kept_alive():
    for program in (programs.CLIP, programs.WHOLE):
        params = parameters([(4, 3), (7, 7)])
        ours = optimizer_class(program)(params, maximize=True)
        references = [weakref.ref(g) for g in set_gradients(params, 0)]
        ours.step()
        ours.zero_grad()
        gc.collect()
        assert [r() for r in references] == [None, None]


def test_maximize_steps_uphill():
    params, twin = parameters(), parameters()
    down = Clip([{"params": twin}])
    up = Clip([{"params": params[:3]}, {"params": params[3:]}], maximize=True)
    for step in range(2):
        for p, q, g in zip(params, twin, set_gradients(params, step), strict=True):
            q.grad = -g
            p.grad = g
        before = [g.clone() for g in (p.grad for p in params)]
        up.step()
        down.step()
        assert all(torch.equal(p.grad, b) for p, b in zip(params, before, strict=True))
    close(params, copies(twin), 0)


def test_tied_parameters_count_once():
    p = parameters([(4, 3)])[0]
    values = copies([p])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        ours = Clip([p, p])
    values = clip(values, set_gradients([p], 0))
    ours.step()
    close([p], values)


def test_a_parameter_that_moves_is_found_again():
    params = parameters([(40, 30), (7,)])
    others = [Parameter(each) for each in copies(params)]
    ours, torchs = Adam(params, lr=0.1), torch.optim.Adam(others, lr=0.1)
    for step in range(4):
        for q, g in zip(others, set_gradients(params, step), strict=True):
            q.grad = g.clone()
        if step == 2:
            flat = torch.nn.utils.parameters_to_vector(params).detach().clone()
            torch.nn.utils.vector_to_parameters(flat, params)
        ours.step()
        torchs.step()
    close(params, others)
    assert flat[0] == params[0].view(-1)[0]
    assert ours.counters.looks == 2


def test_a_state_that_is_replaced_by_hand_is_used():
    params = parameters([(40, 30)])
    others = [Parameter(each) for each in copies(params)]
    ours, torchs = Adam(params, lr=0.1), torch.optim.Adam(others, lr=0.1)
    for step in range(4):
        others[0].grad = set_gradients(params, step)[0].clone()
        if step == 2:
            other = torch.randn(40, 30, dtype=torch.float64)
            ours.state[params[0]]["exp_avg"] = other
            torchs.state[others[0]]["exp_avg"] = other.clone()
        ours.step()
        torchs.step()
    close(params, others)
    assert ours.state[params[0]]["exp_avg"] is other


def test_a_new_parameter_takes_over_the_states_of_an_old_one():
    """As where points are added to and taken from a scene while it is trained."""
    (p,), (q,) = parameters([(6, 3)]), parameters([(6, 3)])
    ours, torchs = Adam([p], lr=0.1), torch.optim.Adam([q], lr=0.1)
    for step in range(6):
        for each in (ours, torchs):
            group = each.param_groups[0]
            if step == 3:
                (old,) = group["params"]
                stored = each.state.get(old)
                stored["exp_avg"] = stored["exp_avg"][:4].clone()
                stored["exp_avg_sq"] = stored["exp_avg_sq"][:4].clone()
                del each.state[old]
                group["params"][0] = Parameter(old.detach()[:4].clone())
                each.state[group["params"][0]] = stored
            set_gradients(group["params"], step)
            each.step()
    ((a,), (b,)) = (each.param_groups[0]["params"] for each in (ours, torchs))
    close([a], copies([b]))
    assert int(ours.state[a]["step"]) == 6


@pytest.mark.parametrize("how", ["clear one", "clear all", "delete", "replace", "set step"])
def test_states_that_are_dropped_begin_anew(how):
    params, others = parameters([(6, 3), (4,)]), parameters([(6, 3), (4,)])
    ours, torchs = Adam(params, lr=0.1), torch.optim.Adam(others, lr=0.1)
    for step in range(5):
        for each, ps in ((ours, params), (torchs, others)):
            if step == 3:
                match how:
                    case "clear one":
                        each.state[ps[0]].clear()
                    case "clear all":
                        each.state.clear()
                    case "delete":
                        del each.state[ps[1]]
                    case "replace":
                        each.state = defaultdict(dict)
                    case "set step":
                        each.state[ps[0]]["step"] = torch.tensor(50.0)
            set_gradients(ps, step)
            each.step()
    close(params, copies(others))


def test_a_state_of_the_wrong_kind_is_refused_by_name():
    (p,) = params = parameters([(4, 3)])
    ours = Adam([("w", p)])
    set_gradients(params, 0)
    ours.step()
    before = copies(params)
    ours.state[p]["exp_avg"] = torch.zeros(3, 4, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"'exp_avg' of parameter 'w' is .*\[3, 4\].*needs.*\[4, 3\]"
    ):
        ours.step()
    close(params, before, 0)


def test_the_graph_of_a_stepped_parameter_is_stale():
    p = Parameter(torch.randn(3, dtype=torch.float64))
    ours = Clip([p])
    loss = (p * p).sum()
    p.grad = torch.ones_like(p)
    ours.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
