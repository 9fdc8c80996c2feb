"""Loops: unrolled or run as one value, alike in what they give."""

from __future__ import annotations

import pytest
import torch

from optdsl.ir.nodes import reachable
from tests.semantics.running import Run, body, codes, double, rule_of


def has_loop(text: str) -> bool:
    rule = rule_of(text)
    return any(value.op == "loop" for value in reachable(v for _, v in rule.outputs()))


def test_repeat_runs_a_body_n_times() -> None:
    made = Run(body("x = g\nrepeat n:\n    x = 2 * x + 1\np = x", "n = 3"), [0.0])
    assert made.step(1.0).p() == 15.0
    assert made.step(1.0, n=0).p() == 1.0
    assert made.step(1.0, n=-4).p() == 1.0
    assert made.step(1.0, n=2.9).p() == 7.0


def test_for_over_a_tuple_is_unrolled() -> None:
    text = body("x = g\nfor a, b in ((1, 2), (3, 4)):\n    x = a * x + b\np = x")
    assert not has_loop(text)
    assert Run(text, [0.0]).step(1.0).p() == 3 * (1 + 2) + 4


def test_for_over_a_tuple_of_hyperparameters() -> None:
    made = Run(body("x = 0\nfor b in betas:\n    x += b\np = x", "betas = (0.25, 0.5)"), [0.0])
    assert made.step(1.0).p() == 0.75
    assert made.step(1.0, betas=(1.0, 2.0)).p() == 3.0


@pytest.mark.parametrize("n", [0, 1, 5])
def test_for_over_a_range_counts_from_its_start(n: int) -> None:
    for head, first in (
        (f"range({n})", 0),
        (f"range(2, {n})", 2),
        ("range(n)", 0),
        ("range(2, n)", 2),
    ):
        made = Run(body(f"x = 0\nfor k in {head}:\n    x = 10 * x + k\np = x", "n = 9"), [0.0])
        wanted = 0.0
        for k in range(first, n):
            wanted = 10 * wanted + k
        assert made.step(1.0, n=n).p() == wanted


def test_a_long_literal_range_is_a_loop() -> None:
    text = body("x = g\nfor k in range(1000):\n    x = x + k\np = x")
    assert has_loop(text)
    assert Run(text, [0.0]).step(0.0).p() == 999 * 500


def test_several_names_and_a_state_are_carried() -> None:
    text = """
state m = 1
a = g
b = 0 * g
repeat n:
    c = a
    a = b + a
    b = c
    m *= 2
p = a + 100 * b
"""
    made = Run(body(text, "n = 5"), [0.0]).step(1.0)
    assert made.p() == 8 + 500  # Fibonacci's numbers
    assert made.state("m") == 32.0


def test_a_number_becomes_a_tensor_in_a_loop() -> None:
    made = Run(body("x = 0\nrepeat n:\n    x = x + g\np = x", "n = 3"), [[0.0, 0.0]])
    assert made.step([1.0, 2.0]).p() == [3.0, 6.0]


def test_a_chain_of_names_becomes_tensors_one_after_the_other() -> None:
    text = (
        "a = 0\nb = 0\nc = 0\nd = 0\nrepeat n:\n    a = b\n    b = c\n    c = d\n    d = g\np = a"
    )
    made = Run(body(text, "n = 4"), [[0.0, 0.0]])
    assert made.step([1.0, 2.0]).p() == [1.0, 2.0]
    assert made.step([1.0, 2.0], n=3).p() == [0.0, 0.0]


def test_numbers_of_the_host_are_carried() -> None:
    made = Run(body("a = 1\nrepeat n:\n    a = a * 1.5 + t\np = a", "n = 2"), [0.0])
    assert made.step(0.0).p() == (1 * 1.5 + 1) * 1.5 + 1


def test_numbers_of_a_loop_whose_length_is_the_parameters_are_its_own() -> None:
    made = Run(body("a = 1\nrepeat rows:\n    a = 2 * a\np = a"), [torch.zeros(2), torch.zeros(5)])
    made.step(0.0, 0.0)
    assert (made.p(0)[0], made.p(1)[0]) == (4.0, 32.0)


def test_numbers_of_a_loop_that_a_tensor_ends_are_tensors() -> None:
    text = "a = 8\nrepeat 10:\n    a = a / 2\n    until host(a * norm(g) < 5)\np = a"
    made = Run(body(text), [0.0, 0.0]).step(1.0, 4.0)
    assert (made.p(0), made.p(1)) == (4.0, 1.0)
    assert codes(body(text.replace("p = a", "every a:\n    p -= lr * g"))) == ["E313"]


def test_until_ends_a_loop_after_a_pass_that_meets_it() -> None:
    text = "x = g\nrepeat 10:\n    x = 2 * x\n    until host(norm(x) > 5)\np = x"
    made = Run(body(text), [0.0, 0.0]).step(1.0, 100.0)
    assert (made.p(0), made.p(1)) == (8.0, 200.0)
    assert Run(body(text.replace("host(norm(x) > 5)", "norm(x) > 5")), [0.0]).step(1.0).p() == 8.0


def test_until_over_all_parameters_ends_the_loop_for_all() -> None:
    text = "x = g\nrepeat 10:\n    x = 2 * x\n    until host(norm(x, over = all) > 5)\np = x"
    made = Run(body(text), [0.0, 0.0]).step(1.0, 2.0)
    assert (made.p(0), made.p(1)) == (4.0, 8.0)


def test_until_of_one_parameter_cannot_end_a_loop_of_all() -> None:
    text = "x = g\nrepeat 10:\n    x = x / norm(x, over = all)\n    until host(norm(x) > 5)\np = x"
    assert "E320" in codes(body(text))


def test_parameters_pass_through_a_loop_in_lockstep() -> None:
    text = body("x = g\nrepeat 3:\n    x = x / norm(x, over = all) + 1\np = x")
    made = Run(text, [[0.0], [0.0, 0.0]]).step([1.0], [2.0, 2.0])
    a, b = double([1.0]), double([2.0, 2.0])
    for _ in range(3):
        size = torch.sqrt((a**2).sum() + (b**2).sum())
        a, b = a / size + 1, b / size + 1
    torch.testing.assert_close(made.members[0].p, a, rtol=1e-14, atol=0)
    torch.testing.assert_close(made.members[1].p, b, rtol=1e-14, atol=0)


def test_lockstep_of_those_that_execute_the_loop() -> None:
    text = """
when ndim == 1:
    x = g
    repeat 2:
        x = x + sum(x, over = all)
    p = x
"""
    made = Run(body(text), [[0.0], 0.0, [0.0]]).step([1.0], 50.0, [2.0])
    assert (made.p(0), made.p(1), made.p(2)) == ([13.0], 0.0, [14.0])


def test_loops_in_loops() -> None:
    text = """
x = 0 * g
for i in range(n):
    y = 0
    repeat i + 1:
        y += 1
    x += y * g
p = x
"""
    assert Run(body(text, "n = 4"), [0.0]).step(1.0).p() == 1 + 2 + 3 + 4


def test_parameters_pass_through_loops_in_loops_in_lockstep() -> None:
    text = "repeat n:\n    repeat n:\n        p = p / norm(p, over = all)\n        p += 1"
    made = Run(body(text, "n = 2"), [1.0, 2.0]).step(0.0, 0.0)
    a, b = double(1.0), double(2.0)
    for _ in range(4):
        size = torch.sqrt(a**2 + b**2)
        a, b = a / size + 1, b / size + 1
    assert made.p(0) == pytest.approx(a.item(), rel=1e-14)
    assert made.p(1) == pytest.approx(b.item(), rel=1e-14)


def test_conditions_in_loops() -> None:
    text = """
x = 0 * g
for k in range(n):
    if k % 2 == 0:
        x += 1
    elif norm(x) > 1:
        x += 10
p = x
"""
    assert Run(body(text, "n = 5"), [0.0]).step(1.0).p() == 1 + 0 + 1 + 10 + 1


def test_a_queue_is_indexed_by_the_loop() -> None:
    text = """
state hist: [3, *p]
hist[(t - 1) % 3] = g
s = 0 * g
for k in range(3):
    s += hist[k]
p = s
"""
    made = Run(body(text), [0.0])
    assert [made.step(float(10**k)).p() for k in range(4)] == [1.0, 11.0, 111.0, 1110.0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = g\nrepeat norm(g):\n    x = 2 * x\np -= lr * x", "E313"),
        ("for k in range(norm(g)):\n    g = 2 * g\np -= lr * g", "E209"),
        ("for k in range(2.5):\n    g = 2 * g\np -= lr * g", "E209"),
        ("for k in range(1, 2, 3):\n    g = 2 * g\np -= lr * g", "E209"),
        ("for a, b in range(3):\n    g = 2 * g\np -= lr * g", "E317"),
        ("for a, b in ((1, 2), 3):\n    g = a * b * g\np -= lr * g", "E317"),
        ("for a in g:\n    g = a * g\np -= lr * g", "E317"),
        ("repeat 3:\n    y = g\np -= lr * y", "E203"),
        ("for k in range(3):\n    g = k * g\np -= lr * k * g", "E203"),
        ("for k in range(n):\n    g = k * g\np -= lr * k * g", "E203"),
        ("x = g\nrepeat n:\n    x = x @ g.T\np -= lr * norm(x) * g", "E321"),
        ("x = (1, 2)\nrepeat n:\n    x = (g, g)\np -= lr * x[0]", "E321"),
        ("x = 1\nrepeat n:\n    x = norm(g) > 1\np -= lr * where(x, 1, 0) * g", "E321"),
        ("x = g\nrepeat n:\n    x = 2 * x\n    until x > 1\np -= lr * x", "E319"),
        ("state h: [3, *p]\nh[3] = g\np -= lr * h[0]", "E313"),
        ("state h: [3, *p]\np -= lr * h[norm(g)]", "E313"),
        ("state h: [3, *p]\np -= lr * h[0.5]", "E313"),
    ],
)
def test_loops_that_cannot_be(text: str, code: str) -> None:
    assert codes(body(text, "lr = 1.0, n = 2")).count(code) == 1


def test_an_entry_that_there_is_not_is_refused_in_the_step() -> None:
    made = Run(body("state h: [3, *p]\nh[t] = g\np -= h[0]"), [0.0]).step(1.0).step(1.0)
    with pytest.raises(ValueError, match="entry 3"):
        made.step(1.0)


def test_a_loop_without_end_is_refused_in_the_step() -> None:
    made = Run(body("x = g\nrepeat n:\n    x = x + 1\np = x", "n = 2"), [0.0])
    with pytest.raises(ValueError, match="inf"):
        made.step(0.0, n=float("inf"))
    assert made.step(3.0, n=float("nan")).p() == 3.0
