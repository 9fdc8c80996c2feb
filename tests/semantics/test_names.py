"""Sentences 24 and 25: where a name is looked for, what hides what, what is declared how."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from optdsl.diagnostics import Sink
from optdsl.frontend.declarations import CLASS_ARGUMENTS
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import make_scope, read_source
from optdsl.interpreter.run import Run as Evaluation
from optdsl.runtime.optimizer import Optimizer
from tests.semantics.running import Run, body, codes, diagnosed

SIZES = ("rows", "cols", "short", "long", "numel", "ndim")
RESERVED = ("p", "g", "t", "steps", *SIZES, "name", "workers", "rank")


def test_a_local_comes_before_a_function_and_a_file_before_the_library() -> None:
    text = "def norm(x):\n    return 100 * sum(x)\n\n" + body("rms = norm(g)\np = rms")
    assert Run(text, [[1.0, 2.0]]).step([1.0, 2.0]).p() == [300.0, 300.0]


def test_the_library_keeps_to_its_own_names() -> None:
    """rms of the library calls the library's mean, not the file's."""
    text = "def mean(x):\n    return 7\n\n" + body("p = rms(g) + mean(g)")
    assert Run(text, [[3.0, 4.0]]).step([3.0, 4.0]).p() == [12.5**0.5 + 7] * 2


def test_a_rule_of_the_file_comes_before_a_shipped_one() -> None:
    text = "optimizer SGD(lr = 1.0):\n    p = 42\n\noptimizer X(lr = 1.0):\n    use SGD(lr = lr)\n"
    assert Run(text, [0.0]).step(1.0).p() == 42.0


def test_imports_are_searched_in_their_order_before_the_library(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.opt").write_text(
        "def f(x):\n    return 1 * x\n\ndef ema(x):\n    return 5 * x\n"
    )
    (tmp_path / "sub" / "b.opt").write_text(
        'import "c.opt"\n\ndef f(x):\n    return 2 * x\n\ndef h(x):\n    return inner(x) + f(x)\n'
    )
    (tmp_path / "sub" / "c.opt").write_text("def inner(x):\n    return 10 * x\n")
    main = tmp_path / "main.opt"
    main.write_text('import "a.opt"\nimport "sub/b.opt"\n\n' + body("p = f(g) + h(g) + ema(g)"))
    sink = Sink()
    rule = lower_rule("X", make_scope(read_source(main), sink, tmp_path), sink)
    sink.check()
    made = Run(body("p = g"), [0.0])
    assert rule is not None
    made.rule = rule
    assert made.step(1.0).p() == 1 + (10 + 2) + 5


@pytest.mark.parametrize("kind", ["cycle", "missing", "folder", "encoding"])
def test_imports_that_cannot_be(kind: str, tmp_path: Path) -> None:
    main = tmp_path / "main.opt"
    other = {"cycle": "main.opt", "missing": "no.opt", "folder": ".", "encoding": "bytes.opt"}[kind]
    (tmp_path / "bytes.opt").write_bytes(b"\xff\xfe")
    main.write_text(f'import "{other}"\n\n' + body("p -= lr * g"))
    sink = Sink()
    make_scope(read_source(main), sink, tmp_path)
    assert {each.code for each in sink.diagnostics} == {"E211"}


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names_are_in_reach_and_not_for_others(name: str) -> None:
    if name not in ("p", "g"):
        assert codes(body(f"{name} = 1\np -= lr * g"))[0] == "E404"
    assert codes(body(f"state {name}\np -= lr * g"))[0] == "E404"
    assert codes(body(f"for {name} in (1, 2):\n    g = 2 * g\np -= lr * g")) == (
        [] if name in ("steps", "workers", "rank") else ["E404"]
    )
    given = codes(body("p -= lr * g", f"lr = 1.0, {name} = 2"))
    assert ("E404" in given) is (name not in ("steps", "workers", "rank"))


def test_a_parameter_may_hide_steps_workers_and_rank() -> None:
    text = "def f(x, steps, rank = 3):\n    return x * steps + rank\n\n" + body("p = f(g, 2)")
    assert Run(text, [0.0]).step(5.0).p() == 13.0
    made = Run(body("state m: [rank, 1]\nm += steps\np = sum(m)", "rank = 4, steps = 7"), [0.0])
    assert made.step(1.0).p() == 28.0


def test_every_argument_of_the_class_is_reserved() -> None:
    taken = set(inspect.signature(Optimizer.__init__).parameters) - {"self", "hypers"}
    assert taken <= CLASS_ARGUMENTS


@pytest.mark.parametrize("name", sorted(CLASS_ARGUMENTS))
def test_no_hyperparameter_is_called_as_an_argument_of_the_class(name: str) -> None:
    assert codes(f"optimizer X(lr = 1.0, {name} = 2):\n    p -= lr * {name} * g\n") == ["E404"]


def test_a_local_that_hides_a_function_which_is_called_is_an_error() -> None:
    (found,) = diagnosed(body("norm = norm(g)\np -= lr * g / (norm + norm(p) + 1)"))
    assert found.code == "E205"
    assert codes(body("p -= lr * g * clamp(sum(g), 0, 1)", "lr = 1.0, clamp = 2"))[0] == "E205"
    assert codes(body("norm = norm(g)\np -= lr * g / (norm + 1)")) == []


@pytest.mark.parametrize(
    ("text", "code", "mend"),
    [
        ("momentun = 0.9\np -= lr * momentum * g", "E202", "`momentun`"),
        ("p -= lr * nrom(g)", "E207", "`norm`"),
        ("p -= lr * norm(g, axs = 0)", "E208", "`axis`"),
        ("buf = 0.9 * buf + g\np -= lr * buf", "E202", "`state buf`"),
        ("p -= lr * buf * g", "E202", "a hyperparameter with a default"),
        ("p -= lr * grad", "E202", "is `g`"),
        ("if True:\n    p -= lr * g", "E202", "`true`"),
        ("p -= lr * g / norm(g, over = model)", "E307", None),
        ("p -= lr * lerp(g, 0.1)", "E209", "x + w * (y - x)"),
        ("state v: [cols]\nv = sum(g, axis = 0)\np = v.T", "E318", "the shape [1, cols]"),
        ("p -= lr * sum(g, axis = 1).T", "E301", "x.T"),
        ("for a in axes:\n    state h: [size(a)]\n    p -= h", "E301", "unfold(x, axis)"),
        ("for i in range(3):\n    state m\n    p -= m", "E401", "`state m: [3, *p]`"),
        ("return p - lr * g", "E201", "`p = ...`"),
        ("step Adam", "E207", "`use Adam(...)`"),
        ("use Lionn(lr = lr)", "E207", "`Lion`"),
        ("use Adam(beta = (0.9, 0.9))", "E208", "`betas`"),
        ("p -= lr * Lion(g)", "E206", "`use Lion(...)`"),
        ("p -= lr * norm * g", "E202", "call it"),
        ("use norm", "E206", None),
    ],
)
def test_a_mend_is_offered(text: str, code: str, mend: str | None) -> None:
    found = next(each for each in diagnosed(body(text)) if each.code == code)
    assert mend is None or mend in (found.help or "")


def test_all_errors_of_a_file_come_in_one_run() -> None:
    text = """
optimizer A(lr = 1.0):
    x = nothing
    y = x + also_nothing
    p -= lr * (g + g @ g.T) * y

optimizer B(lr = 1.0):
    if lr:
        p -= undefined
    p -= lr * g
"""
    assert codes(text) == ["E202", "E202", "E301", "E311", "E202"]


def test_a_rule_that_is_not_there_is_said_once() -> None:
    (found,) = diagnosed("optimizer A = Lookahead(AdamWW)\n")
    assert (found.code, found.help) == ("E207", "did you mean `AdamW`?")


def test_a_rule_that_never_changes_p_is_warned_of() -> None:
    assert codes(body("state m\nm += lr * g")) == ["W607"]
    assert codes("wrapper W(inner, a = 1):\n    g = a * g\n") == ["W607"]
    assert codes("wrapper W(inner, a = 1):\n    g = a * g\n    step inner\n") == []


def test_names_inside_a_function_are_its_own() -> None:
    text = "def f(x):\n    y = 2 * x\n    return y\n\n" + body("y = 1\nz = f(g)\np = y + z")
    assert Run(text, [0.0]).step(3.0).p() == 7.0
    assert "E202" in codes("def f(x):\n    return x * y\n\n" + body("y = 1\np -= lr * y * f(g)"))


def test_a_def_sees_neither_p_nor_g_a_transform_does() -> None:
    text = "{} f(x):\n    return x + p + g\n\n" + body("p = f(1)")
    assert set(codes(text.format("def"))) == {"E204", "W601"}
    assert Run(text.format("transform"), [10.0]).step(100.0).p() == 111.0


def test_a_function_assigns_neither_p_nor_g() -> None:
    text = "transform f(x):\n    p = x\n    return x\n\n" + body("p -= lr * f(g)")
    assert codes(text) == ["E204"]


def test_wrappers_and_inner_rules_do_not_see_each_others_names() -> None:
    text = """
wrapper Outer(inner, k = 2):
    state m
    x = 5
    m += x
    step inner
    p += 100 * x

optimizer Inner(lr = 1.0):
    state m named "inner_m"
    x = 7
    m += 1
    p = x + m

optimizer X = Outer(Inner)
"""
    made = Run(text.replace("p += 100", "p += k * 50"), [0.0]).step(1.0)
    assert made.p() == 7 + 1 + 500
    assert (made.state("m"), made.state("inner_m")) == (5.0, 1.0)


def test_a_clash_of_hyperparameters_says_how_to_rename() -> None:
    text = "wrapper W(inner, lr = 2):\n    g *= lr\n    step inner\n\noptimizer X = W(SGD)\n"
    (found,) = diagnosed(text)
    assert found.code == "E410"
    assert "SGD(lr = inner_lr)" in (found.help or "")
    assert (
        codes(text.replace("X = W(SGD)", "X(lr = 1, scale = 2) = W(SGD(lr = lr), lr = scale)"))
        == []
    )


def test_attributes_are_one_for_all_rules_and_no_hyperparameters() -> None:
    rules = "wrapper W(inner):\n    attribute depth = {}\n    g *= 2^depth\n    step inner\n\n"
    inner = "optimizer I(lr = 1.0):\n    attribute depth = 1\n    p -= lr * depth * g\n\n"
    whole = rules + inner + "optimizer X = W(I)\n"
    assert Run(whole.format(1), [0.0], attributes=[{"depth": 3}]).step(1.0).p() == -24.0
    assert codes(whole.format(2)) == ["E412"]
    assert "E404" in codes(body("attribute lr = 1\np -= lr * g"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("attribute a = lr\np -= lr * a * g", "E412"),
        ("require rows > 2\np -= lr * g", "E402"),
        ("require t > 2\np -= lr * g", "E402"),
        ("require norm(g) > 2\np -= lr * g", "E402"),
        ("require 2 < 1\np -= lr * g", "E403"),
        ("require lr\np -= lr * g", "E311"),
        ("input k: int\np -= lr * g", "E318"),
        ("input k: string on host\np -= lr * g", "E318"),
        ("input k: [rows, 1] on host\np -= lr * g", "E318"),
        ("input k: int on host\nstate m: [k, 1]\np -= lr * g", "E314"),
        ("input k on host\nwhen k > 1:\n    p -= lr * g", "E409"),
        ("input k on host\np -= where(k, g, 0)", "E311"),
        ("report n = norm(g)\np -= lr * g", "E416"),
        ("return g", "E201"),
        ("if t == 1:\n    view last\np -= lr * g", "E201"),
        ("repeat 2:\n    report n = lr\np -= lr * g", "E201"),
    ],
)
def test_declarations_that_cannot_be(text: str, code: str) -> None:
    assert code in codes(body(text))


def test_requirements_hold_under_their_conditions() -> None:
    made = Run(
        body(
            'if kind == "a":\n    require lr > 1\nrequire lr > 0\np -= lr * g',
            'lr = 2.0, kind = "b"',
        ),
        [0.0],
    )

    def met(**group: object) -> list[bool]:
        made.members[0].group.update(group)
        values = Evaluation(made.rule, made.members, made.members[0].p.dtype, None)
        return [bool(values.get(each.condition, 0)) for each in made.rule.requirements]

    assert met() == [True, True]
    assert met(lr=0.5) == [True, True]
    assert met(lr=0.5, kind="a") == [False, True]
    assert met(lr=-1.0, kind="b") == [True, False]
    assert [each.text for each in made.rule.requirements] == ["lr > 1", "lr > 0"]
