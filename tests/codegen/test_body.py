"""Expressions: parentheses where grammar needs them, names that targets do not take."""

from __future__ import annotations

import pytest

from optdsl.codegen.body import RESERVED, fill_text, identifier, strength
from optdsl.codegen.cpu import c_source
from optdsl.codegen.host import Host
from optdsl.schedule.plan import Phase, Store
from tests.plans import Sketch, gradient, kernel, parameter

CASES = [
    ("{0} + {1}", ["a - b", "c * d"], "a - b + c * d"),
    ("{0} - {1}", ["a - b", "c - d"], "a - b - (c - d)"),
    ("{0} * {1}", ["a * b", "c * d"], "a * b * (c * d)"),
    ("{0} / {1}", ["a * b", "c / d"], "a * b / (c / d)"),
    ("{0} * {1}", ["a + b", "-c"], "(a + b) * (-c)"),
    ("{0} - {1}", ["a", "-4.5"], "a - (-4.5)"),
    ("{0} - {1}", ["a", "1e-06"], "a - 1e-06"),
    ("-{0}", ["a - b"], "-(a - b)"),
    ("-{0}", ["-b"], "-(-b)"),
    ("{0} < {1}", ["a + b", "c"], "a + b < c"),
    ("{0} == {1}", ["a < b", "c > d"], "(a < b) == (c > d)"),
    ("{0} < {1}", ["rand(k).to(REAL)", "a"], "rand(k).to(REAL) < a"),
    ("({0} & {1})", ["a < b", "(c | d)"], "((a < b) & (c | d))"),
    ("({0} ? {1} : {2})", ["a", "g * g", "1"], "(a ? g * g : 1)"),
    (
        "({0} ? {1} : {2})",
        ["((a > b) & c)", "(d ? e : f)", "-1"],
        "((a > b) & c ? (d ? e : f) : -1)",
    ),
    ("f({0}, {1})", ["(a & b)", "(1, 2)"], "f(a & b, (1, 2))"),
    ("sqrt({0})", ["a + b"], "sqrt(a + b)"),
    ("fma({2}, {1} - {0}, {0})", ["a - b", "g * g", "s + 1"], "fma(s + 1, g * g - (a - b), a - b)"),
    ("{0}.mT", ["a + b"], "(a + b).mT"),
]


@pytest.mark.parametrize(("text", "operands", "wanted"), CASES)
def test_parentheses(text: str, operands: list[str], wanted: str) -> None:
    assert fill_text(text, operands) == wanted


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("x", 4),
        ("1e-06", 4),
        ("f(a - b)", 4),
        ("f(a - b).to(c)", 4),
        ("(a - b)", 4),
        ("a * b / c", 3),
        ("a * b + c", 2),
        ("-a", 0),
        ("a < b", 0),
        ("(a) < (b)", 0),
        ("a if b else c", 0),
    ],
)
def test_strength(text: str, level: int) -> None:
    assert strength(text) == level


def test_names_of_targets_are_left_alone() -> None:
    assert {"sqrt", "larger", "real", "lambda", "tl", "fma"} <= RESERVED
    assert identifier("lambda") == "lambda_"
    assert identifier("p_at") == "p_at_"
    assert identifier("adam.m") == "adam_m"
    assert identifier("2nd") == "_2nd"


def test_long_chains_of_operations_are_cut_into_lines() -> None:
    """A thousand nested operations: no line is deep, and nothing recurses that far."""
    s = Sketch("Deep", "optimizer Deep():\n    p = p\n")
    value, host = s.load("p"), s.hyper("a")
    for i in range(1000):
        value = s.make("add", s.make("mul", value, i % 3 + 2), s.load("g"))
        host = s.make("sqrt", s.make("add", host, i))
    value = s.make("sub", value, s.scalar(host))
    phase = Phase(stores=(Store("p", value),))
    plan = s.plan({"a": 1.0}, [parameter(), gradient()], [kernel(0, "deep_0", phase)])
    for text in (c_source(plan), *Host(plan).texts()):
        assert max(line.count("(") for line in text.splitlines()) < 20
