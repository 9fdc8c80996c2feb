"""Names of a whole file, where nothing is called and nothing is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from optdsl.diagnostics import Sink
from optdsl.frontend.check import check
from optdsl.frontend.resolve import resolve
from optdsl.frontend.scope import make_scope, read_source, standard_library
from optdsl.source import Source

ROOT = Path(__file__).parents[2]


def found(text: str) -> list[tuple[str, str]]:
    """Code and marked text of each diagnostic of `resolve`."""
    sink = Sink()
    resolve(make_scope(Source("a.opt", text), sink), sink)
    return [(each.code, each.span.text) for each in sink.diagnostics]


RULE = "optimizer A(lr = 0.1):\n    p -= lr * g\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(x):\n    return x + y\n", [("E202", "y")]),
        ("def f(x):\n    return x + p\n", [("E204", "p")]),
        ("def f(x):\n    return x + t + rows\n", []),
        ("def f(x):\n    return sqtr(x)\n", [("E207", "sqtr")]),
        ("transform f(x):\n    state m\n    m = m + p + g + x\n    return m\n", []),
        ("def f(x):\n    y = y + x\n    return y\n", [("E202", "y")]),
        ("def f(x):\n    y += x\n    return y\n", [("E202", "y")]),
        ("def f(x, n = k):\n    return x * n\n", [("E202", "k")]),
        ("def f(x):\n    return z * z\n", [("E202", "z")]),  # once
        ("def f(x):\n    for i in range(3):\n        x = x + i\n    return x\n", []),
        ("def f(x):\n    if t > 1:\n        y = 1\n    return y * x\n", []),  # lowering's affair
        ("def f(x):\n    return sum(x, over = workers) + mean(x, axis = none)\n", []),
        ("def f(x):\n    return inf * pi * x\n", []),
        ("def f(x):\n    return A * x\n", [("E202", "A")]),
    ],
)
def test_functions(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(RULE + text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer B(lr = 1, k = 2):\n    p -= lr * g\n", [("W601", "k")]),
        ("optimizer B(lr = 1, k = 2):\n    require k > 1\n    p -= lr * g\n", [("W601", "k")]),
        ("optimizer B(lr = 1, k = 2):\n    every k:\n        p -= lr * g\n", []),
        ("optimizer B(lr = 1, k = 2):\n    state q: [k]\n    p -= lr * g\n", []),
        ("optimizer B(lr = 1, k = 2):\n    use A(lr = lr * k)\n", []),
        ("wrapper W(inner, k = 2):\n    step inner\n", [("W601", "k")]),
        ("wrapper W(inner, k = 2):\n    step inner(lr = k)\n", []),
        ("optimizer C(rate = 1) = A(lr = rate)\n", []),
        ("optimizer C(rate = 1) = A\n", [("W601", "rate")]),
        ("optimizer B(lr = 1):\n    u = g\n    p -= lr * g\n", [("W602", "u")]),
        ("optimizer B(lr = 1):\n    _u = g\n    p -= lr * g\n", []),
        ("optimizer B(lr = 1):\n    a, b = (1, 2)\n    p -= lr * a * g\n", [("W602", "b")]),
        ("optimizer B(lr = 1):\n    state m\n    m = g\n    p -= lr * g\n", []),
        ("optimizer B(lr = 1):\n    u = 0 * g\n    u += g\n    p -= lr * g\n", [("W602", "u")]),
        ("optimizer B(lr = 1):\n    input s: [samples, *p]\n"
         "    p -= lr * sum(s, axis = samples)\n", []),
        ('optimizer B(lr = 1):\n    if name matches "bias":\n        p -= lr * g\n', []),
    ],
)  # fmt: skip
def test_warnings(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(RULE + text) == expected


def test_help_names_what_was_meant() -> None:
    sink = Sink()
    text = RULE + "def f(value):\n    vlaue = 1\n    return valeu\n"
    resolve(make_scope(Source("a.opt", text), sink), sink)
    unused, undefined = sink.diagnostics
    assert (unused.code, undefined.code) == ("W602", "E202")
    assert undefined.help in ("did you mean `value`?", "did you mean `vlaue`?")


@pytest.mark.parametrize(
    "path",
    [
        *sorted((ROOT / "optdsl" / "zoo").glob("*.opt")),
        *sorted((ROOT / "examples").glob("*.opt")),
    ],
    ids=lambda path: path.name,
)
def test_shipped_files_are_clean(path: Path) -> None:
    assert check(read_source(path), path.parent) == ()


def test_other_files_have_no_name_amiss() -> None:
    path = ROOT / "tests" / "zoo" / "variants.opt"
    for scope in (standard_library(), make_scope(read_source(path), Sink(), path.parent)):
        sink = Sink()
        resolve(scope, sink)
        assert sink.diagnostics == ()


def test_lowering_and_names_say_an_error_once() -> None:
    text = "optimizer A(lr = 0.1):\n    p -= lr * gg\n    q = hh(p)\n    p -= q\n"
    codes = [(each.code, each.span.text) for each in check(Source("a.opt", text))]
    assert codes == [("E202", "gg"), ("E207", "hh")]


@pytest.mark.parametrize(
    ("called", "mend"),
    [
        ("sqtr", "did you mean `sqrt`?"),
        ("clip", "write `clamp(x, low, high)`"),
        ("zeropower_via_newtonschulz5", "write `newton_schulz(x)`"),
        ("adamw", "`optdsl show std` lists the standard library"),  # a rule is no function
    ],
)
def test_a_call_of_what_is_no_function_says_what_to_write(called: str, mend: str) -> None:
    sink = Sink()
    text = f"optimizer A():\n    p -= {called}(g)\n"
    resolve(make_scope(Source("a.opt", text), sink), sink)
    assert [(each.code, each.help) for each in sink.diagnostics] == [("E207", mend)]
