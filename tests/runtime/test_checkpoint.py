"""Checkpoints: torch's layout both ways, dtypes kept, refusals that change nothing."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.nn import Parameter

import optdsl
from tests.runtime import programs
from tests.runtime.programs import Adam, optimizer_class
from tests.runtime.test_interface import run, twins
from tests.runtime.test_step import close, copies, parameters, set_gradients

SGD = optimizer_class(programs.SGD)
Distance = optimizer_class(programs.DISTANCE)
Factored = optimizer_class(programs.FACTORED)
Hosted = optimizer_class(programs.HOSTED)
Lookahead = optimizer_class(programs.LOOKAHEAD)

SHAPES = [(4, 3), (5,), (2, 2)]


def saved(optimizer):
    """The checkpoint as it comes back from a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file)


def resume(make, params, **options):
    """A second optimizer of copies of `params`."""
    others = [Parameter(p.detach().clone()) for p in params]
    return others, make(others, **options)


@pytest.mark.parametrize(
    "make", [Adam, Distance, Factored, Lookahead, lambda p: SGD(p, momentum=0.9)]
)
def test_a_resumed_run_goes_on_bit_for_bit(make):
    params = parameters(SHAPES)
    ours = make(params)
    run(ours, params, 4)
    others, resumed = resume(make, params)
    resumed.load_state_dict(saved(ours))
    run(ours, params, 4, 4)
    run(resumed, others, 4, 4)
    close(params, copies(others), 0)
    assert str(saved(ours)) == str(saved(resumed))


def test_the_layout_is_torchs():
    params, others = twins()
    ours, torchs = Adam(params), torch.optim.Adam(others)
    run(ours, params, 3)
    run(torchs, others, 3)
    mine, theirs = ours.state_dict(), torchs.state_dict()
    assert mine.keys() == theirs.keys()
    assert mine["state"].keys() == theirs["state"].keys()
    for index, entry in theirs["state"].items():
        assert mine["state"][index].keys() == entry.keys()
        for key, tensor in entry.items():
            own = mine["state"][index][key]
            assert (own.dtype, own.shape, own.device) == (tensor.dtype, tensor.shape, tensor.device)
            torch.testing.assert_close(own, tensor, rtol=1e-12, atol=1e-12)
    assert mine["param_groups"][0]["params"] == [0, 1, 2]


def test_steps_are_tensors_of_their_own():
    params = parameters(SHAPES)
    ours = Adam(params)
    run(ours, params, 2)
    steps = [entry["step"] for entry in ours.state_dict()["state"].values()]
    steps[0] += 1
    assert [float(each) for each in steps] == [3, 2, 2]
    run(ours, params, 1)
    assert [float(e["step"]) for e in ours.state_dict()["state"].values()] == [3, 3, 3]
    assert float(ours.state[params[0]]["step"]) == 3


@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize(
    ("make", "torchs_make", "options"),
    [
        (Adam, torch.optim.Adam, {"lr": 0.1, "betas": (0.8, 0.9)}),
        (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (SGD, torch.optim.SGD, {"lr": 0.1}),
    ],
)
def test_checkpoints_move_both_ways(make, torchs_make, options, direction):
    params, others = twins()
    ours, torchs = make(params, **options), torchs_make(others, **options)
    run(ours, params, 3)
    run(torchs, others, 3)
    if direction == "from torch":
        ours = make(params)
        ours.load_state_dict(saved(torchs))
        assert ours.param_groups[0]["lr"] == 0.1
    else:
        torchs = torchs_make(others)
        torchs.load_state_dict(saved(ours))
    run(ours, params, 3, 3)
    run(torchs, others, 3, 3)
    close(params, others)


def test_states_keep_their_dtype():
    params = parameters(SHAPES, torch.bfloat16)
    ours = Adam(params)
    run(ours, params, 2)
    others, resumed = resume(Adam, params)
    resumed.load_state_dict(saved(ours))
    for p, q in zip(params, others, strict=True):
        assert resumed.state[q]["exp_avg"].dtype is torch.float32
        assert torch.equal(ours.state[p]["exp_avg"], resumed.state[q]["exp_avg"])
    # torch's own states of bfloat16 parameters are bfloat16; they are widened.
    torchs = torch.optim.Adam(params)
    run(torchs, params, 1)
    resumed.load_state_dict(torchs.state_dict())
    assert resumed.state[others[0]]["exp_avg_sq"].dtype is torch.float32


def test_loading_copies():
    params = parameters(SHAPES)
    ours = Adam(params)
    run(ours, params, 1)
    checkpoint = saved(ours)
    before = copy.deepcopy(checkpoint)
    others, resumed = resume(Adam, params)
    resumed.load_state_dict(checkpoint)
    run(resumed, others, 3)
    assert str(checkpoint) == str(before)


def test_states_that_are_not_contiguous_are_taken():
    params = parameters([(4, 3)])
    ours = Adam(params)
    run(ours, params, 1)
    checkpoint = saved(ours)
    entry = checkpoint["state"][0]
    entry["exp_avg"] = entry["exp_avg"].T.contiguous().T
    others, resumed = resume(Adam, params)
    resumed.load_state_dict(checkpoint)
    run(resumed, others, 1, 1)
    run(ours, params, 1, 1)
    close(params, copies(others), 0)


def test_shared_states_and_counts_of_steps_come_along():
    params = parameters(SHAPES)
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    ours = Distance(groups)
    run(ours, params, 2)
    others = [Parameter(p.detach().clone()) for p in params]
    resumed = Distance([{"params": others[:1]}, {"params": others[1:]}])
    resumed.load_state_dict(saved(ours))
    first, second = resumed.param_groups
    assert first["travelled"] is second["travelled"]
    assert first["best"] is not second["best"]
    assert float(first["travelled"]) == float(ours.param_groups[0]["travelled"])
    hosted = Hosted([("weight", params[0])])
    for _ in range(3):
        hosted.step()
    other = Hosted([("weight", others[0])])
    other.load_state_dict(saved(hosted))
    assert other.param_groups[0]["steps"] == 3


def test_parameters_without_an_update_have_no_entry():
    params = parameters(SHAPES)
    ours = Adam(params)
    set_gradients(params, 0)
    params[1].grad = None
    ours.step()
    assert list(ours.state_dict()["state"]) == [0, 2]
    others, resumed = resume(Adam, params)
    resumed.load_state_dict(saved(ours))
    run(ours, params, 2, 1)
    run(resumed, others, 2, 1)
    close(params, copies(others), 0)


def test_hooks_of_checkpoints_run():
    params = parameters(SHAPES)
    ours, seen = Adam(params), []
    ours.register_state_dict_pre_hook(lambda o: seen.append("before saving"))

    def tag(o, state):
        seen.append(sorted(state["state"][0]))
        state["tag"] = 1

    ours.register_state_dict_post_hook(tag)
    ours.register_load_state_dict_pre_hook(lambda o, state: seen.append(state["tag"]))
    ours.register_load_state_dict_post_hook(lambda o: seen.append("after loading"))
    run(ours, params, 1)
    ours.load_state_dict(ours.state_dict())
    assert seen == ["before saving", ["exp_avg", "exp_avg_sq", "step"], 1, "after loading"]


def test_schedulers_resume():
    params = parameters(SHAPES)
    ours = Adam(params, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(ours, 2, 0.1)
    for step in range(3):
        run(ours, params, 1, step)
        schedule.step()
    others, resumed = resume(Adam, params)
    again = torch.optim.lr_scheduler.StepLR(resumed, 2, 0.1)
    again.load_state_dict(schedule.state_dict())
    resumed.load_state_dict(saved(ours))
    for step in range(3, 6):
        for each, ps, s in ((ours, params, schedule), (resumed, others, again)):
            run(each, ps, 1, step)
            s.step()
    close(params, copies(others), 0)
    assert resumed.param_groups[0]["initial_lr"] == 0.1


# ---------------------------------------------------------------- refusals


def spoil_shape(checkpoint):
    checkpoint["state"][1]["exp_avg"] = torch.zeros(6)


def spoil_missing(checkpoint):
    del checkpoint["state"][2]["exp_avg_sq"]


def spoil_unknown(checkpoint):
    checkpoint["state"][0]["max_exp_avg_sq"] = torch.zeros(4, 3)


def spoil_count(checkpoint):
    del checkpoint["state"][0]["step"]


def spoil_fraction(checkpoint):
    checkpoint["state"][0]["step"] = torch.tensor(1.5)


def spoil_type(checkpoint):
    checkpoint["state"][0]["exp_avg"] = "zeros"


def spoil_groups(checkpoint):
    checkpoint["param_groups"].append(dict(checkpoint["param_groups"][0]))


def spoil_sizes(checkpoint):
    checkpoint["param_groups"][0]["params"].pop()


def spoil_rate(checkpoint):
    checkpoint["param_groups"][0]["lr"] = -1.0


def spoil_option(checkpoint):
    checkpoint["param_groups"][0]["differentiable"] = True


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_shape, r"'exp_avg' of parameter 1 of group 0 is \[6\], not \[5\]"),
        (spoil_missing, r"lacks the state 'exp_avg_sq' of parameter 2 of group 0"),
        (spoil_unknown, r"'max_exp_avg_sq' .* those of Adam are: exp_avg, exp_avg_sq"),
        (spoil_count, r"lacks 'step' of parameter 0"),
        (spoil_fraction, r"step of parameter 0 of group 0 is 1\.5"),
        (spoil_type, r"'exp_avg' of parameter 0 of group 0 is str"),
        (spoil_groups, r"has 2 parameter groups, this optimizer has 1"),
        (spoil_sizes, r"group 0 of the checkpoint has 2 parameters, this optimizer's has 3"),
        (spoil_rate, r"lr >= 0 does not hold"),
        (spoil_option, r"differentiable=True is not supported"),
    ],
)
def test_a_refused_checkpoint_changes_nothing(spoil, message):
    params = parameters(SHAPES)
    ours = Adam(params, lr=0.1)
    run(ours, params, 2)
    checkpoint = saved(ours)
    checkpoint["param_groups"][0]["lr"] = 0.7
    spoil(checkpoint)
    others, twin = resume(Adam, params, lr=0.1)
    twin.load_state_dict(saved(ours))
    before = str(saved(twin))
    with pytest.raises(ValueError, match=message):
        twin.load_state_dict(checkpoint)
    assert str(saved(twin)) == before
    run(twin, others, 2, 2)
    run(ours, params, 2, 2)
    close(params, copies(others), 0)


RIVALS = """
optimizer Rivals(lr = 0.1, rank = 2):
    if ndim == 2:
        state v: [rank, cols]
        v += eye(rank, rows) @ g
        p -= lr * eye(rows, rank) @ v
    elif name matches "bias":
        state v
        v += g
        p -= lr * v
    else:
        state v: []
        v += sum(g)
        p -= lr * v
"""


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_states_of_one_key_and_different_shapes_resume(backend):
    module = optdsl.compile_text(RIVALS)
    shapes = {"a.weight": (3, 4), "a.bias": (4,), "scale": (4,), "b.weight": (2, 4)}

    def made():
        params = [(n, Parameter(torch.ones(s, dtype=torch.float64))) for n, s in shapes.items()]
        return module.Rivals(params, backend=backend), [p for _, p in params]

    def run(optimizer, params, steps):
        for step in steps:
            for p in params:
                p.grad = torch.full_like(p, float(step))
            optimizer.step()

    (whole, params), (first, half), (second, rest) = made(), made(), made()
    run(whole, params, range(4))
    run(first, half, range(2))
    with torch.no_grad():
        for p, q in zip(rest, half, strict=True):
            p.copy_(q)
    second.load_state_dict(first.state_dict())
    run(second, rest, range(2, 4))
    assert all(map(torch.equal, params, rest))
    assert [tuple(second.state[p]["v"].shape) for p in rest] == [(2, 4), (4,), (), (2, 4)]
