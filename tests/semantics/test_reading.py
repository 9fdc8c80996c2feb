"""`host(x)`: a number of a tensor where a number of the host may stand."""

from __future__ import annotations

import pytest
import torch

from optdsl.ir.nodes import reachable
from tests.semantics.running import Run, body, codes, double


def after(text: str, *gradients: float, signature: str = "lr = 1.0") -> list[float]:
    """What the lines `text` make of parameters that are 0."""
    made = Run(body(text, signature), [0.0] * len(gradients)).step(*gradients)
    assert all(v.op != "to_host" for v in reachable(v for _, v in made.rule.outputs()))
    return [made.p(i) for i in range(len(gradients))]


def test_it_is_a_number_in_arithmetic() -> None:
    text = "n = host(norm(g, over = all))\np -= lr * min(1, 10 / n) * t * n^2 / (1 + host(t)) * g"
    assert after(text, 3.0, 4.0) == [-37.5, -50.0]
    assert after("a = host(norm(g))\na = 2 * a + 1\np = where(a > 7, a, -a)", 3.0, 4.0) == [-7, 9]
    assert after("state s: [] = host(norm(g))\ns += 1\np = s", 3.0) == [4]


def test_a_branch_on_it_runs_one_side() -> None:
    text = "x = g\nn = host(norm(g, over = all))\nif n > 3 and steps == 1:\n"
    text += "    x *= norm(x, over = all)\nelse:\n    x = -x\np = x"
    assert after(text, 3.0, 4.0) == [15, 20]
    assert after(text, 1.0, 2.0) == [-1, -2]
    assert "E320" in codes(body(text.replace("host(norm(g, over = all))", "norm(g, over = all)")))
    chosen = "n = 1\nif t > 1:\n    n = host(norm(g))\nx = g\nif n > 0:\n    x = 2 * g\np = x"
    assert after(chosen, 3.0) == [6]


def test_it_says_how_often_a_loop_runs() -> None:
    assert after("x = g\nrepeat host(norm(g)):\n    x = 2 * x\np = x", 3.0, 1.5, 0.0) == [24, 3, 0]
    total = "x = g\nrepeat host(norm(g, over = all)):\n    x = x + norm(x, over = all)\np = x"
    assert after(total, 1.0) == [2]
    until = "a = host(norm(g))\nrepeat 9:\n    a = 2 * a\n    until a > 5\np = a"
    assert after(until, 1.0, 3.0) == [8, 6]
    assert after("x = g\nevery host(norm(g)):\n    x = -x\np = x", 1.0, 2.0) == [-1, 2]


def test_a_function_takes_it() -> None:
    text = "def f(x, n):\n    if n > 2:\n        return n * x\n    return x\n\n"
    text += body("p = f(g, host(norm(g)))")
    made = Run(text, [0.0, 0.0]).step(2.0, 3.0)
    assert (made.p(0), made.p(1)) == (2.0, 9.0)
    inner = body("p -= lr * g").replace("X", "Inner")
    wrapper = "wrapper W(inner):\n    step inner(lr = lr_of(host(norm(g))))\n\n"
    scale = "def lr_of(n):\n    return 1 / n\n\noptimizer X = W(Inner)\n"
    found = Run(inner + "\n" + wrapper + scale, [torch.zeros(2)]).step(double([3.0, 4.0]))
    torch.testing.assert_close(found.members[0].p, -double([0.6, 0.8]))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("p -= lr * host(g)", "E319"),
        ("p -= lr * host(g, p)", "E209"),
        ("state s: [3, *p]\ns[host(norm(g))] = g\np -= lr * s[0]", "E313"),
        ("p -= lr * rand(at = host(norm(g)))", "E313"),
        ("require host(norm(g)) > 1\np -= lr * g", "E402"),
        ("state s on host\ns = host(norm(g, over = all))\np -= lr * s * g", "E408"),
        ("when host(norm(g)) > 1:\n    p -= lr * g", "E409"),
        ("for k in range(host(norm(g))):\n    p -= lr * k * g", "E209"),
        ("state m: [host(norm(g)), 1]\np -= lr * sum(m)", "E314"),
        ('k = where(host(norm(g) > 1), "a", "b")\nif k == "a":\n    p -= lr * g', "E302"),
        ("x = g\nif host(norm(g)) > 1:\n    x = x * norm(x, over = all)\np -= lr * x", "E320"),
        ("p -= lr * sum(host(norm(g)))", "E306"),
    ],
)
def test_where_it_cannot_stand(text: str, code: str) -> None:
    assert code in codes(body(text, "lr = 0.1"))
