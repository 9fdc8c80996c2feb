"""Sentences 12 and 13: what a condition decides, when, and what is computed."""

from __future__ import annotations

import math

import pytest
import torch

from tests.semantics.running import Run, body, codes, rule_of

NAN = math.nan

# ---------------------------------------------------------------- conditions on the host


def test_a_condition_of_the_host_runs_one_branch() -> None:
    made = Run(body("if t == 1:\n    p = 10\nelif t == 2:\n    p = 20\nelse:\n    p = 30"), [0.0])
    assert [made.step(1.0).p() for _ in range(3)] == [10.0, 20.0, 30.0]


def test_the_branch_not_taken_is_not_computed() -> None:
    text = body("if t == 2:\n    p -= lr * loss(p)\nelse:\n    p -= lr * g")
    made = Run(text, [1.0]).step(3.0)  # no model is given, and none is asked for
    assert made.p() == -2.0
    with pytest.raises(ValueError, match="closure"):
        made.step(3.0)


def test_where_on_a_condition_of_the_host_computes_one_side() -> None:
    made = Run(body("p = where(t == 1, g, loss(p))"), [1.0])
    assert made.step(3.0).p() == 3.0


def test_an_assigned_name_keeps_its_value_in_the_other_branch() -> None:
    made = Run(
        body("x = 1\ny = 2\nif t == 1:\n    x = 10\nelse:\n    y = 20\np = 100 * x + y"), [0.0]
    )
    assert [made.step(1.0).p() for _ in range(2)] == [1002.0, 120.0]


def test_a_name_of_one_branch_alone_is_undefined_after_it() -> None:
    assert codes(body("if t == 1:\n    x = 10\np -= lr * g * x")) == ["E203"]
    assert codes(body("if t == 1:\n    x = 10\nelse:\n    x = 5\np -= lr * g * x")) == []


def test_every_k_is_t_modulo_k_and_from_s_begins_there() -> None:
    text = """
p = 0
every 3:
    p += 1
every 3 from 2:
    p += 10
every 4 from 0:
    p += 100
"""
    made = Run(body(text), [0.0])
    found = [made.step(1.0).p() for _ in range(8)]
    wanted = [
        (t % 3 == 0) + 10 * (t >= 2 and (t - 2) % 3 == 0) + 100 * (t % 4 == 0) for t in range(1, 9)
    ]
    assert found == wanted


def test_a_period_may_be_a_hyperparameter_that_changes() -> None:
    made = Run(body("p = 0\nevery k:\n    p = t", "k = 2"), [0.0])
    assert [made.step(1.0).p() for _ in range(4)] == [0.0, 2.0, 0.0, 4.0]
    assert [made.step(1.0, k=3).p() for _ in range(3)] == [0.0, 6.0, 0.0]


def test_nested_conditions() -> None:
    text = "p = 0\nif t > 1:\n    if t > 2:\n        p = 1\n    else:\n        p = 2\n    p += 10"
    made = Run(body(text), [0.0])
    assert [made.step(1.0).p() for _ in range(3)] == [0.0, 12.0, 11.0]


# ---------------------------------------------------------------- conditions on tensors


def test_a_condition_on_tensors_selects() -> None:
    text = body("x = 5\nif norm(g) > 2:\n    p -= g\n    x = 7\nelse:\n    p += 1\np += 100 * x")
    made = Run(text, [[10.0], [10.0]])
    made.step([3.0], [1.0])
    assert (made.p(0), made.p(1)) == ([707.0], [511.0])


@pytest.mark.parametrize("bad", ["g / norm(g)", "log(-norm(g) - 1)", "exp(1000 + norm(g))"])
def test_nan_of_the_branch_not_taken_stays_there(bad: str) -> None:
    made = Run(body(f"state m\nm = 1\nif norm(g) > 0:\n    m = {bad}\np = 2 * m"), [[1.0, 1.0]])
    made.step([0.0, 0.0])
    assert made.p() == [2.0, 2.0]
    assert made.state("m") == [1.0, 1.0]


def test_nan_of_the_side_not_taken_stays_there_in_where() -> None:
    made = Run(body("p = where(g > 0, sqrt(g), 0 - g)"), [[0.0, 0.0, 0.0]])
    assert made.step([4.0, -4.0, 0.0]).p() == [2.0, 4.0, 0.0]


def test_a_condition_that_is_nan_takes_the_other_branch() -> None:
    made = Run(body("if norm(g) > 2:\n    p = 1\nelse:\n    p = 2"), [0.0])
    assert made.step(NAN).p() == 2.0


@pytest.mark.parametrize(
    "inside",
    [
        "p -= lr * loss(p)",
        "p -= lr * grad(p)",
        "p -= lr * mean(g, over = workers)",
        "p -= lr * sum(g, over = all)",
        "p -= lr * inverse(g @ g.T) @ g",
        "p -= lr * solve(g @ g.T, g)",
        "use SGD(lr = lr)",
        "state m\n    p -= lr * m",
    ],
)
def test_what_the_host_must_do_cannot_hang_on_a_tensor(inside: str) -> None:
    assert codes(body(f"if norm(g) > 1:\n    {inside}")) == ["E320"]


def test_if_takes_one_condition_for_the_parameter() -> None:
    assert codes(body("if g > 0:\n    p -= lr * g")) == ["E319"]


# ---------------------------------------------------------------- when


def test_when_is_decided_by_shape_name_and_attributes() -> None:
    text = """
attribute skip = false
when name matches "bias|norm":
    p = 1
when ndim == 2 and not skip:
    p = 2
when rows > 2:
    p = 3
otherwise:
    p = 4
"""
    params = [
        torch.zeros(3, 2),
        torch.zeros(3, 2),
        torch.zeros(3, 2),
        torch.zeros(3),
        torch.zeros(2),
    ]
    made = Run(
        body(text),
        params,
        names=["a.bias", "a.weight", "b.weight", "c", "d"],
        attributes=[{}, {}, {"skip": True}, {}, {}],
    )
    made.step(1.0, 1.0, 1.0, 1.0, 1.0)
    assert [member.p.flatten()[0].item() for member in made.members] == [1, 2, 3, 3, 4]


def test_arms_after_the_first_that_holds_do_not_run() -> None:
    made = Run(body("p = 0\nwhen ndim < 9:\n    p += 1\nwhen ndim < 8:\n    p += 10"), [0.0])
    assert made.step(1.0).p() == 1.0


@pytest.mark.parametrize("condition", ["t == 1", "steps > 3", "norm(g) > 1", "loss(p) < 1"])
def test_when_must_not_change(condition: str) -> None:
    assert codes(body(f"when {condition}:\n    p -= lr * g")) == ["E409"]


def test_the_conditions_of_when_are_kept_for_the_optimizer() -> None:
    rule = rule_of(body("when ndim == 2 and k > 1:\n    p -= g\notherwise:\n    p += g", "k = 2"))
    assert len(rule.static_conditions) == 1


def test_options_leave_dead_branches_out_where_a_rule_binds_them() -> None:
    text = """
optimizer Inner(lr = 1.0, kind = "plain"):
    if kind == "average":
        state m
        m = lerp(m, g, 0.5)
        g = m
    elif kind in ("plain", "none"):
        g = g
    p -= lr * g

optimizer X(lr = 1.0) = Inner(lr = lr, kind = "average")
optimizer Y(lr = 1.0) = Inner(lr = lr)
"""
    assert [state.key for state in rule_of(text, "X").states] == ["m"]
    assert rule_of(text, "Y").states == ()
    assert Run(text, [1.0]).step(4.0).p() == -1.0
    assert Run(text, [1.0], "Y").step(4.0).p() == -3.0
    made = Run(text, [1.0], "Inner", hypers=[{"kind": "average"}])
    assert made.step(4.0).p() == -1.0


def test_names_of_states_exist_only_in_the_live_branch() -> None:
    made = Run(
        body("when ndim == 2:\n    state m\n    m = g\notherwise:\n    p -= g"), [0.0, [[0.0]]]
    )
    made.step(1.0, [[1.0]])
    assert made.members[0].states == {}
    assert made.state("m", 1) == [[1.0]]
