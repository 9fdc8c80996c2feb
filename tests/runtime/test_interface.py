"""torch's interface over a compiled rule: groups, options, hooks, schedulers, copies."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch

from tests.runtime import programs
from tests.runtime.programs import Adam, optimizer_class
from tests.runtime.test_step import close, copies, parameters, set_gradients
from tests.runtime.twins import SHAPES, run, twins

Distance = optimizer_class(programs.DISTANCE)
Hosted = optimizer_class(programs.HOSTED)


# ---------------------------------------------------------------- groups and hyperparameters


def test_it_is_a_torch_optimizer():
    ours = Adam(parameters(SHAPES), lr=0.1)
    assert isinstance(ours, torch.optim.Optimizer)
    hypers = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
    assert ours.defaults == {**hypers, "maximize": False}
    assert "lr: 0.1" in repr(ours)


def test_groups_have_hyperparameters_of_their_own():
    params, others = twins()
    ours = Adam([{"params": params[:1], "lr": 0.1}, {"params": params[1:]}], betas=(0.5, 0.9))
    torchs = torch.optim.Adam(
        [{"params": others[:1], "lr": 0.1}, {"params": others[1:]}], betas=(0.5, 0.9)
    )
    for step in range(3):
        set_gradients(params, step)
        set_gradients(others, step)
        ours.step()
        torchs.step()
    close(params, others)


def test_a_group_may_be_added_later():
    params, others = twins()
    ours, torchs = Adam(params[:2]), torch.optim.Adam(others[:2])
    run(ours, params, 2)
    run(torchs, others, 2)
    ours.add_param_group({"params": params[2], "lr": 0.5})
    torchs.add_param_group({"params": others[2], "lr": 0.5})
    run(ours, params, 2, 2)
    run(torchs, others, 2, 2)
    close(params, others)
    assert [int(s["step"]) for s in ours.state_dict()["state"].values()] == [4, 4, 2]


def test_groups_may_be_taken_away_and_put_in_by_hand():
    params, others = twins()
    ours, torchs = (
        make([{"params": [p], "lr": 0.1 * i} for i, p in enumerate(ps)])
        for make, ps in ((Adam, params), (torch.optim.Adam, others))
    )
    for step in range(6):
        if step in (2, 4):
            for each in (ours, torchs):
                group = each.param_groups.pop(1)
                if step == 4:
                    each.param_groups.append(group)
        run(ours, params, 1, step)
        run(torchs, others, 1, step)
    close(params, others)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    ],
)
def test_schedulers_change_the_rate_and_nothing_else(make):
    params, others = twins()
    ours, torchs = Adam(params, lr=0.1), torch.optim.Adam(others, lr=0.1)
    schedules = make(ours), make(torchs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(5):
            run(ours, params, 1, step)
            run(torchs, others, 1, step)
            for each in schedules:
                each.step()
    close(params, others)
    assert ours.counters.plans == 1


@pytest.mark.parametrize("lr", [torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64)])
def test_hyperparameters_may_be_tensors(lr):
    params, others = twins()
    ours = Adam(params, lr=lr, betas=(torch.tensor(0.5, dtype=torch.float64), 0.9))
    torchs = torch.optim.Adam(others, lr=float(lr), betas=(0.5, 0.9))
    run(ours, params, 1)
    run(torchs, others, 1)
    lr.fill_(0.01)
    torchs.param_groups[0]["lr"] = float(lr)
    run(ours, params, 1, 1)
    run(torchs, others, 1, 1)
    close(params, others)


def test_a_requirement_that_fails_leaves_nothing_behind():
    params = parameters(SHAPES)
    with pytest.raises(ValueError, match=r"lr >= 0 does not hold: lr is -1"):
        Adam(params, lr=-1)
    ours = Adam(params[:1])
    with pytest.raises(ValueError, match=r"lr >= 0"):
        ours.add_param_group({"params": params[1:], "lr": -2.0})
    assert len(ours.param_groups) == 1
    ours.add_param_group({"params": params[1:]})
    run(ours, params, 1)


@pytest.mark.parametrize(
    "hypers",
    [{"lr": None}, {"lr": "fast"}, {"betas": 0.9}, {"betas": (0.9,)}, {"betas": (0.9, None)}],
)
def test_a_hyperparameter_of_another_kind_is_refused(hypers):
    name = next(iter(hypers))
    with pytest.raises(ValueError, match=f"Adam: {name} is .* not of the kind of its default"):
        Adam(parameters(SHAPES), **hypers)
    Adam(parameters(SHAPES), lr=1, betas=[0, True])


def test_a_misspelt_entry_of_a_group_is_found_and_others_are_kept():
    params = parameters(SHAPES)
    with pytest.raises(ValueError, match=r"Adam has no 'beta' in a group; did you mean 'betas'"):
        Adam([{"params": params, "beta": (0.5, 0.5)}])
    ours = Adam([{"params": params, "lr_scale": 0.3, "name": "all"}])
    assert ours.param_groups[0]["lr_scale"] == 0.3


def test_static_entries_may_not_change():
    named = list(zip(("weight", "bias"), parameters(SHAPES[:2]), strict=True))
    ours = Hosted(named, grow="bias")
    ours.step()
    ours.param_groups[0]["lr"] = 0.5
    ours.step()
    before = copies([p for _, p in named])
    ours.param_groups[0]["grow"] = "weight"
    with pytest.raises(ValueError, match=r"Hosted: grow was 'bias' .* cannot change to 'weight'"):
        ours.step()
    ours.param_groups[0]["grow"] = "bias"
    ours.param_groups[0]["depth"] = 3
    with pytest.raises(ValueError, match=r"Hosted: depth was 0 .* cannot change to 3"):
        ours.step()
    close([p for _, p in named], before, 0)


def test_attributes_are_checked_by_name():
    params = parameters(SHAPES)
    with pytest.raises(ValueError, match="no attribute 'deep'; it has: depth"):
        Hosted([("a", params[0])], attributes={"deep": 1})
    with pytest.raises(ValueError, match="Hosted: attribute depth: 'b' is no parameter of it"):
        Hosted([("a", params[0])], attributes={"depth": {"b": 1}})
    with pytest.raises(ValueError, match="attribute depth: a tensor is no parameter of this group"):
        Hosted([{"params": [("a", params[0])], "depth": {params[1]: 1}}])
    ours = Hosted([("a", params[0]), ("b", params[1])], attributes={"depth": {params[1]: 1}})
    assert ours.param_groups[0]["depth"] == {1: 1}
    groups = [{"params": [("a", params[0])]}, {"params": [("b", params[1])]}]
    ours = Hosted(groups, attributes={"depth": {"a": 1, params[1]: 2}})
    assert [group["depth"] for group in ours.param_groups] == [{0: 1}, {0: 2}]


def test_names_are_asked_for_where_the_rule_reads_them():
    with pytest.raises(ValueError, match=r"pass model\.named_parameters\(\)"):
        Hosted(parameters(SHAPES))


# ---------------------------------------------------------------- closures and hooks


def test_a_closure_runs_with_gradients_and_gives_the_loss():
    params, others = twins([(4, 3)])
    ours, torchs = Adam(params, lr=0.1), torch.optim.Adam(others, lr=0.1)
    losses = []
    for each, (p,) in ((ours, params), (torchs, others)):

        def closure(each=each, p=p):
            each.zero_grad()
            loss = (p**4).sum()
            loss.backward()
            return loss

        with torch.no_grad():
            losses.append([float(each.step(closure)) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    close(params, others)


def test_hooks_run_around_the_step():
    params = parameters(SHAPES)
    ours, seen = Adam(params), []
    ours.register_step_pre_hook(lambda o, args, kwargs: seen.append(("pre", o.counters.steps)))
    ours.register_step_post_hook(lambda o, args, kwargs: seen.append(("post", o.counters.steps)))
    run(ours, params, 2)
    assert seen == [("pre", 0), ("post", 1), ("pre", 1), ("post", 2)]


def test_hooks_of_all_optimizers_run_once():
    from torch.optim.optimizer import (
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    params = parameters(SHAPES)
    ours, seen = Adam(params), []
    handles = [
        register_optimizer_step_pre_hook(lambda o, args, kwargs: seen.append("pre")),
        register_optimizer_step_post_hook(lambda o, args, kwargs: seen.append("post")),
    ]
    try:
        run(ours, params, 1)
    finally:
        for handle in handles:
            handle.remove()
    run(ours, params, 1, 1)
    assert seen == ["pre", "post"]
    assert ours.counters.steps == 2


def test_a_hook_may_replace_the_closure():
    params = parameters([(3,)])
    ours = Adam(params)
    ours.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 7.0), {}))
    set_gradients(params, 0)
    assert ours.step() == 7.0
    assert ours.step(closure=lambda: 8.0) == 7.0


def test_a_profiler_sees_the_step():
    params = parameters(SHAPES)
    ours = Adam(params)
    run(ours, params, 1)
    with torch.autograd.profiler.profile() as profile:
        run(ours, params, 1)
    assert any(event.name == "Optimizer.step#Adam.step" for event in profile.function_events)


def test_zero_grad_and_accumulation():
    params, others = twins()
    ours, torchs = Adam(params), torch.optim.Adam(others)
    for step in range(3):
        for each, ps in ((ours, params), (torchs, others)):
            each.zero_grad(set_to_none=step == 1)
            for _ in range(2):
                sum((p**3).sum() for p in ps).backward()
            each.step()
    close(params, others)


def test_a_scaler_scales_and_skips():
    params, others = twins()
    for ps, make in ((params, Adam), (others, torch.optim.Adam)):
        optimizer = make(ps, lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(4):
            optimizer.zero_grad()
            loss = sum((p**2).sum() for p in ps) * (torch.inf if step == 1 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    close(params, others)


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize(
    ("how", "make"),
    [("deepcopy", Adam), ("deepcopy", Distance), ("pickle", Adam), ("save", Adam)],
)
def test_copies_go_on_alike(how, make):
    params = parameters(SHAPES)
    ours = make([{"params": params[:2]}, {"params": params[2:], "lr": 0.02}])
    run(ours, params, 3)
    if how == "deepcopy":
        other, others = copy.deepcopy((ours, params))
    elif how == "pickle":
        other, others = pickle.loads(pickle.dumps((ours, params)))
    else:
        file = io.BytesIO()
        torch.save((ours, params), file)
        file.seek(0)
        other, others = torch.load(file, weights_only=False)
    run(ours, params, 3, 3)
    assert not torch.equal(params[0], others[0])
    run(other, others, 3, 3)
    close(params, copies(others), 0)
    assert other.param_groups[1]["lr"] == 0.02


def test_a_copy_of_the_states_is_plain():
    params = parameters(SHAPES)
    ours = Adam(params)
    run(ours, params, 1)
    plain = copy.deepcopy(ours.state)
    assert type(plain).__name__ == "defaultdict"
    assert all(type(each) is dict for each in plain.values())
