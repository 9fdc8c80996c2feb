"""A step against torch in float64: variants, reductions over parameters, factored states, library
passes, and what a step costs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from tests.runtime.programs import Adam
from tests.runtime.stepping import (
    SGD,
    Clip,
    Distance,
    Factored,
    Gram,
    Hosted,
    Lookahead,
    Uneven,
    Whole,
    clip,
    close,
    copies,
    parameters,
    set_gradients,
)

# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)],
)
def test_elementwise_step_is_right_in_every_dtype(dtype, tolerance):
    params = parameters(dtype=dtype)
    others = [Parameter(each) for each in copies(params)]
    ours, torchs = Adam(params, lr=1e-2), torch.optim.Adam(others, lr=1e-2)
    for step in range(4):
        for p, q, g in zip(params, others, set_gradients(params, step), strict=True):
            q.grad = g.double()
            assert p.dtype == dtype
        ours.step()
        torchs.step()
    close(params, others, tolerance)
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    assert all(s["exp_avg"].dtype is kept for s in ours.state.values())


def test_dtypes_may_be_mixed():
    params = [
        *parameters([(30, 5)], torch.float32),
        *parameters([(7,)], torch.float64),
        *parameters([(64,)], torch.bfloat16),
    ]
    others = [Parameter(each) for each in copies(params)]
    ours, torchs = Adam(params, lr=1e-3), torch.optim.Adam(others, lr=1e-3)
    for step in range(3):
        for q, g in zip(others, set_gradients(params, step), strict=True):
            q.grad = g.double()
        ours.step()
        torchs.step()
    close(params[:2], others[:2], 1e-6)
    close(params[2:], others[2:], 2e-2)
    assert ours.counters.calls == 3  # one call for the three classes


def test_state_is_born_when_its_branch_is_first_taken():
    params = parameters()
    ours = SGD(params, lr=0.1)
    values, bufs = copies(params), None
    for step in range(5):
        momentum = 0.0 if step < 2 else 0.9
        ours.param_groups[0]["momentum"] = momentum
        gs = [g.double() for g in set_gradients(params, step)]
        if momentum:
            bufs = gs if bufs is None else [0.9 * b + g for b, g in zip(bufs, gs, strict=True)]
            values = [p - 0.1 * b for p, b in zip(values, bufs, strict=True)]
        else:
            values = [p - 0.1 * g for p, g in zip(values, gs, strict=True)]
        ours.step()
        assert ("momentum_buffer" in ours.state[params[0]]) is (step >= 2)
    close(params, values)


def test_branches_of_a_count_alternate_between_kept_plans():
    params = parameters()
    ours = Lookahead(params, lr=0.1, k=3)
    values, slow = copies(params), copies(params)
    for step in range(10):
        gs = set_gradients(params, step)
        values = [p - 0.1 * g for p, g in zip(values, gs, strict=True)]
        if (step + 1) % 3 == 0:
            slow = [s + 0.5 * (p - s) for s, p in zip(slow, values, strict=True)]
            values = [s.clone() for s in slow]
        ours.step()
    close(params, values)
    assert ours.counters.plans == 3  # the first step, slow ones, fast ones


def test_a_sum_over_all_takes_in_every_parameter_of_every_class():
    params = [*parameters(), *parameters([(33, 3), (5,)], torch.float32)]
    ours = Clip([{"params": params[:2]}, {"params": params[2:]}])
    values = copies(params)
    for step in range(3):
        values = clip(values, set_gradients(params, step))
        ours.step()
    close(params[:-2], values[:-2])
    close(params[-2:], values[-2:], 1e-6)


def test_a_sum_over_all_ranges_over_those_with_a_gradient():
    params = parameters()
    ours = Clip(params)
    values = copies(params)
    for step in range(4):
        set_gradients(params, step)
        params[step].grad = None
        values = clip(values, [p.grad for p in params])
        ours.step()
    close(params, values)


def test_shared_states_are_updated_once_a_step():
    params = parameters()
    ours = Distance([{"params": params[:2]}, {"params": params[2:], "lr": 0.01}])
    values, travelled, best = copies(params), 0.0, [0.5, 0.5]
    for step in range(4):
        gs = [g.double() for g in set_gradients(params, step)]
        travelled += sum(float(g.square().sum()) for g in gs) ** 0.5
        for group, part in enumerate((gs[:2], gs[2:])):
            best[group] = max(best[group], *(float(g.max()) for g in part if g.numel()))
        for index, g in enumerate(gs):
            group = int(index >= 2)
            values[index] = values[index] - (0.1, 0.01)[group] * g / (travelled + best[group])
        ours.step()
    close(params, values)
    first, second = ours.param_groups
    assert first["travelled"] is second["travelled"]
    assert float(first["travelled"]) == pytest.approx(travelled, rel=1e-14)
    assert [float(each["best"]) for each in (first, second)] == pytest.approx(best, rel=1e-14)


def test_a_shared_state_stands_still_while_nobody_steps():
    params = parameters([(4, 3), (5,)])
    ours = Distance([{"params": params[:1]}, {"params": params[1:]}])
    set_gradients(params, 0)
    ours.step()
    before = float(ours.param_groups[1]["best"])
    params[0].grad, params[1].grad = torch.full_like(params[0], 9.0), None
    ours.step()
    assert float(ours.param_groups[1]["best"]) == before
    assert float(ours.param_groups[0]["best"]) == 9.0
    params[0].grad = None
    travelled = float(ours.param_groups[0]["travelled"])
    ours.step()
    assert float(ours.param_groups[0]["travelled"]) == travelled


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_shared_state_is_written_when_no_variant_reads_it_any_more(order):
    params = parameters([(4, 3), (50_000,), (5,)])
    groups = [{"params": params[2 * i : 2 * i + 2], "long": order[i]} for i in range(2)]
    ours = Uneven(groups)
    values, total = copies(params), 0.0
    for step in range(3):
        gs = set_gradients(params, step)
        sq = sum(float(g.square().sum()) for g in gs)
        for i, g in enumerate(gs):
            values[i] = values[i] - 0.1 * (1 + order[i // 2]) * g / (1 + total + sq)
        total += sq
        ours.step()
    close(params, values)
    assert float(ours.param_groups[0]["total"]) == pytest.approx(total, rel=1e-12)


def factored(values, rows, cols, gs, lr=0.1, decay=0.25):
    for i, g in enumerate(gs):
        g = g.double()
        matrix = g if g.dim() > 1 else g.reshape(-1, 1)
        rows[i] = rows[i] + decay * (matrix.square().mean(-1, keepdim=True) - rows[i])
        cols[i] = cols[i] + decay * (matrix.square().mean(-2, keepdim=True) - cols[i])
        second = rows[i] * cols[i] / rows[i].mean(-2, keepdim=True)
        update = lr * matrix / second.sqrt() * matrix.max()
        values[i] = values[i] - update.reshape(g.shape)


@pytest.mark.parametrize(
    "shapes",
    [[(3, 4)], [(600, 70), (40, 1), (1, 40)], [(2, 3, 40, 5), (4, 4, 1, 3)], [(100,), ()]],
)
def test_rows_columns_and_matrices_of_a_batch(shapes):
    params = parameters(shapes)
    ours = Factored(params)
    values = copies(params)
    rows = [
        torch.full((*p.shape[:-1], 1) if p.dim() > 1 else (p.numel(), 1), 0.125) for p in params
    ]
    cols = [
        torch.full((*p.shape[:-2], 1, p.shape[-1]) if p.dim() > 1 else (1, 1), 0.125)
        for p in params
    ]
    for step in range(3):
        factored(values, rows, cols, set_gradients(params, step))
        ours.step()
    close(params, values)
    for p, row, col in zip(params, rows, cols, strict=True):
        close([ours.state[p]["row_var"], ours.state[p]["col_var"]], [row, col])


def test_library_passes_see_batches_of_one_shape():
    params = parameters([(4, 6), (3, 3), (4, 6), (5, 2), (4, 6)])
    ours = Gram([{"params": params[:4]}, {"params": params[4:], "lr": 0.2}])
    values = copies(params)
    for step in range(3):
        for i, g in enumerate(set_gradients(params, step)):
            x = 2 * g
            y = x @ x.T @ x / g.shape[0] + x.mean()
            values[i] = values[i] - (0.2 if i == 4 else 0.1) * y / (1 + y.square().sum())
        ours.step()
    close(params, values)
    assert ours.counters.batches == 3 * 4  # (4, 6) of each group, (3, 3), (5, 2)


def test_library_batches_are_cut_to_the_scratch_limit(monkeypatch):
    params = parameters([(4, 6)] * 5)
    twin = [Parameter(each) for each in copies(params)]
    set_gradients(params, 0)
    set_gradients(twin, 0)
    ours, parts = Gram(params), Gram(twin)
    ours.step()
    # A parameter takes 49 numbers.
    monkeypatch.setattr("optdsl.runtime.stages.library.SCRATCH_BYTES", 1000)
    parts.step()
    close(params, copies(twin))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_library_passes_read_and_write_parameters_and_states(dtype):
    params = parameters([(4, 6), (3, 3), (4, 6)], dtype)
    ours = Whole(params)
    values, ms = copies(params), [torch.zeros_like(p, dtype=torch.float64) for p in params]
    for step in range(3):
        for i, g in enumerate(set_gradients(params, step)):
            g = g.double()
            ms[i] = ms[i] + g @ g.T @ g
            values[i] = values[i] - 0.1 * ms[i]
        ours.step()
    close(params, values, 1e-12 if dtype is torch.float64 else 0.1)
    close([ours.state[p]["m"] for p in params], ms, 1e-12 if dtype is torch.float64 else 1e-5)


def test_a_rule_without_gradients_updates_what_requires_one():
    params = parameters([(4, 3), (5,)])
    params[1].requires_grad_(False)
    ours = Hosted([("weight", params[0]), ("other", params[1])], attributes={"depth": 2})
    values = copies(params)
    for step in range(1, 4):
        ours.step()
        values[0] = values[0] * (1 - 0.1 * 0.5**2 / step)
    close(params, values)


def test_names_and_attributes_choose_and_scale():
    params = parameters([(4, 3), (5,), (2, 2)])
    named = [("a.weight", params[0]), ("a.bias", params[1]), ("b.weight", params[2])]
    groups = [
        {"params": named[:2], "depth": {"a.weight": 3}},
        {"params": named[2:], "depth": 1},
    ]
    ours = Hosted(groups)
    values = copies(params)
    for step in range(1, 3):
        ours.step()
        values[0] = values[0] * (1 - 0.1 * 0.5**3 / step)
        values[1] = values[1] * (1 + 0.1 * 1)
        values[2] = values[2] * (1 - 0.1 * 0.5 / step)
    close(params, values)
    assert ours.param_groups[0]["depth"] == {0: 3}
    assert ours.param_groups[0]["steps"] == 2


# ---------------------------------------------------------------- what a step costs


def test_a_steady_step_is_one_scan_one_call_and_no_tables():
    params = parameters([(64,)] * 50)
    ours = Adam([{"params": params[:20]}, {"params": params[20:], "lr": 1e-2}])
    for step in range(10):
        set_gradients(params, step)
        ours.param_groups[0]["lr"] = 1e-3 / (step + 1)
        ours.step()
        ours.zero_grad()
    counters = ours.counters
    assert (counters.steps, counters.scans, counters.calls) == (10, 10, 10)
    assert (counters.looks, counters.plans) == (1, 1)
    assert counters.rows == 20  # one a group and step
    assert counters.regions == 0  # 3,200 elements are not worth a thread


def test_all_stages_share_one_parallel_region(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    params = parameters([(300, 300)])
    ours = Distance(params)
    for step in range(3):
        set_gradients(params, step)
        ours.step()
    assert (ours.counters.calls, ours.counters.regions) == (3, 3)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    results = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        monkeypatch.setattr("optdsl.runtime.cpu.launch.SERIAL_WORK", 0)
        params = parameters([(500, 77), (3, 4), (90_001,)], torch.float32)
        both = [Distance(params), Factored(params)]
        for step in range(2):
            for ours in both:
                set_gradients(params, step)
                ours.step()
        results.append(copies(params))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_a_nan_reaches_a_maximum():
    params = parameters([(300, 300)])
    ours = Distance(params)
    set_gradients(params, 0)
    params[0].grad[7, 7] = torch.nan
    ours.step()
    assert torch.isnan(params[0]).all()
