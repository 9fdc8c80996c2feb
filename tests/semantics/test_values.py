"""Sentences 1 to 7: what a rule is, the order of its statements, what each parameter sees."""

from __future__ import annotations

import math

import pytest
import torch

from optdsl.interpreter import run
from tests.semantics.running import Run, body, codes, diagnosed, double


def test_a_step_gives_new_values_and_changes_none_of_the_old() -> None:
    made = Run(body("state m\nm = m + g\ng *= 2\np -= lr * m * g"), [[1.0, 2.0]])
    made.step([3.0, 4.0])
    (member,) = made.members
    p, m = member.p.clone(), member.states["m"].clone()
    member.g = double([5.0, 6.0])
    first, second = run(made.rule, [member]), run(made.rule, [member])
    assert torch.equal(member.p, p)
    assert torch.equal(member.states["m"], m)
    assert torch.equal(member.g, double([5.0, 6.0]))
    assert torch.equal(first.updates[0].p, second.updates[0].p)  # type: ignore[arg-type]
    assert first.updates[0].states["m"].tolist() == [8.0, 10.0]


def test_statements_run_from_top_to_bottom_and_names_are_assigned_again() -> None:
    made = Run(body("x = g + 1\nx = x * 2\ny = x\nx = 0\np = y + x"), [1.0])
    assert made.step(3.0).p() == 8.0


def test_a_state_reads_back_what_was_assigned_whatever_its_storage() -> None:
    for storage in ("float32", "bf16", "int8", "int4"):
        made = Run(body(f"state m as {storage}\nm = g / 3\np = m"), [0.0])
        assert made.step(1.0).p() == 1 / 3


def test_assigning_g_changes_what_follows_and_nothing_else() -> None:
    text = """
wrapper Doubled(inner):
    before = g
    g = 2 * g
    step inner
    p += before - g

optimizer Inner(lr = 1.0):
    g += 1
    p -= lr * g

optimizer X = Doubled(Inner)
"""
    made = Run(text, [10.0]).step(3.0)
    # Inner sees 6 and makes it 7; the wrapper still sees 6.
    assert made.p() == 10 - 7 + (3 - 6)
    assert made.members[0].g is not None
    assert made.members[0].g.item() == 3.0


def test_a_norm_of_p_after_an_update_is_that_of_the_new_p() -> None:
    made = Run(body("p -= lr * g\np /= norm(p)"), [[6.0, 8.0]])
    assert made.step([3.0, 4.0]).p() == [0.6, 0.8]


def test_all_parameters_run_a_statement_before_any_runs_the_next() -> None:
    made = Run(body("p -= lr * g\np = p / norm(p, over = all)"), [[4.0], [0.0, 5.0]])
    made.step([1.0], [0.0, 1.0])  # 3 and (0, 4): the norm over both is 5
    assert made.p(0) == [3 / 5]
    assert made.p(1) == [0.0, 4 / 5]


def test_over_group_ranges_over_the_group() -> None:
    made = Run(body("p = sum(g, over = group)"), [0.0, 0.0, 0.0], groups=[0, 1, 0], hypers=[{}, {}])
    made.step(1.0, 10.0, 100.0)
    assert [made.p(i) for i in range(3)] == [101.0, 10.0, 101.0]


def test_over_ranges_over_the_parameters_that_execute_the_statement() -> None:
    text = body(
        "when ndim == 2:\n    p = sum(g, over = all)\notherwise:\n    p = sum(g, over = all)"
    )
    made = Run(text, [[[0.0]], 0.0, [[0.0]], 0.0])
    made.step([[1.0]], 10.0, [[100.0]], None)
    assert [made.p(i) for i in range(4)] == [[[101.0]], 10.0, [[101.0]], 0.0]


def test_over_ranges_over_the_branch_of_this_step() -> None:
    made = Run(body("if t % 2 == 0:\n    p = sum(g, over = all)"), [0.0, 0.0])
    made.step(1.0, None)
    made.step(1.0, 10.0)  # only the first is at t = 2
    assert [made.p(0), made.p(1)] == [1.0, 0.0]
    made.step(1.0, 10.0)
    assert [made.p(0), made.p(1)] == [1.0, 10.0]


def test_a_mean_over_all_weighs_elements_alike() -> None:
    made = Run(body("p = mean(g, over = all)"), [[0.0] * 3, 0.0])
    assert made.step([1.0, 2.0, 3.0], 10.0).p(1) == 4.0


def test_a_mean_over_all_counts_the_batch_of_view_last() -> None:
    made = Run(body("view last\np = mean(g, over = all)"), [torch.zeros(2, 2, 2), 0.0])
    made.step(torch.ones(2, 2, 2), 10.0)
    assert made.p(1) == (8 + 10) / 9


def test_a_value_of_the_group_counts_once_for_each_group() -> None:
    text = body("p = sum(norm(g, over = group), over = all)")
    made = Run(text, [0.0, 0.0, 0.0], groups=[0, 0, 1], hypers=[{}, {}])
    assert made.step(3.0, 4.0, 12.0).p() == 5.0 + 12.0


def test_a_shared_state_is_updated_once_a_step() -> None:
    made = Run(body("state n: [] over all\nn = n + 1\np = n"), [0.0, 0.0, 0.0])
    made.step(1.0, 1.0, 1.0).step(1.0, None, 1.0)
    assert made.one("n") == 2.0
    assert [made.p(i) for i in range(3)] == [2.0, 1.0, 2.0]


def test_a_shared_state_stays_where_no_parameter_executes_its_statement() -> None:
    made = Run(body("state n: [] over all = 5\nwhen ndim == 2:\n    n = n + 1"), [0.0, [[0.0]]])
    assert made.step(1.0, None).one("n") == 5.0
    assert made.step(1.0, [[1.0]]).one("n") == 6.0
    assert made.step(None, [[1.0]]).one("n") == 7.0


def test_a_shared_state_assigned_in_a_branch_is_not_read_by_those_outside() -> None:
    text = body(
        "state n: [] over all\nwhen ndim == 2:\n    n = norm(g, over = all)\np -= lr * n * g"
    )
    (found,) = diagnosed(text)
    assert found.code == "E203"
    assert "only the parameters that run this branch" in found.labels[0].text


def test_t_is_the_parameters_steps_the_groups() -> None:
    made = Run(body("p = 10 * t + steps"), [0.0, 0.0])
    made.step(1.0, None).step(1.0, 1.0).step(1.0, None)
    assert [made.p(0), made.p(1)] == [33.0, 12.0]


def test_hyperparameters_are_the_groups_attributes_the_parameters() -> None:
    text = body("attribute depth = 0\np = lr * 10^depth", "lr = 2")
    made = Run(
        text,
        [0.0, 0.0, 0.0],
        groups=[0, 0, 1],
        hypers=[{}, {"lr": 5}],
        attributes=[{}, {"depth": 2}, {"depth": 1}],
    )
    made.step(1.0, 1.0, 1.0)
    assert [made.p(i) for i in range(3)] == [2.0, 200.0, 50.0]
    assert made.step(1.0, 1.0, 1.0, lr=3).p(1) == 300.0


def test_t_in_a_shared_state_is_an_error_that_suggests_steps() -> None:
    (found,) = diagnosed(body("state n: [] over all\nn = t\np -= lr * n * g"))
    assert found.code == "E408"
    assert "`steps`" in (found.help or "")


def test_t_of_an_inner_rule_counts_its_runs() -> None:
    text = """
optimizer X(lr = 1.0):
    when ndim == 2:
        use Inner(lr = lr)

optimizer Inner(lr = 1.0):
    p = t
"""
    made = Run(text, [[[0.0]], 0.0]).step([[1.0]], 1.0).step([[1.0]], 1.0).step(None, 1.0)
    assert made.step([[1.0]], 1.0).p(0) == [[3.0]]
    assert "E411" in codes(text.replace("when ndim == 2", "if t % 2 == 0"))


def test_only_the_last_assignment_of_p_is_stored() -> None:
    made = Run(body("p -= lr * g\np = 2 * p\np = p + 1"), [1.0])
    assert made.step(3.0).p() == 2 * (1 - 3) + 1


def test_decay_and_step_are_one_expression_of_the_old_p() -> None:
    made = Run(body("p *= 1 - lr * 0.1\np -= lr * g", "lr = 0.25"), [3.0])
    assert made.step(2.0).p() == pytest.approx(3 - 0.025 * 3 - 0.25 * 2, rel=1e-15)


def test_a_rule_that_does_not_assign_p_leaves_it() -> None:
    made = Run(body("state m\nm = g"), [3.0]).step(2.0)
    assert made.outcome.updates[0].p is None
    assert made.state("m") == 2.0


def test_reports_are_numbers_of_the_step_and_nan_where_not_reached() -> None:
    text = body(
        "report size = norm(g, over = all)\nevery 2:\n    report twice = 2 * lr\np -= lr * g"
    )
    made = Run(text, [[3.0], [4.0]])
    made.step([3.0], [4.0])
    assert float(made.outcome.reports["size"]) == 5.0
    assert math.isnan(float(made.outcome.reports["twice"]))
    made.step([3.0], [4.0])
    assert float(made.outcome.reports["twice"]) == 2.0
    assert made.step(None, None).outcome.reports == {}
