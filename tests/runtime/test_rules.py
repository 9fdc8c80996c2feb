"""The shipped rules, compiled and run, against the interpreter: values, states, checkpoints."""

from __future__ import annotations

import functools
import io
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from optdsl import interpreter
from optdsl.codegen.module import python_module
from optdsl.schedule.make import make_plan
from tests.rules import marked, shipped_plans, shipped_rules
from tests.runtime.test_step import close, copies
from tests.zoo.test_reference import rules

SHAPES = [(6, 4), (5,), (3, 4, 2), (4, 6), (), (6, 4), (0, 3), (40, 1), (1, 9)]


@functools.cache
def compiled(name: str) -> Any:
    """The optimizer class of a shipped rule, as its generated module defines it."""
    rule = rules()[name]
    space: dict[str, Any] = {"__name__": f"generated_{name}"}
    exec(compile(python_module(make_plan(rule), version="test"), f"{name}.py", "exec"), space)
    made = space[name]
    made.interpreter = functools.partial(interpreter.run, rule)
    return made


def parameters(dtype=torch.float64, shapes=SHAPES) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


# They divide by the deviation of a row, which of a vector is nothing.
OF_MATRICES = ("GradNorm", "Whitening")


# Their statistics of m by n have only min(m, n) directions at first: a basis of the others is the
# library's, and differs between dtypes.
OF_SQUARES = ("SOAP",)
SQUARES = [(6, 6), (5,), (4, 4), (6, 6), (3, 3)]


def twins(dtype, name):
    matrices = [s for s in SHAPES if len(s) == 2 and 0 not in s and 1 not in s]
    shapes = matrices if name in OF_MATRICES else SHAPES
    if name in OF_SQUARES and dtype is not torch.float64:
        shapes = SQUARES
    params = parameters(dtype, shapes)
    return params, [Parameter(p.detach().clone()) for p in params]


def groups(params, **options):
    """Two groups of named parameters, the second with a rate of its own."""
    named = [(f"layer{i}.{'bias' if i % 3 == 1 else 'weight'}", p) for i, p in enumerate(params)]
    half = len(named) // 2
    return [{"params": named[:half], **options}, {"params": named[half:], "lr": 0.02, **options}]


def run(optimizers, steps, first=0, holes=True):
    """Steps of optimizers with equal gradients; parameter 1 lacks one in step 2."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        params = [[p for g in each.param_groups for p in g["params"]] for each in optimizers]
        for i, same in enumerate(zip(*params, strict=True)):
            g = torch.randn(same[0].shape, generator=generator).to(same[0].dtype)
            for p in same:
                p.grad = None if holes and (step, i) == (2, 1) else g.clone()
        for each in optimizers:
            each.step()


# Inputs are supplied by test_inputs.py.
WITH_INPUTS = {name for name, rule in rules().items() if rule.inputs}
VARIANTS = set(rules()) - set(shipped_rules()) - WITH_INPUTS - {"RestartsProbe"}
NAMES = [*sorted(VARIANTS), *marked(sorted(shipped_plans()))]


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_rule_means_what_the_interpreter_says(name):
    params, others = twins(torch.float64, name)
    ours = compiled(name)(groups(params))
    reference = compiled(name)(groups(others), backend="reference")
    run([ours, reference], 7)
    close(params, copies(others), 1e-11)
    mine, theirs = ours.state_dict()["state"], reference.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    for index, entry in mine.items():
        assert list(entry) == list(theirs[index])
        if not params[index].numel():
            continue  # the mean of no rows is NaN for the interpreter; a target leaves it alone
        for key, tensor in entry.items():
            torch.testing.assert_close(tensor, theirs[index][key], rtol=1e-10, atol=1e-12)


# Relative to the largest element, after five steps. Matrix iterations amplify roundings: of centred
# rows the Gram matrix is singular, and its inverse root times 1e-7 was seen to leave 3e-4.
BY_DIRECTION = {"OrthoGradSGD"}
"""Rules that divide what of the gradient is not along p by its norm: of one element only rounding
is left, and its direction is nobody's."""
LOOSE = {"SWAN", "Muon", "Whitening", "PolarMuon", "Shampoo", "SOAP"}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_rule_is_near_in_fewer_bits(name, dtype, bound):
    params, others = twins(dtype, name)
    wide = [Parameter(p.detach().double()) for p in others]
    ours = compiled(name)(groups(params))
    reference = compiled(name)(groups(wide), backend="reference")
    for step in range(5):
        run([ours], 1, step)
        for p, q in zip(params, wide, strict=True):
            q.grad = None if p.grad is None else p.grad.double()
        reference.step()
    for p, q in zip(params, wide, strict=True):
        if p.numel() > (name in BY_DIRECTION):
            error = (p.double() - q).abs().max() / q.abs().max().clamp_min(1e-2)
            assert error < bound * (300 if name in LOOSE else 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_rule_goes_on_bit_for_bit(name):
    params, others = twins(torch.float32, name)
    ours, resumed = compiled(name)(groups(params)), compiled(name)(groups(others))
    run([ours], 4)
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file))
    run([ours, resumed], 4, 4)
    close(params, copies(others), 0)


TORCH = [
    ("Adam", torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", torch.optim.AdamW, {"lr": 0.01}),
    ("SGD", torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("SGD", torch.optim.SGD, {"lr": 0.01, "weight_decay": 0.1}),
    ("AdamW", torch.optim.AdamW, {"amsgrad": True}),
    ("RMSprop", torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    ("RMSprop", torch.optim.RMSprop, {"weight_decay": 0.1}),
    ("Adagrad", torch.optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("Adadelta", torch.optim.Adadelta, {"weight_decay": 0.1}),
    ("Adamax", torch.optim.Adamax, {"weight_decay": 0.1}),
    ("NAdam", torch.optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", torch.optim.RAdam, {"weight_decay": 0.1}),
    ("Adafactor", torch.optim.Adafactor, {"lr": 0.01}),
]


@pytest.mark.parametrize(("name", "peer", "options"), TORCH)
@pytest.mark.parametrize("maximize", [False, True])
def test_rules_that_torch_has_step_alike_and_trade_checkpoints(name, peer, options, maximize):
    # torch's Adafactor takes no empty parameters and no 0-d ones.
    shapes = [s for s in SHAPES if 0 not in s and s]
    params = parameters(shapes=shapes)
    others = [Parameter(p.detach().clone()) for p in params]
    options = {**options, "maximize": maximize}
    ours, torchs = compiled(name)(params, **options), peer(others, **options)
    run([ours, torchs], 4)
    close(params, copies(others), 1e-10)
    mine, theirs = ours.state_dict(), torchs.state_dict()
    ours, torchs = compiled(name)(params), peer(others)
    ours.load_state_dict(theirs)
    torchs.load_state_dict(mine)
    run([ours, torchs], 4, 4)
    close(params, copies(others), 1e-10)


@pytest.mark.parametrize("name", ["ClippedLion", "LAMB", "Adafactor"])
def test_threads_do_not_change_a_bit(name, monkeypatch):
    monkeypatch.setattr("optdsl.runtime.cpu.launch.SERIAL_WORK", 0)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        params = parameters(torch.float32, [(300, 200), (70_001,), (3, 64, 50), (5,)])
        run([compiled(name)(params)], 3)
        results.append(copies(params))
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))
