"""States on the host: numbers of a group that a step may read on the host and change."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.nn import Parameter

import optdsl
from optdsl.ir.reading import read_rule
from optdsl.ir.text import rule_text
from tests.semantics.running import Run, body, codes, diagnosed, rule_of

VELOCITY = """
optimizer X(lr = 0.1, momentum = 0.5):
    state v
    state last on host = lr
    v = momentum * (lr / last) * v + lr * g
    last = lr
    p -= v
"""
COUNTING = """
optimizer X(lr = 1.0):
    state taken named "steps_taken" on host = 1
    if taken < 3:
        p -= lr * g
    taken += 1
"""


def test_it_is_a_number_of_the_group_with_a_first_value_of_hyperparameters() -> None:
    made = Run(VELOCITY, [0.0, 0.0], groups=[0, 1], hypers=[{"lr": 1.0}, {"lr": 2.0}])
    made.step(1.0, 1.0)
    assert (made.p(0), made.p(1)) == (-1.0, -2.0)
    made.members[0].group["lr"] = 0.5
    made.step(0.0, 0.0)  # v halves with lr in the first group, and falls by momentum in both
    assert (made.p(0), made.p(1)) == (-1.25, -3.0)
    assert made.shared == {("last", 0): 0.5, ("last", 1): 2.0}


def test_a_condition_on_it_is_decided_on_the_host() -> None:
    made = Run(COUNTING, [0.0])
    assert [made.step(1.0).p() for _ in range(4)] == [-1.0, -2.0, -2.0, -2.0]
    assert len(rule_of(COUNTING).states) == 0


def test_its_text_is_read_back() -> None:
    for text in (VELOCITY, COUNTING):
        written = rule_text(rule_of(text))
        assert rule_text(read_rule(written)) == written
        assert "host_state " in written


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("state s on host = norm(g)\np -= lr * s * g", "E408", "begins when a group is added"),
        ("state s on host = t\np -= lr * s * g", "E408", "begins when a group is added"),
        ("state s on host\ns = norm(g, over = all)\np -= lr * s * g", "E408", "a tensor's value"),
        ("state s on host\ns = t\np -= lr * s * g", "E408", "that each parameter has of its own"),
        ("state s on host\np -= s * g\nif t % 2 == 0:\n    s = lr", "E408", "of its own"),
        ("state s: [rows, 1] on host\np -= lr * s * g", "E318", "one number"),
        ("state s on host over all\np -= lr * s * g", "E501", "one for each group"),
        ("state s on host\nif first(s):\n    p -= lr * g", "E407", "begins with its group"),
        ('state s named "lr" on host\np -= lr * s * g', "E406", "is called `lr`"),
        ("state s on host\nwhen s > 1:\n    p -= lr * g", "E409", "`when` is decided"),
    ],
)
def test_what_a_host_cannot_keep(text: str, code: str, said: str) -> None:
    (found,) = diagnosed(body(text))
    assert found.code == code
    assert said in found.message


def test_a_transform_has_one_of_its_own() -> None:
    text = """
transform slowed(x, rate):
    state before on host = rate
    y = where(rate < before, 0.5, 1) * x
    before = rate
    return y

optimizer X(lr = 1.0):
    m = slowed(g, lr)
    p -= m
"""
    assert codes(text) == []
    made = Run(text, [0.0])
    assert made.step(1.0).p() == -1.0
    assert made.step(1.0, lr=0.5).p() == -1.5
    assert [each.key for each in made.rule.host_states] == ["m"]


# ---------------------------------------------------------------- compiled


@pytest.fixture(scope="module", params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("rules") / "velocity.opt"
    path.write_text(VELOCITY)
    return optdsl.load(path).X


def momentum(optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] *= 0.7
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()


def test_with_its_rate_corrected_a_velocity_is_torchs_momentum(made, backend: str) -> None:
    p, q = (Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2))
    ours, torchs = made([p], backend=backend), torch.optim.SGD([q], lr=0.1, momentum=0.5)
    momentum(ours, 6)
    momentum(torchs, 6)
    torch.testing.assert_close(p, q, rtol=0, atol=1e-15)
    assert ours.param_groups[0]["last"] == ours.param_groups[0]["lr"]
    assert "last" not in ours.state[p]


def test_checkpoints_and_copies_carry_it(made, backend: str) -> None:
    params = [Parameter(torch.zeros(3)), Parameter(torch.zeros(3))]
    ours = made(
        [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(params)], backend=backend
    )
    momentum(ours, 3)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    others = [Parameter(p.detach().clone()) for p in params]
    resumed = made([{"params": [p]} for p in others], backend=backend)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(ours)
    for each in (ours, resumed, twin):
        momentum(each, 3)
    for i, (p, q) in enumerate(zip(params, others, strict=True)):
        assert torch.equal(p, q)
        assert torch.equal(p, twin.param_groups[i]["params"][0])


def test_a_group_that_takes_no_step_keeps_its_own(made, backend: str) -> None:
    p, q = Parameter(torch.zeros(3)), Parameter(torch.zeros(3))
    ours = made([{"params": [p]}, {"params": [q]}], backend=backend)
    p.grad = torch.ones(3)
    for group in ours.param_groups:
        group["lr"] = 0.05
    ours.step()
    assert [group["last"] for group in ours.param_groups] == [0.05, 0.1]


def test_a_new_rate_compiles_nothing(made) -> None:
    p = Parameter(torch.zeros(3))
    ours = made([p], backend="cpu")
    momentum(ours, 5)
    assert ours.counters.plans == 1
