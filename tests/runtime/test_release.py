"""Gradient release: the same bits as a plain run, one gradient at a time, and what is refused."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import optdsl
import optdsl.zoo

RULES = ["AdamW", "LAMB", "LookaheadAdamW", "Muon", "Adafactor"]
"""A count, numbers of a parameter, passes that depend on t, matrices, factored states."""


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)]
    return torch.nn.Sequential(*layers).to(dtype)


def make(rule: str, module: torch.nn.Module, **options):
    """In two groups, the second with half the rate."""
    params = list(module.named_parameters())
    groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 5e-3}]
    return getattr(optdsl.zoo, rule)(groups, lr=1e-2, **options)


def backward(module: torch.nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    dtype = next(module.parameters()).dtype
    batch = torch.randn(7, 6, generator=generator, dtype=torch.float32).to(dtype)
    module(batch).square().mean().backward()


def train(module, optimizer, steps: int, first: int = 0, schedule=None) -> None:
    for step in range(first, first + steps):
        backward(module, step)
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            schedule.step()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


CASES = [
    *itertools.product(RULES, ("cpu", "reference")),
    pytest.param("LAMB", "triton", marks=pytest.mark.slow),  # 12 s in Triton's interpreter
]


@pytest.mark.parametrize(("rule", "backend"), CASES)
def test_a_released_run_has_the_bits_of_a_plain_one(rule: str, backend: str) -> None:
    plain, released = model(), model()
    ours, other = make(rule, plain, backend=backend), make(rule, released, backend=backend)
    schedules = [CosineAnnealingLR(each, 8) for each in (ours, other)]
    train(plain, ours, 7, schedule=schedules[0])
    with other.attach():
        train(released, other, 7, schedule=schedules[1])
    assert same(plain, released)
    assert str(saved(ours)) == str(saved(other))
    assert not same(plain, model())


def test_states_go_between_attached_and_not() -> None:
    """Attached in the middle, saved and loaded while attached, detached before the end."""
    plain, released = model(), model()
    ours, other = make("LookaheadAdamW", plain), make("LookaheadAdamW", released)
    train(plain, ours, 12)
    train(released, other, 3)
    moment = other.state[released[0].weight]["exp_avg"]
    handle = other.attach()
    train(released, other, 3, 3)
    assert other.state[released[0].weight]["exp_avg"] is moment
    assert int(other.state[released[0].weight]["step"]) == 6
    other.load_state_dict(saved(other))
    train(released, other, 2, 6)
    resumed = copy.deepcopy(released)
    fresh = make("LookaheadAdamW", resumed)
    fresh.load_state_dict(saved(other))
    with fresh.attach():
        train(resumed, fresh, 4, 8)
    handle.remove()
    handle.remove()
    train(released, other, 4, 8)
    assert same(plain, released)
    assert same(plain, resumed)


def test_one_gradient_is_there_at_a_time() -> None:
    module = model()
    params = list(module.parameters())
    most: list[int] = []

    def note(p: Tensor) -> None:
        most.append(sum(each.grad is not None for each in params))

    for p in params:
        p.register_post_accumulate_grad_hook(note)
    backward(module, 0)
    assert most == [1, 2, 3, 4, 5, 6]
    most.clear()
    module.zero_grad()
    with make("AdamW", module).attach():
        backward(module, 0)
    assert most == [1] * 6
    assert all(p.grad is None for p in params)


def test_step_is_not_needed() -> None:
    plain, released = model(), model()
    ours, other = make("AdamW", plain), make("AdamW", released)
    schedules = [CosineAnnealingLR(each, 8) for each in (ours, other)]
    train(plain, ours, 3, schedule=schedules[0])
    other.attach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the scheduler came before any step
        for step in range(3):
            backward(released, step)
            schedules[1].step()
    assert same(plain, released)
    assert other.counters.steps == 3 * 6


def test_step_runs_its_closure_and_hooks() -> None:
    plain, released = model(), model()
    ours, other = make("AdamW", plain), make("AdamW", released)
    train(plain, ours, 2)
    other.attach()
    seen: list[str] = []
    other.register_step_pre_hook(lambda *_: seen.append("pre"))
    other.register_step_post_hook(lambda *_: seen.append("post"))
    for step in range(2):
        assert other.step(lambda step=step: backward(released, step) or 3.5) == 3.5
    assert seen == ["pre", "post"] * 2
    assert same(plain, released)


def test_a_gradient_that_was_put_there_steps_with_the_step() -> None:
    plain, released = model(), model()
    ours, other = make("AdamW", plain), make("AdamW", released)
    other.attach()
    for module in (plain, released):
        for p in module.parameters():
            p.grad = torch.ones_like(p)
    ours.step()
    other.step()
    assert same(plain, released)
    assert all(p.grad is None for p in released.parameters())


def test_accumulated_gradients_are_an_error_at_the_step() -> None:
    module = model()
    optimizer = make("AdamW", module)
    optimizer.attach()
    backward(module, 0)
    backward(module, 1)
    with pytest.raises(RuntimeError, match="6 parameters took several steps since the last step"):
        optimizer.step()
    train(module, optimizer, 2)


def test_tied_and_frozen_parameters() -> None:
    def tied() -> torch.nn.Sequential:
        module = model()
        module.append(torch.nn.Linear(3, 4))
        module.append(torch.nn.Linear(4, 3))
        module[5].weight = module[3].weight
        module[0].weight.requires_grad_(False)
        return module

    plain, released = tied(), tied()
    ours, other = make("AdamW", plain), make("AdamW", released)
    other.attach()
    assert not released[0].weight.requires_grad
    for step in range(4):
        if step == 2:
            plain[0].weight.requires_grad_(True)
            released[0].weight.requires_grad_(True)
            plain[2].weight.requires_grad_(False)
            released[2].weight.requires_grad_(False)
        train(plain, ours, 1, step)
        train(released, other, 1, step)
    assert same(plain, released)
    assert str(saved(ours)) == str(saved(other))


def test_groups_come_and_parameters_go() -> None:
    plain, released = model(), model()
    optimizers = []
    for module in (plain, released):
        first = list(module[0].named_parameters())
        optimizers.append(optdsl.zoo.AdamW(first, lr=1e-2))
    optimizers[1].attach()
    for module, optimizer in zip((plain, released), optimizers, strict=True):
        train(module, optimizer, 2)
        module.zero_grad()
        optimizer.add_param_group({"params": list(module[2].named_parameters()), "lr": 0.1})
        train(module, optimizer, 2, 2)
        module.zero_grad()
        del optimizer.param_groups[0]
        backward(module, 4)
        optimizer.step()
    assert same(plain, released)
    assert released[0].weight.grad is not None
    assert released[2].weight.grad is None


def test_copies_are_not_attached() -> None:
    module = model()
    optimizer = make("AdamW", module)
    optimizer.attach()
    train(module, optimizer, 2)
    pairs = [copy.deepcopy((module, optimizer)), pickle.loads(pickle.dumps((module, optimizer)))]
    train(module, optimizer, 2, 2)
    for other, copied in pairs:
        before = [p.detach().clone() for p in other.parameters()]
        backward(other, 2)
        assert all(map(torch.equal, before, other.parameters()))
        copied.step()
        copied.zero_grad()
        with copied.attach():
            train(other, copied, 1, 3)
        assert same(module, other)


@pytest.mark.parametrize(
    "options",
    [{"storage": "int8"}, {"rounding": "stochastic", "seed": 3}, {"compensation": "kahan"}],
    ids=str,
)
def test_storage_is_as_ever(options) -> None:
    def wide() -> torch.nn.Module:
        torch.manual_seed(0)
        layers = torch.nn.Linear(6, 700), torch.nn.Linear(700, 6)
        return torch.nn.Sequential(*layers).to(torch.bfloat16)

    plain, released = wide(), wide()
    ours, other = make("AdamW", plain, **options), make("AdamW", released, **options)
    other.attach()
    train(plain, ours, 3)
    train(released, other, 3)
    assert same(plain, released)
    assert str(saved(ours)) == str(saved(other))


def test_evaluation_while_attached(tmp_path) -> None:
    text = """
optimizer Averaged(lr = 0.1):
    state mean = p
    p -= lr * g
    mean = lerp(mean, p, 0.5)
    eval mean
"""
    (tmp_path / "averaged.opt").write_text(text)
    averaged = optdsl.load(tmp_path / "averaged.opt").Averaged
    plain, released = model(), model()
    ours, other = averaged(plain.named_parameters()), averaged(released.named_parameters())
    other.attach()
    for step in range(2):
        train(plain, ours, 2, 2 * step)
        train(released, other, 2, 2 * step)
        with ours.evaluating(), other.evaluating():
            assert same(plain, released)
            with pytest.raises(RuntimeError, match="is in evaluation"):
                backward(released, 0)
        released.zero_grad()
        assert same(plain, released)


def test_what_ties_parameters_is_named(tmp_path) -> None:
    text = """
optimizer Tied(lr = 0.1):
    state total: [] over group = 0
    g *= min(1, 1 / (norm(g,
                         over = all) + 1e-6))
    total = total + sum(g, over = group)
    p -= lr * 0.9^steps * g / (1 + abs(total))
"""
    (tmp_path / "tied.opt").write_text(text)
    module = model()
    optimizer = optdsl.load(tmp_path / "tied.opt").Tied(module.parameters())
    with pytest.raises(ValueError, match="Tied cannot step in the backward pass") as error:
        optimizer.attach()
    for said in (
        "the state `total` is one for each group (tied.opt:3)",
        "`norm(g, over = all)` takes in all parameters of the model (tied.opt:4)",
        "`sum(g, over = group)` takes in all parameters of the group (tied.opt:6)",
        "`steps` counts the steps of the group (tied.opt:7)",
    ):
        assert said in str(error.value)
    train(module, optimizer, 1)
    assert optimizer.counters.steps == 1


def test_what_is_refused_changes_nothing() -> None:
    module = model()
    optimizer = make("AdamW", module)
    handle = optimizer.attach()
    with pytest.raises(RuntimeError, match="AdamW is attached already"):
        optimizer.attach()
    with pytest.raises(ValueError, match="AdamW has no inputs"):
        optimizer.step(inputs={"x": 1})
    handle.remove()
    with pytest.raises(ValueError, match="capturable=True is not supported"):
        make("AdamW", module, capturable=True, backend="reference").attach()
    backward(module, 0)
    assert all(p.grad is not None for p in module.parameters())


def test_a_scaler_is_told_at_its_first_step() -> None:
    module = model()
    optimizer = make("AdamW", module)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    handle = optimizer.attach()
    scaler.scale(module(torch.ones(2, 6)).sum()).backward()
    with pytest.raises(RuntimeError, match="cannot be used with a gradient scaler"):
        scaler.step(optimizer)
    handle.remove()
    train(module, optimizer, 1)


def test_a_sparse_gradient_is_an_error_in_the_backward_pass() -> None:
    table = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = optdsl.zoo.AdamW(table.parameters())
    optimizer.attach()
    before = table.weight.detach().clone()
    with pytest.raises(RuntimeError, match="gradient of parameter 0 is sparse"):
        table(torch.tensor([1, 2])).sum().backward()
    assert torch.equal(table.weight, before)


def test_plans_are_made_once_and_temps_are_shared() -> None:
    module = model()
    optimizer = make("LAMB", module)
    optimizer.attach()
    train(module, optimizer, 2)
    plans, looks = optimizer.counters.plans, optimizer.counters.looks
    train(module, optimizer, 3, 2)
    assert (optimizer.counters.plans, optimizer.counters.looks) == (plans, looks)
    assert len(optimizer._engine._plans._arenas) == 1
