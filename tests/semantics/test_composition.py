"""Functions, transforms and rules inside rules are what would have been written in their place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from optdsl.codegen.module import static_hypers
from optdsl.ir.nodes import Rule, reachable
from optdsl.schedule.make import make_plan
from tests.semantics.running import Run, body, codes, diagnosed, rule_of

ADAM_BY_HAND = """
optimizer X(lr = 0.1, beta1 = 0.9, beta2 = 0.99, eps = 1e-8):
    state m, v
    m = lerp(m, g, 1 - beta1)
    v = lerp(v, g^2, 1 - beta2)
    p -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
"""
ADAM_OF_BLOCKS = """
def unbiased(x, beta):
    return x / (1 - beta^t)

transform average(x, beta):
    state kept
    kept = lerp(kept, x, 1 - beta)
    return kept

transform moments(x, beta1, beta2):
    first = average(x, beta1)
    second = average(x^2, beta2)
    return first, second

optimizer X(lr = 0.1, beta1 = 0.9, beta2 = 0.99, eps = 1e-8):
    m, v = moments(g, beta1, beta2)
    p -= lr * unbiased(m, beta1) / (sqrt(unbiased(v, beta2)) + eps)
"""


def shape_of(rule: Rule) -> list[tuple[str, int]]:
    return [(value.op, len(value.args)) for value in reachable(v for _, v in rule.outputs())]


def test_a_rule_of_blocks_is_the_rule_written_out() -> None:
    assert shape_of(rule_of(ADAM_BY_HAND)) == shape_of(rule_of(ADAM_OF_BLOCKS))
    runs = [Run(text, [[1.0, -2.0]]) for text in (ADAM_BY_HAND, ADAM_OF_BLOCKS)]
    for k in range(3):
        for run in runs:
            run.step([0.5 * k, 1.0])
    assert runs[0].p() == runs[1].p()


def test_a_function_may_return_early_and_several_values() -> None:
    text = """
def pick(x, kind):
    if kind == "none":
        return x, 0
    y = 2 * x
    if kind == "twice":
        return y, 1
    return y * 2, 2

""" + body("a, n = pick(g, kind)\np = 100 * n + a", 'kind = "none"')
    for kind, wanted in (("none", 3.0), ("twice", 106.0), ("more", 212.0)):
        assert Run(text, [0.0], hypers=[{"kind": kind}]).step(3.0).p() == wanted


def test_a_transform_that_returns_in_a_branch_keeps_its_state_there() -> None:
    text = """
transform every_other(x):
    state m
    if t % 2 == 1:
        m += x
        return m
    m += 100
    return -m

""" + body("p = every_other(g)")
    made = Run(text, [0.0])
    assert [made.step(1.0).p() for _ in range(4)] == [1.0, -101.0, 102.0, -202.0]


def test_defaults_of_functions_may_read_what_comes_before() -> None:
    text = "def f(x, y = 2 * x, n = t):\n    return 100 * y + n\n\n" + body(
        "p = f(g) + f(g, n = 5)"
    )
    assert Run(text, [0.0]).step(3.0).p() == 601 + 605


def test_each_call_of_a_transform_has_memory_of_its_own() -> None:
    made = Run(body("a = ema(g, 0.5)\nb = ema(a, 0.5)\np = b"), [0.0])
    assert [made.step(8.0).p() for _ in range(2)] == [2.0, 4.0]


# ---------------------------------------------------------------- rules around rules

LOOKAHEAD = """
wrapper Look(inner, k = 2, alpha = 0.5):
    state slow = p
    step inner
    every k:
        slow = lerp(slow, p, alpha)
        p = slow

"""
PLAIN = """
optimizer Plain(lr = 1.0):
    p -= lr * g

"""
SCALED = """
wrapper Scaled(inner, scale = 2):
    g *= scale
    step inner

"""


def test_a_wrapper_takes_the_hyperparameters_of_both() -> None:
    rule = rule_of(LOOKAHEAD + PLAIN + "optimizer X = Look(Plain, k = 3)\n")
    assert {hyper.name: hyper.default for hyper in rule.hypers} == {"lr": 1.0, "k": 3, "alpha": 0.5}
    assert rule.hypers[0].name == "lr"


def test_lookahead() -> None:
    made = Run(LOOKAHEAD + PLAIN + "optimizer X = Look(Plain)\n", [10.0])
    assert [made.step(1.0).p() for _ in range(4)] == [9.0, 9.0, 8.0, 8.0]


def test_wrappers_of_wrappers() -> None:
    text = LOOKAHEAD + PLAIN + SCALED + "optimizer Base = Look(Plain, k = 1)\n\n"
    made = Run(text + "optimizer X = Scaled(Base, scale = 3)\n", [10.0])
    assert made.step(2.0).p() == 10 - 0.5 * 6
    names = [hyper.name for hyper in made.rule.hypers]
    assert names == ["lr", "scale", "k", "alpha"]


def test_a_wrapper_of_itself_needs_two_names() -> None:
    text = PLAIN + SCALED
    assert codes(text + "optimizer X = Scaled(Scaled(Plain), scale = 3)\n") == ["E410"]
    twice = "optimizer X(a = 5, b = 7) = Scaled(Scaled(Plain, scale = a), scale = b)\n"
    assert Run(text + twice, [0.0]).step(1.0).p() == -35.0


def test_an_alias_of_an_alias_takes_what_its_parts_take() -> None:
    text = LOOKAHEAD + PLAIN + "optimizer A = Look(Plain, k = 1)\n\n"
    for given, wanted in (("", -0.5), ("(lr = 4)", -2.0), ("(alpha = 1, lr = 4)", -4.0)):
        assert Run(text + f"optimizer X = A{given}\n", [0.0]).step(1.0).p() == wanted
    made = Run(text + "optimizer X(rate = 4) = A(lr = rate)\n", [0.0], hypers=[{"rate": 8}])
    assert made.step(1.0).p() == -4.0
    assert [hyper.name for hyper in made.rule.hypers] == ["rate"]
    assert codes(text + "optimizer X = A(rate = 2)\n") == ["E208"]


def test_an_aliass_own_parameters_are_all_that_it_takes() -> None:
    text = PLAIN + LOOKAHEAD + "optimizer X(rate = 2.0) = Look(Plain(lr = rate), k = 1)\n"
    assert [hyper.name for hyper in rule_of(text).hypers] == ["rate"]
    assert Run(text, [0.0]).step(1.0).p() == -1.0


def test_step_binds_hyperparameters_of_rules_further_in() -> None:
    text = (
        PLAIN
        + LOOKAHEAD
        + """
optimizer A = Look(Plain, k = 1)

wrapper Warm(inner):
    step inner(lr = 10 * t)

optimizer X = Warm(A)
"""
    )
    made = Run(text, [0.0])
    assert [hyper.name for hyper in made.rule.hypers] == ["k", "alpha"]
    assert [made.step(1.0).p() for _ in range(2)] == [-5.0, -15.0]
    assert codes(text.replace("lr = 10 * t", "rate = 10 * t")) == ["E208"]


def test_what_an_inner_rule_requires_of_a_bound_value_is_tested_where_it_is_known() -> None:
    text = """
optimizer Strict(lr = 0.1):
    require lr > 0
    p -= lr * g

wrapper Twice(inner, rate = 0.1):
    step inner(lr = 2 * rate)

wrapper Warm(inner):
    step inner(lr = 10 * t)

wrapper Sized(inner):
    step inner(lr = norm(p))

optimizer Known = Twice(Strict)

optimizer Later = Warm(Strict)

optimizer Tensor = Sized(Strict)
"""
    assert codes(text) == []
    asked = {name: rule_of(text, name).requirements for name in ("Known", "Later", "Tensor")}
    assert {name: [each.text for each in found] for name, found in asked.items()} == {
        "Known": ["lr > 0"], "Later": [], "Tensor": []
    }  # fmt: skip
    assert codes(text.replace("require lr > 0", "require t > 0"))[0] == "E402"


def test_an_inner_rule_runs_once_a_step_in_one_of_two_branches() -> None:
    text = """
wrapper Signed(inner):
    when ndim == 2:
        g = sign(g)
        step inner
    otherwise:
        step inner

optimizer X = Signed(Lion)
"""
    rule = rule_of(text)
    assert [state.key for state in rule.states] == ["exp_avg", "exp_avg"]
    assert [hyper.name for hyper in rule.hypers] == ["lr", "betas", "weight_decay"]
    made = Run(text, [[0.0], [[0.0]]]).step([5.0], [[5.0]])
    assert made.state("exp_avg", 0) == [pytest.approx(0.05)]
    assert made.state("exp_avg", 1) == [[pytest.approx(0.01)]]
    assert codes(text.replace("    otherwise:\n        step inner", "    step inner")) == ["E411"]


SELDOM = """
wrapper Sums(inner, parts = 3):
    state total
    total += g
    every parts:
        g = total / parts
        step inner
        total = 0 * total

wrapper Late(inner, gap = 2, since = 3):
    every gap from since:
        step inner

optimizer Inner(lr = 0.5, beta = 0.5):
    m = ema(g, beta)
    p -= lr * debias(m, beta) + 0.125 * rand()

optimizer X = Sums(Late(Inner))
"""


def test_a_rule_that_runs_now_and_then_counts_its_own_runs() -> None:
    """Of its average, its draws and what it runs `every` so often it sees no step but its own."""
    seldom, alone = Run(SELDOM, [[1.0, 2.0]]), Run(SELDOM, [[1.0, 2.0]], "Inner")
    for step in range(1, 25):
        seldom.step([float(step), -1.0])
        if step in (
            9,
            15,
            21,
        ):  # the sums are there in 3, 6, 9, ...: of these the third, fifth, ...
            alone.step([float(step - 1), -1.0])
            assert seldom.state("m") == alone.state("m")
            assert seldom.p() == alone.p()
    assert seldom.p() != [1.0, 2.0]


def test_what_the_count_of_runs_is_made_of_cannot_change() -> None:
    plan = make_plan(rule_of(SELDOM))
    assert static_hypers(plan) == ["parts", "gap", "since"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("every parts:", []),
        ("every 2:", []),
        ("every parts from parts:", []),
        ("every t:", ["E411"]),  # which is no number that stays
        ("if t % parts == 1:", ["E411"]),
        ("if t % parts != 0:", ["E411"]),
        ("every 2:\n      every parts:", ["E411"]),
    ],
)
def test_conditions_under_which_a_rule_can_run(line: str, found: list[str]) -> None:
    text = f"wrapper Some(inner, parts = 3):\n    g /= parts\n    {line}\n        step inner\n"
    assert codes(text + "optimizer X = Some(SGD)\n") == found


def test_a_value_for_evaluation_is_not_left_by_some_steps_alone() -> None:
    text = "wrapper Some(inner, parts = 3):\n    every parts:\n        step inner\n"
    assert codes(text + "optimizer X = Some(LookaheadAdamW)\n") == ["E418"]


def test_inner_rules_see_the_p_that_they_find() -> None:
    text = """
wrapper Chain(a, b):
    step a
    g = p
    step b

optimizer Add(n = 1):
    p += n

optimizer Move(lr = 1.0):
    p -= lr * g

optimizer X = Chain(Add, Move(lr = 0.5))
"""
    assert Run(text, [3.0]).step(100.0).p() == 2.0


def test_one_hyperparameter_of_two_inner_rules_must_be_said_of_one() -> None:
    text = PLAIN + "wrapper Chain(a, b):\n    step a\n    step b\n\n"
    assert codes(text + "optimizer X = Chain(Plain, Plain, lr = 2)\n") == ["E208"]
    assert codes(text + "optimizer X(q = 1, r = 2) = Chain(Plain(lr = q), Plain(lr = r))\n") == []


def test_use_fixes_what_it_does_not_bind() -> None:
    text = "optimizer X(rate = 1.0):\n    use SGD(lr = rate, momentum = 0.5)\n"
    rule = rule_of(text)
    assert [hyper.name for hyper in rule.hypers] == ["rate"]
    made = Run(text, [0.0])
    assert [made.step(1.0).p() for _ in range(2)] == [-1.0, -2.5]


def test_use_in_each_branch_may_be_the_same_rule() -> None:
    text = """
optimizer X(lr = 1.0, bias_lr = 2.0):
    when ndim == 1:
        use Lion(lr = bias_lr)
    otherwise:
        use Lion(lr = lr)
"""
    assert [state.key for state in rule_of(text).states] == ["exp_avg", "exp_avg"]
    made = Run(text, [[0.0], [[0.0]]]).step([1.0], [[1.0]])
    assert (made.p(0), made.p(1)) == ([-2.0], [[-1.0]])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("optimizer X = Lookahead\n", "E414"),
        ("optimizer X = Lookahead(k = 3)\n", "E414"),
        ("optimizer X = Lookahead(SGD, SGD)\n", "E209"),
        ("optimizer X = SGD(0.1)\n", "E209"),
        ("optimizer X = norm\n", "E206"),
        ("optimizer X = Nothing(SGD)\n", "E207"),
        ("optimizer X = Lookahead(3)\n", "E206"),
        ("optimizer X = X\n", "E230"),
        ("optimizer X = Lookahead(X)\n", "E230"),
        ("optimizer X = SGD(lr = 1, lr = 2)\n", "E208"),
        ('optimizer X = AdamW(storage = "int4")\n', "E501"),
        ("wrapper X(inner):\n    step outer\n", "E207"),
        ("wrapper X(inner):\n    step inner(0.1)\n", "E209"),
        ("optimizer X(lr = none):\n    p -= lr * g\n", "E308"),
        ("optimizer X(lr = 0.1, eps = lr):\n    p -= lr * g / (abs(g) + eps)\n", "E413"),
        ("optimizer X(lr = 0.1, lr = 0.2):\n    p -= lr * g\n", "E212"),
        ("optimizer X(lr = 0.1):\n    use X\n", "E230"),
        ("def f(x):\n    return f(x)\n\noptimizer X(lr = 0.1):\n    p -= lr * f(g)\n", "E230"),
        ("def f(x):\n    x = 2\n\noptimizer X(lr = 0.1):\n    p -= lr * f(g)\n", "E232"),
    ],
)
def test_compositions_that_cannot_be(text: str, code: str) -> None:
    assert code in codes(text)


def test_rules_that_unfold_without_end_are_given_up_soon() -> None:
    twice = "def f{0}(x):\n    return f{1}(x) + f{1}(2 * x)\n\n"
    doubling = "".join(twice.format(i, i + 1) for i in range(40))
    doubling += "def f40(x):\n    return x\n\n"
    assert codes(doubling + body("p -= lr * f0(g)")) == ["E230"]
    nested = "p -= g\n"
    for name in "abcde":
        lines = "\n".join(f"    {line}" for line in nested.splitlines())
        nested = f"for {name} in range(50):\n{lines}\n"
    assert codes(body(nested + "p -= lr * g")) == ["E230"]


def test_eval_is_the_value_of_p_in_evaluation() -> None:
    text = """
optimizer X(lr = 1.0):
    state average = p
    p -= lr * g
    average = lerp(average, p, 0.5)
    when ndim == 1:
        eval average
"""
    rule = rule_of(text)
    assert rule.evaluated is not None
    made = Run(text, [[8.0], 8.0])
    made.rule = replace(rule, param=rule.evaluated, updates={})
    assert made.step([2.0], 2.0).p(0) == [7.0]
    assert made.p(1) == 6.0  # no eval there: p itself


def test_the_view_of_an_inner_rule_is_that_of_the_whole() -> None:
    text = """
optimizer Inner(lr = 1.0):
    view flat
    p = rows

optimizer X(lr = 1.0):
    use Inner(lr = lr)
"""
    assert Run(text, [torch.zeros(2, 3)]).step(1.0).p() == [[6.0] * 3] * 2


def test_a_transform_says_that_it_keeps_states() -> None:
    (found,) = diagnosed(body("state m\nm = ema(m, g, 0.5)\np -= lr * m"))
    assert found.code == "E209"
    assert found.help == "`ema(x, beta)` keeps what it remembers in a state of its own"
