"""The contract while a run goes on: groups, rates, gradients, closures, hooks."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from optdsl.runtime.optimizer import Optimizer
from tests.contract.cases import (
    IN_TORCH,
    Case,
    Named,
    contract,
    named,
    rate_of,
    same,
    set_gradients,
    train,
    values,
)


def rated(case: Case, params: Named, rates: list[float], **options: Any) -> Any:
    """An optimizer with one group for each of `rates`, which take turns at the parameters."""
    groups = [{"params": params[i :: len(rates)], "lr": rate} for i, rate in enumerate(rates)]
    return case.make(groups, **options)


def has_rate(case: Case, record_property: Callable[[str, object], None]) -> bool:
    """Whether the rule has a learning rate called lr; says so in the report if not."""
    if "lr" in dict(case.optimizer.program.hypers):
        return True
    record_property("reason", "the rule has no `lr`")
    return False


# ---------------------------------------------------------------- closures, direction


@contract("closures")
def test_a_closure_is_called_once_with_gradients(case: Case) -> None:
    params, others = case.parameters(), case.parameters()
    ours, other = case.make(params), case.make(others)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        ours.zero_grad()
        loss = sum(((p - 0.5) ** 2).sum() for _, p in params)
        loss.backward()
        return loss

    with torch.no_grad():
        before = float(sum(((p - 0.5) ** 2).sum() for _, p in params))
        assert float(ours.step(closure)) == before
    assert calls == [True]
    sum(((p - 0.5) ** 2).sum() for _, p in others).backward()
    other.step()
    assert same(values(params), values(others))


@contract("maximize")
def test_uphill_is_the_negated_gradient(case: Case) -> None:
    params, others = case.parameters(), case.parameters()
    up, down = case.make(params, maximize=True), case.make(others)
    for step in range(2):
        set_gradients(up, step)
        set_gradients(down, step)
        for _, p in others:
            p.grad.neg_()
        up.step()
        down.step()
    assert same(values(params), values(others))
    assert not same(values(params), values(case.parameters()))


# ---------------------------------------------------------------- groups and rates


@contract("groups")
def test_a_group_has_its_own_options(case: Case, record_property: Any) -> None:
    if not has_rate(case, record_property):
        return
    if case.optimizer.program.slots and spans_groups(case):
        record_property("reason", "a number over all parameters ties the groups together")
        return
    rate = rate_of(case)
    params, others = case.parameters(), case.parameters()
    ours = rated(case, params, [rate, 0.5 * rate])
    if case.draws:  # by the parameter's place, so that it must be the same
        apart = [rated(case, case.parameters(), [scale * rate] * 2) for scale in (1, 0.5)]
        for each in (ours, *apart):
            train(each, 2)
        for index, alike in enumerate(apart):
            found, wanted = (o.param_groups[index]["params"] for o in (ours, alike))
            assert same(found, wanted)
        return
    apart = [case.make(others[0::2], lr=rate), case.make(others[1::2], lr=0.5 * rate)]
    for each in (ours, *apart):
        train(each, 2)
    assert same(values(params), values(others))


def spans_groups(case: Case) -> bool:
    """Whether some number of the rule, or a state, is one for several groups."""
    program = case.optimizer.program
    return "all" in {domain for _, domain in program.slots} or any(
        state.domain == "all" for state in program.states
    )


@contract("tensor lr")
def test_a_rate_may_be_a_tensor(case: Case, record_property: Any) -> None:
    if not has_rate(case, record_property):
        return
    rate = torch.tensor(rate_of(case), dtype=torch.float64)
    params, others = case.parameters(), case.parameters()
    ours, other = case.make(params, lr=rate), case.make(others, lr=float(rate))
    train(ours, 1)
    train(other, 1)
    rate.mul_(0.25)
    other.param_groups[0]["lr"] = float(rate)
    train(ours, 1, 1)
    train(other, 1, 1)
    assert same(values(params), values(others))
    assert ours.param_groups[0]["lr"] is rate


@contract("added groups")
def test_a_group_comes_in_the_middle(case: Case) -> None:
    params = case.parameters()
    ours = case.make(params[:2])
    train(ours, 2)
    before = ours.state_dict()
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        ours.add_param_group({"params": params[1:]})
    assert str(ours.state_dict()) == str(before)
    ours.add_param_group({"params": params[2:]})
    start = values(params)
    train(ours, 2, 2)  # the first step of some rules only looks at the gradient
    assert not any(map(torch.equal, values(params), start))
    counts = [int(ours.state[p]["step"]) for _, p in params]
    assert counts == [4, 4, 2]


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.ConstantLR(o, 0.5, 2)]
    ),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 2, cycle_momentum=False),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 2], 0.5),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.8),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.01, total_steps=8, cycle_momentum=False),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5, 1), lr_scheduler.ExponentialLR(o, 0.5)], [1]
    ),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
}


def test_every_scheduler_of_torch_is_there() -> None:
    found = {
        name
        for name, each in vars(lr_scheduler).items()
        if inspect.isclass(each)
        and issubclass(each, (lr_scheduler.LRScheduler, lr_scheduler.ReduceLROnPlateau))
    }
    assert found - {"LRScheduler", "_LRScheduler"} == SCHEDULERS.keys()


# Under Triton's interpreter 90 steps of a rule take some 10 s; the rate comes from the same host.
@contract("schedulers", backends=["cpu", "reference"])
def test_schedulers_set_the_rate(case: Case, record_property: Any) -> None:
    if not has_rate(case, record_property):
        return
    for name, make in SCHEDULERS.items():
        params, others = case.parameters(shapes=[(3, 4)]), case.parameters(shapes=[(3, 4)])
        ours, other = case.make(params, lr=1e-3), case.make(others, lr=1e-3)
        schedule = make(ours)
        rates = []
        for step in range(3):
            rates.append(ours.param_groups[0]["lr"])
            other.param_groups[0]["lr"] = rates[-1]
            train(ours, 1, step)
            train(other, 1, step)
            schedule.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        assert len(set(rates)) > 1, name
        assert same(values(params), values(others)), name


# ---------------------------------------------------------------- gradients


@contract("missing gradients")
def test_without_a_gradient_nothing_moves(case: Case) -> None:
    params = case.parameters()
    ours = case.make(params)
    train(ours, 1)
    before = values(params)
    ours.zero_grad()
    params[1][1].requires_grad_(False)
    set_gradients(ours, 1)
    params[2][1].grad = None
    ours.step()
    after = values(params)
    frozen = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    reads = case.optimizer.program.reads_gradient
    assert frozen == [False, True, reads]
    params[1][1].requires_grad_(True)
    train(ours, 1, 2)
    assert [int(ours.state[p]["step"]) for _, p in params] == [3, 2, 2 if reads else 3]


@contract("sparse gradients")
def test_a_sparse_gradient_is_an_error(case: Case, record_property: Any) -> None:
    if not case.optimizer.program.reads_gradient:
        record_property("reason", "the rule reads no gradient")
        return
    params = case.parameters(shapes=[(3, 4), (4, 2)])
    ours = case.make(params)
    train(ours, 1)
    before, states = values(params), str(ours.state_dict())
    set_gradients(ours, 1)
    params[1][1].grad = params[1][1].grad.to_sparse()
    with pytest.raises(RuntimeError, match="gradient of parameter 1 is sparse"):
        ours.step()
    assert same(values(params), before)
    assert str(ours.state_dict()) == states


@contract("mixed dtypes")
def test_dtypes_may_mix(case: Case, record_property: Any) -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16)

    def mixed() -> Named:
        made = case.parameters()
        return [(n, Parameter(p.detach().to(d))) for (n, p), d in zip(made, dtypes, strict=True)]

    # A step of Lion's own rate, 1e-4, is less than half a unit in the last place of bfloat16.
    rate = {"lr": max(0.5, rate_of(case))} if "lr" in dict(case.optimizer.program.hypers) else {}
    params, others = mixed(), mixed()
    ours = case.make(params, **rate)
    if any(state.domain in ("group", "all") for state in case.optimizer.program.states):
        set_gradients(ours, 0)
        with pytest.raises(ValueError, match=r"state .* is one for several"):
            ours.step()
        assert same(values(params), values(others))
        record_property("reason", "a state that several parameters share has one dtype")
        return
    train(ours, 2)
    assert [p.dtype for _, p in params] == list(dtypes)
    assert not same(values(params), values(mixed()))
    if {"group", "all"} & {domain for _, domain in case.optimizer.program.slots}:
        return  # apart, each would have numbers of its own
    if case.draws:
        return  # by the parameter's place
    for each in others:
        train(case.make([each], **rate), 2)
    # The interpreter computes all in float64 where one is; matrix iterations amplify roundings.
    matrices = any(variant.libraries for variant in case.optimizer.program.variants)
    bounds = {"rtol": 0.02, "atol": 0.02} if matrices else {}
    for found, wanted in zip(values(params), values(others), strict=True):
        torch.testing.assert_close(found, wanted, **bounds)


@contract("zero_grad")
def test_gradients_are_neither_kept_nor_changed(case: Case) -> None:
    params, others = case.parameters(), case.parameters()
    ours, other = case.make(params), case.make(others)
    for step in range(2):
        set_gradients(ours, step)
        before = [p.grad.clone() for _, p in params]
        ours.step()
        assert same([p.grad for _, p in params], before)
        seen = [weakref.ref(p.grad) for _, p in params]
        ours.zero_grad()
        assert all(each() is None for each in seen)
        # The same gradients, added to zeros that stay.
        other.zero_grad(set_to_none=False)
        for (_, p), g in zip(others, before, strict=True):
            p.grad = g.clone() if p.grad is None else p.grad.add_(g)
        other.step()
    assert same(values(params), values(others))


# ---------------------------------------------------------------- hooks, signatures


@contract("hooks")
def test_all_hooks_run_in_order(case: Case) -> None:
    ours = case.make(case.parameters(shapes=[(3, 4)]))
    seen: list[str] = []
    note = lambda name: lambda *_: seen.append(name)  # noqa: E731
    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
    ]
    try:
        ours.register_step_pre_hook(note("pre"))
        ours.register_step_post_hook(note("post"))
        ours.register_state_dict_pre_hook(note("before saving"))
        ours.register_state_dict_post_hook(note("after saving"))
        ours.register_load_state_dict_pre_hook(note("before loading"))
        ours.register_load_state_dict_post_hook(note("after loading"))
        train(ours, 1)
        ours.load_state_dict(ours.state_dict())
    finally:
        for each in handles:
            each.remove()
    assert seen == [
        "global pre", "pre", "post", "global post",
        "before saving", "after saving", "before loading", "after loading",
    ]  # fmt: skip
    assert ours.counters.steps == 1


@contract("signatures", backends=["cpu"])
def test_methods_take_torchs_arguments(case: Case) -> None:
    for name, method in vars(torch.optim.Optimizer).items():
        if not inspect.isfunction(method) or name.startswith("__"):
            continue
        theirs = inspect.signature(method).parameters
        ours = inspect.signature(getattr(case.optimizer, name)).parameters
        more = [p for p in ours.values() if p.name not in theirs]
        assert [(p.name, p.kind) for p in ours.values() if p not in more] == [
            (p.name, p.kind) for p in theirs.values()
        ], name
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in more), name
    made = inspect.signature(case.optimizer).parameters
    assert next(iter(made)) == "params"
    if case.rule in IN_TORCH:
        wanted = inspect.signature(getattr(torch.optim, case.rule)).parameters
        positional = [p.name for p in made.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert made.keys() >= wanted.keys()
        known = [name for name in positional if name in wanted]
        assert known == [name for name in wanted if name in positional]
        for name in known[1:]:
            if None not in _flat(wanted[name].default):
                assert made[name].default == wanted[name].default, name
    assert issubclass(case.optimizer, Optimizer)


def _flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def test_names_are_those_of_the_groups() -> None:
    case = Case("SGD", "cpu")
    params = case.parameters()
    assert [name for name, _ in named(case.make(params))] == [name for name, _ in params]
