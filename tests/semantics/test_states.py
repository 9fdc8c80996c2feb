"""Sentences 8 to 11: where states begin, how they are stored, who shares them, their keys."""

from __future__ import annotations

import pytest
import torch

from optdsl.types import Storage
from tests.semantics.running import Run, body, codes, diagnosed, rule_of


def keys(text: str, name: str = "X") -> list[str]:
    return [state.key for state in rule_of(text, name).states]


# ---------------------------------------------------------------- where a state begins


def test_a_state_is_zero_and_of_ps_shape_by_default() -> None:
    made = Run(body("state m\np = m + g"), [[[1.0, 2.0]]]).step([[5.0, 6.0]])
    assert made.p() == [[5.0, 6.0]]
    assert made.state("m") == [[0.0, 0.0]]


def test_a_state_begins_with_the_values_that_names_have_where_it_is_declared() -> None:
    made = Run(body("p -= lr * g\nstate after = p\np -= lr * g"), [10.0])
    assert made.step(1.0).state("after") == 9.0
    assert made.step(1.0).state("after") == 9.0
    assert made.p() == 6.0


def test_a_state_in_a_branch_begins_when_the_branch_is_first_taken() -> None:
    made = Run(body("if t > 2:\n    state m = p\n    m += 1\np -= lr * g"), [10.0])
    made.step(1.0).step(1.0)
    assert made.members[0].states == {}
    assert made.step(1.0).state("m") == 9.0
    assert made.step(1.0).state("m") == 10.0


def test_a_state_of_a_parameter_that_comes_late_begins_late() -> None:
    made = Run(body("state slow = p\nslow = lerp(slow, p, 0.5)\np -= lr * g"), [1.0, 2.0])
    made.step(1.0, None).step(1.0, None).step(1.0, 1.0)
    assert made.state("slow", 1) == 2.0
    assert made.state("slow", 0) == (0.5 * (1 + 0) - 1) / 2  # p was 1, 0 and -1


def test_first_is_true_on_the_step_that_creates_the_state() -> None:
    made = Run(body("state m\nm = where(first(m), g, 10 * m)"), [0.0])
    assert made.step(3.0).state("m") == 3.0
    assert made.step(4.0).state("m") == 30.0


def test_first_of_a_state_that_nothing_assigns_is_true_once() -> None:
    made = Run(body("state m\nif first(m):\n    p = 100 * g"), [0.0])
    assert made.step(1.0).p() == 100.0
    assert made.step(2.0).p() == 100.0


def test_a_state_is_born_when_a_coefficient_leaves_zero() -> None:
    text = "optimizer X(lr = 1.0, momentum = 0):\n    use SGD(lr = lr, momentum = momentum)\n"
    made = Run(text, [10.0]).step(1.0)
    assert made.members[0].states == {}
    made.step(2.0, momentum=0.5)
    assert made.state("momentum_buffer") == 2.0  # a copy of this gradient
    assert made.step(4.0).state("momentum_buffer") == 5.0
    assert made.p() == 10 - 1 - 2 - 5


def test_an_initial_number_of_the_host_is_that_of_the_groups_hyperparameters() -> None:
    made = Run(body("state s: [] = 2 * lr\ns += 1\np -= g"), [0.0], hypers=[{"lr": 3.0}])
    assert made.step(1.0).state("s") == 7.0
    assert made.step(1.0, lr=100.0).state("s") == 8.0


def test_states_born_together_know_of_each_other() -> None:
    made = Run(body("state a = p, b = a + g\na += 1\nb += a"), [10.0])
    made.step(5.0)
    assert (made.state("a"), made.state("b")) == (11.0, 26.0)
    made.step(0.0)
    assert (made.state("a"), made.state("b")) == (12.0, 38.0)


# ---------------------------------------------------------------- shapes


def test_shapes_of_states() -> None:
    text = body(
        """
state row: [rows, 1], col: [1, cols], q: [rows, rows] = eye(rows), n: [], hist: [3, *p]
row += mean(g, axis = 1)
col += mean(g, axis = 0)
q += 1
n += 1
hist[(t - 1) % 3] = g
p = hist[0] + hist[1]
"""
    )
    made = Run(text, [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    made.step([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert made.state("row") == [[2.0], [5.0]]
    assert made.state("col") == [[2.5, 3.5, 4.5]]
    assert made.state("q") == [[2.0, 1.0], [1.0, 2.0]]
    assert made.state("n") == [[1.0]]
    assert made.p() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    made.step(1.0).step(2.0).step(7.0)
    assert made.state("hist")[0] == [[7.0] * 3] * 2
    assert made.p() == [[8.0] * 3] * 2


def test_sizes_are_made_of_sizes_hyperparameters_and_attributes() -> None:
    text = """
attribute wide = 1
k = min(rank, rows) * wide
state m: [k, cols // 2 + 1]
m += 1
p -= g
"""
    params = [torch.zeros(5, 4), torch.zeros(1, 4)]
    made = Run(body(text, "rank = 2"), params, attributes=[{"wide": 3}, {}]).step(1.0, 1.0)
    assert made.members[0].states["m"].shape == (6, 3)
    assert made.members[1].states["m"].shape == (1, 3)


def test_states_of_one_name_and_different_shapes_in_branches_of_their_own() -> None:
    text = body(
        """
if name matches "bias":
    state v
    s = g^2
elif name matches "head":
    state v: [rows, 1]
    s = mean(g^2, axis = 1)
else:
    state v: []
    s = mean(g^2)
v = lerp(v, s, 0.5)
p -= lr * v
"""
    )
    names = ["a.bias", "head", "body"]
    made = Run(text, [[0.0, 0.0], torch.zeros(2, 2), torch.zeros(2, 2)], names=names)
    g = [[1.0, 1.0], [2.0, 4.0]]
    made.step([2.0, 4.0], g, g).step([2.0, 4.0], g, g)
    assert made.state("v", 0) == [3.0, 12.0]
    assert made.state("v", 1) == [[0.75], [7.5]]
    assert made.state("v", 2) == [[0.75 * 5.5]]
    assert made.p(0) == [-2.0 - 3.0, -8.0 - 12.0]
    assert made.p(1) == [[-1.25, -1.25], [-12.5, -12.5]]
    assert [state.key for state in made.rule.states] == ["v", "v", "v"]


def test_branches_that_alternate_cannot_share_a_key() -> None:
    text = "if t % 2 == 0:\n    state m\n    m = g\nelse:\n    state m\n    m = -g\np -= lr * m"
    assert codes(body(text)) == ["E406"]


def test_a_transforms_state_has_the_shape_of_its_argument() -> None:
    text = body("if ndim >= 2:\n    r = ema(mean(g, axis = 1), 0.5)\n    p -= lr * r")
    made = Run(text, [torch.zeros(2, 3)]).step([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert made.state("r") == [[1.0], [2.5]]


# ---------------------------------------------------------------- storage


def test_storage_is_said_beside_the_state_and_is_the_compute_type_by_default() -> None:
    rule = rule_of(body("state a, b as param, c as bf16, d as int8\na = g\np -= lr * (b + c + d)"))
    found = {state.key: state.storage for state in rule.states}
    assert found == {
        "a": Storage.COMPUTE,
        "b": Storage.PARAM,
        "c": Storage.BF16,
        "d": Storage.INT8,
    }


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ("m = lerp(m, g, 1 - beta)", ["W606"]),
        ("m = beta * m + (1 - beta) * g", ["W606"]),
        ("m = lerp(m, g, 0.1)", []),
        ("m = 0.9 * m + g", []),
        ("m = g", []),
    ],
)
def test_an_average_that_stalls_in_bf16_is_warned_of(update: str, expected: list[str]) -> None:
    signature = "lr = 1.0, beta = 0.999" if "beta" in update else "lr = 1.0"
    assert codes(body(f"state m as bf16\n{update}\np -= lr * m", signature)) == expected
    assert codes(body(f"state m\n{update}\np -= lr * m", signature)) == []


# ---------------------------------------------------------------- shared states


def test_a_state_over_all_is_one_for_the_model_over_group_one_for_each() -> None:
    text = body(
        "state a: [] over all, b: [] over group\na += 1\nb += sum(g, over = group)\np = a + b"
    )
    made = Run(text, [0.0, 0.0, 0.0], groups=[0, 1, 1], hypers=[{}, {}])
    made.step(1.0, 10.0, 100.0).step(1.0, 10.0, None)
    assert made.one("a") == 2.0
    assert (made.one("b", 0), made.one("b", 1)) == (2.0, 120.0)
    assert made.p(1) == 122.0


def test_a_shared_state_has_one_shape_for_all() -> None:
    assert codes(body("state m: [rows, 1] over all\np -= lr * g")) == ["E314"]
    assert codes(body("state m: [4] over all = 1\np -= lr * g * sum(m)")) == []


@pytest.mark.parametrize(
    "value", ["norm(g)", "t", "rows", "where(norm(g) > 1, 1, 0)", "norm(p) + norm(g, over = all)"]
)
def test_a_shared_state_takes_nothing_of_one_parameter(value: str) -> None:
    assert codes(body(f"state n: [] over all\nn = {value}\np -= lr * n * g")) == ["E408"]


def test_a_shared_state_does_not_follow_a_condition_of_one_parameter() -> None:
    text = "state n: [] over all\nif norm(g) > 1:\n    n = 1\np -= lr * n * g"
    assert codes(body(text)) == ["E408"]
    text = "state n: [] over all\nif norm(g, over = all) > 1:\n    n = 1\np -= lr * n * g"
    assert codes(body(text)) == []


# ---------------------------------------------------------------- keys


def test_a_key_is_what_named_says_else_the_name() -> None:
    text = body('state m named "exp_avg", v\nm = g\nv = m\np -= lr * v')
    assert keys(text) == ["exp_avg", "v"]


def test_a_transforms_lone_state_has_the_name_of_the_variable() -> None:
    assert keys(body("m = ema(g, 0.9)\np -= lr * m")) == ["m"]
    assert keys(body("p -= lr * ema(g, 0.9)")) == ["average"]
    assert keys(body("p -= lr * (ema(g, 0.9) + ema(g, 0.99))")) == ["average", "average_2"]


def test_several_states_of_a_transform_stand_behind_the_variable() -> None:
    text = """
transform both(x):
    state fast, slow
    fast = lerp(fast, x, 0.5)
    slow = lerp(slow, x, 0.25)
    return fast - slow

""" + body("m = both(g)\np -= lr * m")
    assert keys(text) == ["m.fast", "m.slow"]
    made = Run(text, [0.0]).step(4.0)
    assert (made.state("m.fast"), made.state("m.slow"), made.p()) == (2.0, 1.0, -1.0)


def test_one_variable_of_two_transform_calls_is_an_error() -> None:
    (found,) = diagnosed(body("m = ema(g, 0.9)\nm = ema(m, 0.9)\np -= lr * m"))
    assert found.code == "E406"
    assert "variable of its own" in (found.help or "")


def test_two_states_under_one_key_are_an_error() -> None:
    assert codes(body('state a named "m", b named "m"\na = g\nb = a\np -= lr * b')) == ["E406"]
    assert codes(body('state a named "step"\na = g\np -= lr * a')) == ["E406"]


def test_a_state_beside_a_transform_of_its_name_is_left_out() -> None:
    """What a paper's line of code has, and `ema` has itself."""
    (found,) = diagnosed(body("state m\nm = ema(g, 0.9)\np -= lr * m"))
    assert found.code == "E406" and "leave `state m` out" in str(found.help)


def test_an_inner_rule_alone_has_its_own_keys() -> None:
    text = "optimizer X = Lookahead(AdamW)\n"
    assert keys(text) == ["slow", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]


WRAPPERS = """
wrapper Both(a, b, share = 0.5):
    start = p
    step a
    first = p
    p = start
    step b
    p = lerp(first, p, share)

wrapper Kept(inner):
    state exp_avg
    step inner
    exp_avg = p

"""


def test_several_inner_rules_have_their_names_before_their_keys() -> None:
    text = WRAPPERS + "optimizer X = Both(Adam(lr = 0.1), Lion(lr = 0.2))\n"
    assert "E410" in codes(text)
    text = WRAPPERS + (
        "optimizer X(a_lr = 0.1, b_lr = 0.2) = Both(Adam(lr = a_lr), Lion(lr = b_lr))\n"
    )
    assert keys(text) == ["Adam.exp_avg", "Adam.exp_avg_sq", "Lion.exp_avg"]


def test_twice_the_same_inner_rule_is_told_apart_by_the_wrappers_names() -> None:
    text = WRAPPERS + "optimizer X(x = 0.1, y = 0.2) = Both(Lion(lr = x), Lion(lr = y))\n"
    assert keys(text) == ["a.exp_avg", "b.exp_avg"]


def test_a_wrappers_key_that_the_inner_rule_has_too_is_told_apart() -> None:
    assert keys(WRAPPERS + "optimizer X = Kept(Lion)\n") == ["exp_avg", "Lion.exp_avg"]


@pytest.mark.parametrize(
    "text",
    [
        "repeat 2:\n    p -= lr * ema(g, 0.9)",
        "for b in (0.9, 0.99):\n    p -= lr * ema(g, b)",
        "repeat 2:\n    state m\n    m = g",
        "for b in (1, 2):\n    state m\n    m = b * g\np -= lr * g",
        "repeat 2:\n    use SGD(lr = lr)",
    ],
)
def test_memory_in_a_loop_is_an_error(text: str) -> None:
    assert "E401" in codes(body(text))


def test_a_state_cannot_hide_another_name() -> None:
    assert "E212" in codes(body("state lr\np -= lr * g"))
    assert "E212" in codes(body("state m\nstate m\nm = g\np -= lr * m"))
    assert "E404" in codes(body("state rows\np -= lr * g"))
