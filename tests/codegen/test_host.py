"""Generated host functions: values, refusals, what they read."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from optdsl import hostmath
from optdsl.codegen.host import Host
from optdsl.codegen.literals import layout, literal, raw, tuple_of
from optdsl.codegen.module import static_hypers
from optdsl.ir.nodes import LoopBody, Value
from optdsl.runtime.program import require
from optdsl.schedule.plan import Phase, Plan, Store
from optdsl.types import DType, Instances, Place, Shape, Type
from tests.plans import PLANS, Sketch, gradient, kernel, parameter
from tests.rules import shipped_plans

HOST = Type(Instances.GROUP, Shape(), Place.HOST, DType.REAL)


def functions(plan: Plan) -> tuple[Host, dict[str, Any]]:
    host = Host(plan)
    names: dict[str, Any] = {**vars(hostmath), "require": require}
    names |= {"inf": math.inf, "nan": math.nan}
    exec("\n\n\n".join(host.texts()), names)
    return host, names


def environment(**facts: Any) -> SimpleNamespace:
    known = {"t": 1, "steps": 1, "g_scale": 1.0, "rows": 4, "cols": 6, "numel": 24, "ndim": 2}
    known |= {"batch": 1}
    return SimpleNamespace(**{"first": lambda state: False, "attributes": {}, **known, **facts})


def test_scalar_rows_are_the_rule_s_numbers() -> None:
    plan = PLANS["adamw"]()
    host, names = functions(plan)
    h = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}
    row = names[host.scalars[0]](h, environment(t=3))
    wanted = [-(1e-2 * 0.1), 1 - 0.8, 1 - 0.99, 1 - 0.8**3, 1 - 0.99**3, 1e-6, 1e-2]
    assert list(row) == wanted
    assert host.reads == {"t"}


def test_decide_follows_the_conditions() -> None:
    plan = PLANS["shared"]()
    _, names = functions(plan)
    assert [names["decide"]({}, environment(t=t)) for t in (1, 2, 3, 4, 6)] == [0, 0, 1, 0, 1]


def test_refusals_name_rule_text_and_values() -> None:
    _, names = functions(shipped_plans()["AdamW"]())
    good = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    names["check"](good)
    with pytest.raises(ValueError, match=r"AdamW requires lr >= 0; got lr = -1"):
        names["check"]({**good, "lr": -1})
    with pytest.raises(ValueError, match=r"requires 0 <= beta2 < 1; got betas = \(0.9, 1.5\)"):
        names["check"]({**good, "betas": (0.9, 1.5)})
    with pytest.raises(ValueError, match="lr = nan"):
        names["check"]({**good, "lr": math.nan})


def test_strings_and_attributes() -> None:
    _, names = functions(shipped_plans()["Muon"]())
    h = {hyper.name: hyper.default for hyper in shipped_plans()["Muon"]().rule.hypers}
    names["check"](h)
    with pytest.raises(ValueError, match="adjust_lr_fn = 'other'"):
        names["check"]({**h, "adjust_lr_fn": "other"})
    matrix = environment(attributes={"aux": False})
    assert names["decide"](h, matrix) != names["decide"](h, environment(attributes={"aux": True}))


def test_first_values_of_states() -> None:
    _, names = functions(PLANS["shared"]())
    assert names["fill"]("best", {}, environment()) == math.inf
    assert names["fill"]("slow", {}, environment()) == 0.0


def scalars(*values: Value, sketch: Sketch) -> tuple[list[Any], str]:
    """What the values come to with a = 2.0, b = -3.0, t = 5, and the functions' text."""
    p = sketch.load("p")
    total = p
    for value in values:
        total = sketch.make("add", total, sketch.scalar(value))
    buffers = [parameter(), gradient()]
    phase = Phase(stores=(Store("p", total),))
    plan = sketch.plan({"a": 2.0, "b": -3.0}, buffers, [kernel(0, "k", phase)])
    host, names = functions(plan)
    row = names[host.scalars[0]]({"a": 2.0, "b": -3.0}, environment(t=5))
    return list(row), "\n".join(host.texts())


def test_every_host_operation() -> None:
    s = Sketch("Host", "optimizer Host():\n    p = p\n")
    a, b, t = s.hyper("a"), s.hyper("b"), s.host("t", DType.INT)
    cases = [
        (s.make("sub", a, s.make("sub", b, t)), 2.0 - (-3.0 - 5)),
        (s.make("div", a, s.make("mul", b, t)), 2.0 / (-3.0 * 5)),
        (s.make("div", a, 0), math.inf),
        (s.make("neg", s.make("add", a, b)), 1.0),
        (s.make("pow", a, s.make("neg", t)), 2.0**-5),
        (s.make("sqrt", b), math.nan),
        (s.make("mod", t, 3), 2),
        (s.make("floordiv", b, 2), -2.0),
        (s.make("max", a, s.make("abs", b)), 3.0),
        (s.make("where", s.make("lt", a, b), a, b), -3.0),
        (s.library("choose", s.make("gt", a, b), a, b, type=HOST), 2.0),
        (s.make("and", s.make("gt", t, 1), s.make("not", s.make("eq", t, 5))), False),
        (s.make("lerp", a, b, 0.25), 0.75),
        (s.make("isfinite", s.make("div", 1, 0)), False),
        (s.make("exp", 1000), math.inf),
    ]
    found, _ = scalars(*(value for value, _ in cases), sketch=s)
    for got, (value, wanted) in zip(found, cases, strict=True):
        assert got == wanted or (got != got and wanted != wanted), value.op


def test_common_parts_are_written_once() -> None:
    s = Sketch("Host", "optimizer Host():\n    p = p\n")
    power = s.make("pow", s.hyper("a"), s.host("t", DType.INT))
    found, text = scalars(s.make("add", power, 1), s.make("mul", power, power), sketch=s)
    assert found == [33, 1024]
    assert text.count("power(") == 1


def test_host_loops() -> None:
    s = Sketch("Host", "optimizer Host():\n    p = p\n")
    x = s.leaf("loop_arg", HOST, "x", loop=1, index=0)
    new = s.make("mul", x, s.hyper("a"))
    body = LoopBody((x,), (new,), s.make("gt", new, 10))
    loop = s.library("loop", s.host("t", DType.INT), s.value(1.0), type=HOST, body=body)
    found, _ = scalars(s.library("loop_result", loop, type=HOST, index=0), sketch=s)
    assert found == [16.0]  # 2, 4, 8, 16: the first above 10, before five passes are over


def test_names_that_python_takes() -> None:
    s = Sketch("Host", "optimizer Host():\n    p = p\n")
    value = s.make("add", s.hyper("a"), 1, name="lambda")
    other = s.make("mul", value, value, name="sqrt")
    found, text = scalars(value, other, s.make("sqrt", other), sketch=s)
    assert found == [3.0, 9.0, 3.0]
    assert "lambda_ = " in text


# ---------------------------------------------------------------- static hyperparameters


@pytest.mark.parametrize(
    ("rule", "static"), [("Adam", ["amsgrad"]), ("AdamW", ["amsgrad"]), ("SGD", []), ("Muon", [])]
)
def test_static_hyperparameters(rule: str, static: list[str]) -> None:
    assert static_hypers(shipped_plans()[rule]()) == static


# ---------------------------------------------------------------- literals


@pytest.mark.parametrize(
    "value",
    ["a", 'say "x"', "it's", "a\\b", "both ' and \"", "line\nbreak", "ü", 1, 2.5, True, None],
)
def test_literals_read_back(value: object) -> None:
    assert eval(literal(value)) == value
    assert eval(literal((value,))) == (value,)


def test_layout_breaks_only_what_does_not_fit() -> None:
    short = tuple_of(["1", "2"])
    assert layout(short, 0) == "(1, 2)"
    assert layout(tuple_of(["1"]), 0) == "(1,)"
    long = tuple_of([f'"{"x" * 40}"', short, f'"{"y" * 60}"'])
    lines = layout(long, 10).splitlines()
    assert lines[0] == "(" and lines[2] == "    (1, 2)," and lines[-1] == ")"
    assert eval(layout(long, 10)) == ("x" * 40, (1, 2), "y" * 60)


@pytest.mark.parametrize("text", ["plain\n", 'with """ inside\n', "\\ at the end\\", 'ends in "'])
def test_raw_strings_read_back(text: str) -> None:
    assert eval(raw(text)) == text


def test_reads_say_what_is_read() -> None:
    host, _ = functions(shipped_plans()["Muon"]())
    assert host.reads == {"t", "rows", "cols", "ndim", "attributes"}
