"""The gallery: formulas of rules, pages, paths."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import optdsl.zoo
from optdsl.cli import main
from optdsl.diagnostics import Sink
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import make_scope
from optdsl.gallery.drawing import drawable
from optdsl.gallery.pages import Shipped, find, has_pictures, page, read_checks, shipped_rules
from optdsl.gallery.paths import FUNCTIONS, Function, best_path
from optdsl.gallery.pictures import curves, overview, sheet
from optdsl.gallery.training import best_curve, tasks, tasks_for, train
from optdsl.latex import formula, symbol
from optdsl.source import Source

RULES = {each.name: each for each in shipped_rules()}
RUN = [name for name, each in RULES.items() if each.kind != "wrapper"]


def formula_of(text: str) -> str:
    sink = Sink()
    scope = make_scope(Source("rule.opt", text), sink)
    (name,) = scope.own
    rule = lower_rule(name, scope, sink)
    sink.check()
    assert rule is not None
    return formula(rule)


@pytest.mark.parametrize(
    ("body", "update"),
    [
        ("p -= lr * g", r"\eta \, g_t"),
        ("p -= lr * (g - p)", r"\eta \, \left(g_t - \theta_{t-1}\right)"),
        ("p -= (lr * g)^2", r"\left(\eta \, g_t\right)^2"),
        ("p -= lr * g / norm(g)", r"\frac{\eta \, g_t}{\left\lVert g_t \right\rVert}"),
        (
            "p -= dot(p, g) * sign(g)",
            r"\left\langle \theta_{t-1}, g_t \right\rangle \, \operatorname{sign}\left(g_t\right)",
        ),
        ("p -= g - (p - lr)", r"\left(g_t - \left(\theta_{t-1} - \eta\right)\right)"),
        ("p -= -(p + g) * lr", r"\left(-\left(\theta_{t-1} + g_t\right)\right) \, \eta"),
        ("p -= mean(g^2, axis = 1)", r"\operatorname{mean}_{\text{columns}}\left(g_t^2\right)"),
        ("p -= lr * (g @ g.T) @ g", r"\eta \, g_t \, g_t^\top \, g_t"),
        ("p -= 1e-8 * g", r"10^{-8} \, g_t"),
    ],
)  # fmt: skip
def test_expressions(body: str, update: str) -> None:
    line = formula_of(f"optimizer R(lr = 0.1):\n    {body}\n")
    assert line == rf"\theta_t &= \theta_{{t-1}} - {update}"


def test_names_have_lines_and_states_have_indices() -> None:
    text = formula_of(
        "optimizer R(lr = 0.1, beta2 = 0.9):\n    state v\n    v = lerp(v, g^2, 1 - beta2)\n"
        "    u = g / (sqrt(v) + 1)\n    p -= lr * u / norm(u)\n"
    )
    assert text.split(" \\\\\n") == [
        r"v_{t} &= \beta_{2} \, v_{t-1} + \left(1 - \beta_{2}\right) \, g_t^2",
        r"u &= \frac{g_t}{\sqrt{v_{t}} + 1}",
        r"\theta_t &= \theta_{t-1} - \frac{\eta \, u}{\left\lVert u \right\rVert}",
    ]


def test_what_depends_on_t_is_a_case_and_an_option_is_not() -> None:
    text = formula_of(
        "optimizer R(lr = 0.1, flip = false):\n    if flip:\n        g = -g\n"
        "    every 5:\n        p -= lr * g\n"
    )
    assert r"\begin{cases}" in text and r"t \bmod 5 = 0" in text
    assert "flip" not in text


@pytest.mark.parametrize(
    ("name", "tex"),
    [
        ("lr", r"\eta"),
        ("beta1", r"\beta_{1}"),
        ("m", "m"),
        ("v_2", "v_{2}"),
        ("max_norm", r"\mathrm{max\_norm}"),
        ("weight_decay", r"\lambda"),
    ],
)
def test_symbols(name: str, tex: str) -> None:
    assert symbol(name) == tex


@pytest.mark.parametrize("name", RUN)
def test_every_rule_has_a_formula_that_closes(name: str) -> None:
    rule = RULES[name].rule
    assert rule is not None
    text = formula(rule)
    assert text.count("{") == text.count("}")
    assert text.count(r"\left") - text.count(r"\leftarrow") == text.count(r"\right")
    assert len(re.findall(r"\\begin{cases}", text)) == len(re.findall(r"\\end{cases}", text))
    assert all("&=" in line for line in text.split(" \\\\\n"))
    assert rule.param is None or r"\theta_t &=" in text


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_page(name: str) -> None:
    text = page(RULES[name])
    assert text.startswith(f"# {name}\n")
    assert "```opt\n" in text
    assert text.count("```") % 2 == 0


def test_functions_are_no_rules() -> None:
    assert find("norm") is None and find("Nothing") is None
    lookahead = RULES["Lookahead"]
    assert isinstance(lookahead, Shipped) and lookahead.kind == "wrapper"


def test_the_command_writes_all_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "pages", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "zoo.md").read_text()
    for name in RULES:
        assert f"[{name}](zoo/{name}.md)" in text
        assert (tmp_path / "zoo" / f"{name}.md").read_text() == page(RULES[name])
    assert "overview.png" not in text


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.name)
def test_gradients_are_those_of_the_functions(function: Function) -> None:
    x, y = function.start
    step = 1e-6
    dx, dy = function.gradient(x, y)
    assert dx == pytest.approx(
        (function.value(x + step, y) - function.value(x - step, y)) / (2 * step), rel=1e-4
    )
    assert dy == pytest.approx(
        (function.value(x, y + step) - function.value(x, y - step)) / (2 * step), rel=1e-4
    )
    assert function.value(*map(float, function.best)) == pytest.approx(0, abs=1e-9)
    assert function.gradient(*map(float, function.best)) == pytest.approx((0, 0), abs=1e-9)


def test_a_path_goes_down_and_is_drawn(tmp_path: Path) -> None:
    paths = {each.name: best_path(optdsl.zoo.AdamW, each, steps=40) for each in FUNCTIONS}
    for function in FUNCTIONS:
        path = paths[function.name]
        assert len(path.points) == 41
        assert path.value < function.value(*function.start)
        assert path.value == function.value(*path.points[-1])
        assert math.isfinite(path.value)
    sheet("AdamW", paths, tmp_path / "sheet.png")
    overview({"AdamW": paths["Beale"]}, tmp_path / "overview.png")
    for name in ("sheet", "overview"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


# ---------------------------------------------------------------- training


def test_tasks_are_learnt_and_drawn(tmp_path: Path) -> None:
    found = {task.name: train(optdsl.zoo.AdamW, task, 1e-2, 30) for task in tasks()}
    assert list(found) == ["digits", "characters"]
    for curve in found.values():
        assert len(curve.losses) == 30
        assert curve.last < 0.8 * curve.losses[0]
    curves("AdamW", found, found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_sweep_leaves_out_what_diverges() -> None:
    (digits, _) = tasks()
    best = best_curve(optdsl.zoo.SGD, digits, steps=10)
    assert math.isfinite(best.last)
    assert best.last <= train(optdsl.zoo.SGD, digits, 1e-3, 10).last


@pytest.mark.parametrize("name", ["ClipGlobal", "DeltaSGD", "AdaptiveK"])
def test_wrappers_and_rules_that_take_samples_or_evaluate_the_model_are_drawn(name: str) -> None:
    _, rule = drawable(RULES[name])
    (digits, _) = tasks()
    rate = 0.01 if "lr" in dict(rule.program.hypers) else None
    losses = train(rule, digits, rate, 10).losses
    assert losses[-1] < losses[0]
    assert len(best_path(rule, FUNCTIONS[1], steps=5).points) == 6


@pytest.mark.parametrize(
    "name", ["AdaFisher", "GradNormSmooth", "QAS", "Sophia", "SophiaG", "TrActSGD"]
)
def test_rules_that_ask_for_more_are_drawn(name: str) -> None:
    _, rule = drawable(RULES[name])
    (task, *_) = tasks_for(rule)
    rate = 0.01 if "lr" in dict(rule.program.hypers) else None
    losses = train(rule, task, rate, 30).losses
    assert losses[-1] < losses[0]
    assert len(best_path(rule, FUNCTIONS[1], steps=5).points) == 6


def test_a_run_is_the_same_each_time() -> None:
    (digits, _) = tasks()
    assert train(optdsl.zoo.Lion, digits, 1e-3, 5) == train(optdsl.zoo.Lion, digits, 1e-3, 5)


@pytest.mark.parametrize("name", RULES)
def test_the_committed_pages_are_of_these_rules(name: str) -> None:
    folder = Path(__file__).parents[2] / "docs" / "zoo"
    checks = read_checks(folder).get(name)
    assert (folder / f"{name}.md").read_text("utf-8") == page(
        RULES[name], has_pictures(folder, name), checks
    ), "run `optdsl zoo pages`"


def test_every_rule_has_pictures() -> None:
    folder = Path(__file__).parents[2] / "docs" / "zoo"
    assert not [name for name in RULES if not has_pictures(folder, name)]


def test_the_committed_table_has_no_gap() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text("utf-8").splitlines()
    rows = [re.split(r"(?<!\\)\|", each)[1:-1] for each in lines if each.startswith("| [")]
    assert len(rows) == len(RULES)
    gaps = [row[0] for row in rows if len(row) != 9 or not all(map(str.strip, row))]
    assert not gaps, "run `pytest tests/zoo --checked`, then `optdsl zoo pages`"
