"""Sentences 18 to 22: what functions and operators give, on tensors and on the host."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.semantics.running import Run, body, codes, diagnosed, double, rule_of

NAN, INF = math.nan, math.inf


def on_tensors(text: str, g: Any, p: Any = None) -> Any:
    """What p becomes where it is assigned `text`."""
    start = double(g) * 0 if p is None else p
    start = torch.nan_to_num(double(start))
    return Run(body(f"p = {text}"), [start]).step(g).p()


def on_host(text: str, **hypers: float) -> float:
    """A host expression of hyperparameters, so that nothing is folded."""
    signature = ", ".join(f"{name} = 1.5" for name in hypers) or "unused = 1.0"
    made = Run(body(f"p = {text}", signature), [0.0], hypers=[hypers])
    found: float = made.step(0.0).p()
    return found


def same(found: Any, wanted: Any) -> bool:
    return bool(
        torch.equal(
            torch.nan_to_num(double(found), nan=7e77), torch.nan_to_num(double(wanted), nan=7e77)
        )
    )


# ---------------------------------------------------------------- functions


@pytest.mark.parametrize(
    ("text", "g", "wanted"),
    [
        ("min(g, 2)", [1.0, 3.0, NAN], [1.0, 2.0, NAN]),
        ("max(2, g)", [1.0, 3.0, NAN], [2.0, 3.0, NAN]),
        ("min(g, 2 * g, 0 - g)", [1.0, -3.0, NAN], [-1.0, -6.0, NAN]),
        ("min(g)", [1.0, -3.0, 2.0], [-3.0] * 3),
        ("max(g)", [1.0, NAN, 2.0], [NAN] * 3),
        ("min(g)", [1.0, NAN, 2.0], [NAN] * 3),
        ("clamp(g, -1, 1)", [-5.0, 0.5, 5.0, NAN, -INF], [-1.0, 0.5, 1.0, NAN, -1.0]),
        ("sign(g)", [-2.0, 0.0, 3.0, NAN], [-1.0, 0.0, 1.0, 0.0]),
        ("where(g > 0, 1, 0)", [-1.0, 0.0, 2.0, NAN], [0.0, 0.0, 1.0, 0.0]),
        ("where(isfinite(g), g, 0)", [1.0, INF, NAN], [1.0, 0.0, 0.0]),
        ("lerp(g, 10, 0.25)", [2.0, 4.0], [4.0, 5.5]),
        ("fma(g, g, 1)", [2.0, 3.0], [5.0, 10.0]),
        ("floor(g) + 10 * ceil(g)", [1.5, -1.5], [21.0, -12.0]),
        ("round(g)", [0.5, 1.5, 2.5, -0.5], [0.0, 2.0, 2.0, -0.0]),
        ("abs(g) + sqrt(abs(g))", [-4.0, 9.0], [6.0, 12.0]),
        ("sum(g)", [1.0, 2.0, 4.0], [7.0] * 3),
        ("mean(g)", [1.0, 2.0, 6.0], [3.0] * 3),
        ("norm(g)", [3.0, -4.0], [5.0, 5.0]),
        ("norm(g, 1)", [3.0, -4.0], [7.0, 7.0]),
        ("norm(g, inf)", [3.0, -4.0], [4.0, 4.0]),
        ("norm(g, 3)^3", [3.0, -4.0], [91.0, 91.0]),
        ("rms(g)", [1.0, -7.0], [5.0, 5.0]),
        ("dot(g, 2 * g)", [1.0, 3.0], [20.0, 20.0]),
        ("var(g)", [1.0, 3.0], [2.0, 2.0]),
        ("var(g, ddof = 0)", [1.0, 3.0], [1.0, 1.0]),
        ("std(g)", [1.0, 3.0, 5.0], [2.0] * 3),
        ("std(g)", [4.0], [NAN]),
    ],
)
def test_functions(text: str, g: list[float], wanted: list[float]) -> None:
    found = double(on_tensors(text, g))
    torch.testing.assert_close(found, double(wanted), rtol=1e-14, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["exp", "log", "sin", "cos", "tanh", "sqrt"])
def test_functions_of_torch(name: str) -> None:
    g = torch.linspace(0.1, 3, 20, dtype=torch.float64)
    assert on_tensors(f"{name}(g)", g) == getattr(torch, name)(g).tolist()
    assert on_host(f"{name}(x)", x=0.7) == pytest.approx(getattr(math, name)(0.7), rel=1e-15)


def test_axes_of_a_matrix() -> None:
    g = [[1.0, 2.0, 6.0], [3.0, 4.0, 5.0]]
    assert on_tensors("mean(g, axis = 1)", g) == [[3.0] * 3, [4.0] * 3]
    assert on_tensors("max(g, axis = 0)", g) == [[3.0, 4.0, 6.0]] * 2
    assert on_tensors("std(g, axis = 0, ddof = 0)", g) == [[1.0, 1.0, 0.5]] * 2
    assert on_tensors("sum(mean(g, axis = 1), axis = 0)", g) == [[7.0] * 3] * 2
    assert on_tensors("norm(g, axis = 1, over = all)^2", g) == [
        [pytest.approx(41.0)] * 3,
        [pytest.approx(50.0)] * 3,
    ]


# ---------------------------------------------------------------- operators


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("-x^2", -9.0),
        ("(-x)^2", 9.0),
        ("2^x^2", 2.0**9),
        ("2^-x", 0.125),
        ("-x^-1", -1 / 3),
        ("7 // x", 2.0),
        ("-7 // x", -3.0),
        ("-7 % x", 2.0),
        ("7 % -x", -2.0),
        ("7 / x", 7 / 3),
        ("1 - x - 1", -3.0),
        ("12 / x / 2", 2.0),
        ("1 + x * 2", 7.0),
        ("10 - 2 * x^2 / 3", 4.0),
    ],
)
def test_operators_bind_as_in_mathematics(text: str, wanted: float) -> None:
    assert on_host(text, x=3.0) == wanted
    assert on_tensors(text.replace("x", "g"), 3.0) == wanted


@pytest.mark.parametrize("n", range(-4, 5))
def test_small_powers_are_multiplications(n: int) -> None:
    rule = rule_of(body(f"p = g^{n}"))
    ops = {value.op for value in rule.builder.table.values()}
    assert "pow" not in ops
    power = 1.0
    for _ in range(abs(n)):
        power *= 1.7
    assert on_tensors(f"g^{n}", [1.7]) == [1 / power if n < 0 else power]
    assert on_tensors("sum(g^0)", [1.7, 0.0]) == [2.0, 2.0]


def test_comparisons_chain_and_are_worked_out_once() -> None:
    assert on_host("where(1 < x <= 3, 1, 0)", x=3.0) == 1.0
    assert on_host("where(1 < x < 3, 1, 0)", x=3.0) == 0.0
    text = "p = where(0 < ema(g, 0.5) < 2, 1, 0)"
    assert len(rule_of(body(text)).states) == 1
    assert on_tensors("where(not (g > 0 and g < 2) or g == 1, 1, 0)", [0.0, 1.0, 1.5]) == [
        1.0,
        1.0,
        0.0,
    ]


@pytest.mark.parametrize(
    ("text", "hypers", "wanted"),
    [
        ("x / y", {"x": 1.0, "y": 0.0}, INF),
        ("x / y", {"x": -1.0, "y": 0.0}, -INF),
        ("x / y", {"x": 0.0, "y": 0.0}, NAN),
        ("x % y", {"x": 1.0, "y": 0.0}, NAN),
        ("x // y", {"x": 1.0, "y": 0.0}, INF),
        ("sqrt(x)", {"x": -1.0}, NAN),
        ("log(x)", {"x": 0.0}, -INF),
        ("log(x)", {"x": -1.0}, NAN),
        ("exp(x)", {"x": 1000.0}, INF),
        ("x^y", {"x": -8.0, "y": 1 / 3}, NAN),
        ("x^y", {"x": 10.0, "y": 400.0}, INF),
        ("x^y", {"x": 0.0, "y": -1.0}, INF),
        ("x * y", {"x": 1e200, "y": 1e200}, INF),
        ("sin(x)", {"x": INF}, NAN),
        ("floor(x)", {"x": INF}, INF),
        ("min(x, y)", {"x": NAN, "y": 1.0}, NAN),
        ("max(x, y)", {"x": 1.0, "y": NAN}, NAN),
        ("sign(x)", {"x": -0.0}, 0.0),
    ],
)
def test_host_arithmetic_is_that_of_doubles(
    text: str, hypers: dict[str, float], wanted: float
) -> None:
    assert same(on_host(text, **hypers), wanted)


def test_powers_of_whole_numbers_end() -> None:
    assert on_tensors("9^9^9^9", [0.0]) == [INF]
    x = body("x = k\n" + "x = x * x\n" * 40 + "p = x", "k = 3")
    assert Run(x, [0.0]).step(0.0).p() == INF
    assert Run(body("p = k^t", "k = 7"), [0.0]).step(0.0).p() == 7.0


def test_a_product_of_three_matrices_needs_parentheses() -> None:
    assert codes(body("p -= lr * (g * g @ g.T @ g)")) == ["E310"]
    assert codes(body("p -= lr * (g / p @ g.T @ g)")) == ["E310"]
    assert codes(body("p -= lr * ((g * g) @ g.T @ g)")) == []
    assert codes(body("p -= lr * 2 * (3 * g @ g.T @ g)")) == []
    assert codes(body("p -= lr * g * (g @ g.T @ g)")) == []


def test_matrix_products() -> None:
    g = double([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    assert on_tensors("g @ g.T @ g", g) == (g @ g.T @ g).tolist()
    assert on_tensors("inverse(g @ g.T) @ g", g) == torch.linalg.inv(g @ g.T).matmul(g).tolist()
    assert on_tensors("solve(g @ g.T, g)", g) == torch.linalg.solve(g @ g.T, g).tolist()
    assert on_tensors("triu(g @ g.T) @ g", g) == (torch.triu(g @ g.T) @ g).tolist()
    assert on_tensors("diag(g @ g.T) * g", g) == (torch.diag(g @ g.T)[:, None] * g).tolist()
    assert on_tensors("trace(g @ g.T)", g) == [[15.0] * 3] * 2
    assert on_tensors("unwide(wide(g)) + untall(tall(g))", g) == (2 * g).tolist()
    assert on_tensors("eye(rows) @ g", g) == g.tolist()


def test_wide_and_tall_turn_by_shape() -> None:
    text = body(
        "p = sum(g * unwide(eye(short) @ wide(g))) + 100 * size(wide(g), 0) + size(tall(g), 0)"
    )
    for shape in ((2, 3), (3, 2)):
        made = Run(text, [torch.zeros(shape)]).step(1.0)
        assert made.p()[0][0] == 6 + 200 + 3


def test_newton_schulz_and_whiten_make_singular_values_alike() -> None:
    torch.manual_seed(0)
    for shape in ((4, 7), (7, 4)):
        g = torch.randn(shape, dtype=torch.float64)
        orthogonal = double(on_tensors("unwide(newton_schulz(wide(g), 10))", g))
        assert (
            0.6
            < torch.linalg.svdvals(orthogonal).min()
            <= torch.linalg.svdvals(orthogonal).max()
            < 1.3
        )
        white = double(on_tensors("whiten(g, 60, 0.5)", g))
        u, _, v = torch.linalg.svd(g, full_matrices=False)
        torch.testing.assert_close(white, u @ v, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- the matrix view


def test_every_tensor_is_a_matrix() -> None:
    text = body("p = 1000 * ndim + 100 * rows + 10 * cols + numel")
    made = Run(text, [0.0, [0.0] * 3, torch.zeros(2, 3), torch.zeros(2, 2, 2)])
    made.step(0.0, 0.0, 0.0, 0.0)
    found = [member.p.flatten()[0].item() for member in made.members]
    assert found == [100 + 10 + 1, 1000 + 300 + 10 + 3, 2000 + 200 + 30 + 6, 3000 + 200 + 40 + 8]


def test_view_last_has_the_last_two_axes_and_a_batch() -> None:
    text = body("view last\np = 100 * rows + 10 * cols + mean(g, axis = 1) + sum(g)")
    made = Run(text, [torch.zeros(2, 2, 3), torch.zeros(4)])
    g = torch.arange(12, dtype=torch.float64).reshape(2, 2, 3)
    made.step(g, 1.0)
    assert torch.equal(made.members[0].p, 230 + g.mean(-1, keepdim=True).expand(2, 2, 3) + g.sum())
    assert made.p(1) == [400 + 10 + 1 + 4] * 4


def test_view_last_multiplies_matrix_by_matrix() -> None:
    made = Run(body("view last\np = (g @ g.T) @ g"), [torch.zeros(2, 2, 3)])
    g = torch.randn(2, 2, 3, dtype=torch.float64)
    wanted = torch.stack([x @ x.T @ x for x in g])
    torch.testing.assert_close(made.step(g).members[0].p, wanted, rtol=1e-13, atol=1e-13)


def test_view_flat_is_one_column() -> None:
    made = Run(body("view flat\np = 100 * rows + 10 * cols + sum(g.T @ g)"), [torch.zeros(2, 2)])
    assert made.step(2.0).p() == [[426.0, 426.0]] * 2


def test_an_empty_parameter_contributes_nothing() -> None:
    text = body("p = 100 * sum(g, over = all) + max(g, over = all) + mean(g, over = all)")
    made = Run(text, [torch.zeros(0), [0.0, 0.0], torch.zeros(0, 3)])
    made.step(0.0, [3.0, 1.0], 0.0)
    assert made.p(1) == [405.0, 405.0]
    assert made.p(0) == []
    state = Run(body("state m: [] = 1\nm = mean(g)\np -= m"), [torch.zeros(0, 3)]).step(0.0)
    assert math.isnan(state.state("m")[0][0])


def test_rows_of_an_empty_matrix() -> None:
    text = body("state m: [1, cols]\nm += sum(g, axis = 0)\np -= m")
    assert Run(text, [torch.zeros(0, 3)]).step(0.0).state("m") == [[0.0] * 3]


# ---------------------------------------------------------------- numbers that go wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g / sqrt(mean(g^2) + eps^2)", ["W603"]),
        ("g * 1e-45", ["W603"]),
        ("g * 1e39", ["W603"]),
        ("g * 1e-37", []),
        ("g / (abs(g) + eps)", []),
        ("g * 0", []),
        ("max(g, -inf)", []),
        ("g * (1e-45 * 1e10)", []),
    ],
)
def test_constants_that_float32_cannot_hold(text: str, expected: list[str]) -> None:
    assert [
        c for c in codes(body(f"p -= lr * {text}", "lr = 1.0, eps = 1e-30")) if c != "W601"
    ] == expected


@pytest.mark.parametrize(
    "divisor",
    [
        "norm(g)",
        "g",
        "v",
        "sqrt(v)",
        "mean(g^2)",
        "(norm(g) * eps)",
        "(g^2 - eps)",
        "off",
        "(t - 1)",
        "min(norm(g), eps)",
    ],
)
def test_a_divisor_that_may_be_zero_is_warned_of(divisor: str) -> None:
    (found,) = [each for each in diagnosed(dividing(divisor)) if each.code != "W601"]
    assert found.code == "W604"
    assert found.span.text in divisor or found.span.text == f"lr * g / {divisor}"


@pytest.mark.parametrize(
    "divisor",
    [
        "(norm(g) + eps)",
        "(sqrt(v) + eps)",
        "sqrt(v + eps)",
        "max(norm(g), eps)",
        "(1 - beta^t)",
        "sqrt(debias(v, beta) + eps)",
        "(sqrt(debias(v, beta)) + eps)",
        "2",
        "rows",
        "numel",
        "lr",
        "exp(g)",
        "(1 + g^2)",
        "sqrt(t)",
        "mean(g^2 + eps)",
        "where(norm(g) > 0, norm(g), 1)",
        "s",
    ],
)
def test_a_safe_divisor_is_not(divisor: str) -> None:
    assert [c for c in codes(dividing(divisor)) if c != "W601"] == []


def dividing(divisor: str) -> str:
    text = f"""
state v, s = 1
v = lerp(v, g^2, 1 - beta)
s += v
p -= lr * g / {divisor} + 0 * s
"""
    return body(text, "lr = 1.0, eps = 1e-8, beta = 0.9, off = 0")


@pytest.mark.parametrize(
    "text",
    [
        "p -= lr * where(norm(p) > 0 and norm(g) > 0, norm(p) / norm(g), 1) * g",
        "if norm(g) > 0:\n    g = g / norm(g)\np -= lr * g",
        "g *= min(1, lr / norm(g, over = all))\np -= g",
        "p -= lr * where(norm(g) != 0, g / dot(g, g), 0)",
    ],
)
def test_a_division_behind_a_condition_is_not_warned_of(text: str) -> None:
    assert codes(body(text)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p -= lr * (g - mean(g, axis = 1))", ["W605"]),
        ("if t > 1:\n    g -= mean(g, axis = 1)\np -= lr * g", ["W605"]),
        ("when ndim == 2:\n    p -= lr * (g - mean(g, axis = 1))", []),
        ("if ndim >= 2:\n    g -= mean(g, axis = 0)\np -= lr * g", []),
        ("p -= lr * where(ndim == 2, norm(g, axis = 1), norm(g)) * g", []),
        ('when name matches "weight":\n    p -= lr * sum(g, axis = 0)', []),
        ("p -= lr * g * norm(g)", []),
    ],
)
def test_an_axis_without_a_look_at_the_dimensions_is_warned_of(
    text: str, expected: list[str]
) -> None:
    assert codes(body(text)) == expected
