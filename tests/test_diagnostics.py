"""How diagnostics are collected and shown."""

from __future__ import annotations

import json
import re

import pytest

from optdsl.codes import CODES, explain
from optdsl.diagnostics import (
    CompileError,
    Diagnostic,
    InternalError,
    Label,
    Sink,
    did_you_mean,
    render_json,
    render_text,
)
from optdsl.source import Source, Span
from optdsl.syntax.parser import parse

LAMB = Source(
    "rules/lamb.opt",
    "optimizer LAMB(lr = 1e-3):\n    # so\n    b = 2\n    a = g.T @ g\n"
    "    trust = norm(p, axis = 1)\n    p -= lr * (trust - a)\n",
)


def at(source: Source, text: str) -> Span:
    start = source.text.index(text)
    return Span(source, start, start + len(text))


def shown(*labels: Label, code: str = "E301", **more: object) -> list[str]:
    diagnostic = Diagnostic(code, "wrong", labels, **more)  # type: ignore[arg-type]
    return render_text([diagnostic]).splitlines()


def test_the_form() -> None:
    last = LAMB.text.rindex("a)")
    diagnostic = Diagnostic(
        "E301",
        "cannot subtract a value of shape [cols, cols] from one of shape [rows, 1]",
        (
            Label(Span(LAMB, last - 8, last - 3), "[rows, 1], one number per row"),
            Label(Span(LAMB, last, last + 1), "[cols, cols], from line 4"),
        ),
        help="`a` is g.T @ g; did you mean g @ g.T?",
        notes=("shapes broadcast one by one",),
    )
    assert render_text([diagnostic]) == (
        "rules/lamb.opt:6:16: error[E301]: "
        "cannot subtract a value of shape [cols, cols] from one of shape [rows, 1]\n"
        "  6 |     p -= lr * (trust - a)\n"
        "    |                ^^^^^   ^ [cols, cols], from line 4\n"
        "    |                |\n"
        "    |                [rows, 1], one number per row\n"
        "note: shapes broadcast one by one\n"
        "help: `a` is g.T @ g; did you mean g @ g.T?"
    )


def test_three_labels_on_a_line_have_stems() -> None:
    line = Source("x.opt", "aa bbb cc\n")
    labels = (
        Label(at(line, "bbb"), "two"),
        Label(at(line, "aa"), "one"),
        Label(at(line, "cc"), "three"),
    )
    assert shown(*labels)[1:] == [
        "  1 | aa bbb cc",
        "    | ^^ ^^^ ^^ three",
        "    | |  |",
        "    | |  two",
        "    | one",
    ]


def test_labels_without_text_and_on_other_lines() -> None:
    labels = (
        Label(at(LAMB, "trust - a")),
        Label(at(LAMB, "b = 2"), "here"),
        Label(at(LAMB, "g.T @ g")),
    )
    assert shown(*labels) == [
        "rules/lamb.opt:6:16: error[E301]: wrong",
        "  6 |     p -= lr * (trust - a)",
        "    |                ^^^^^^^^^",
        "  3 |     b = 2",
        "    |     ^^^^^ here",
        "  4 |     a = g.T @ g",
        "    |         ^^^^^^^",
    ]


def test_labels_in_another_file() -> None:
    std = Source("std.opt", "\n" * 99 + "def debias(x, beta):\n")
    assert shown(Label(at(LAMB, "trust - a"), "called"), Label(at(std, "beta"), "wants this")) == [
        "rules/lamb.opt:6:16: error[E301]: wrong",
        "    6 |     p -= lr * (trust - a)",
        "      |                ^^^^^^^^^ called",
        "     --> std.opt:100:15",
        "  100 | def debias(x, beta):",
        "      |               ^^^^ wants this",
    ]


def test_nested_and_empty_spans() -> None:
    line = Source("x.opt", "abcdef")
    assert shown(Label(Span(line, 1, 5), "outer"), Label(Span(line, 2, 3), "inner"))[2:] == [
        "    |  ^^^^ inner",
        "    |  |",
        "    |  outer",
    ]
    assert shown(Label(Span(line, 6, 6), "end"))[2] == "    |       ^ end"
    assert shown(Label(Span(Source("e.opt", ""), 0, 0), "nothing"))[1:] == [
        "  1 |",
        "    | ^ nothing",
    ]


def test_a_span_over_several_lines_is_shown_on_the_first() -> None:
    text = Source("x.opt", "if a:\n    b\nc\n")
    assert shown(Label(Span(text, 0, 11), "this"))[1:] == ["  1 | if a:", "    | ^^^^^ this"]


def test_tabs_wide_and_control_characters() -> None:
    line = Source("x.opt", "\ta漢字b\x1b[31m\u0301\ud800c\r\n")
    labels = [Label(at(line, part), part) for part in ("字", "b", "[", "c")]
    text, carets, *_ = shown(*labels)[1:]
    assert text == "  1 |     a漢字b\N{REPLACEMENT CHARACTER}[31m\u0301\N{REPLACEMENT CHARACTER}c"
    # 4 for the tab, 2 for each of 漢字, 0 for the accent
    assert carets == "    |        ^^^ ^    ^ c"


def test_long_lines_are_cut_around_the_place() -> None:
    line = Source("x.opt", "x" * 500 + "HERE" + "y" * 500)
    text, carets, *_ = shown(Label(at(line, "HERE"), "what"), Label(Span(line, 3, 4), "far"))[1:]
    assert len(text) < 180
    assert text.startswith("  1 | …x")
    assert text.endswith("y…")
    assert text[carets.rindex("^^^^") :][:4] == "HERE"


def test_colours_add_nothing_but_colours() -> None:
    found = [
        Diagnostic("E301", "wrong", (Label(at(LAMB, "trust - a"), "this"),), "mend", ("note",)),
        Diagnostic("W601", "odd", (Label(at(LAMB, "b = 2")),)),
    ]
    coloured = render_text(found, color=True)
    assert "\033[1;31m" in coloured
    assert "\033[1;33m" in coloured
    assert re.sub(r"\033\[[0-9;]*m", "", coloured) == render_text(found, color=False)


def test_twenty_are_shown() -> None:
    source = Source("x.opt", "x\n" * 30)
    found = [
        Diagnostic("E201", f"no {n}", (Label(Span(source, 2 * n, 2 * n + 1)),)) for n in range(23)
    ]
    text = render_text(found)
    assert text.count("error[E201]") == 20
    assert text.endswith("\n\nand 3 more")
    assert "more" not in render_text(found[:20])
    assert render_text([]) == ""


def test_json() -> None:
    source = Source("x.opt", "a\nbcd\n")
    labels = (Label(Span(source, 3, 5), "this"), Label(Span(source, 0, 1)))
    (found,) = json.loads(render_json([Diagnostic("E110", "m", labels, "h", ("n",))]))
    assert found == {
        "code": "E110",
        "name": CODES["E110"].name,
        "severity": "error",
        "message": "m",
        "file": "x.opt",
        "line": 2,
        "column": 2,
        "end_line": 2,
        "end_column": 4,
        "labels": [
            {
                "file": "x.opt",
                "line": 2,
                "column": 2,
                "end_line": 2,
                "end_column": 4,
                "text": "this",
            },
            {"file": "x.opt", "line": 1, "column": 1, "end_line": 1, "end_column": 2, "text": ""},
        ],
        "notes": ["n"],
        "help": "h",
    }


# ---------------------------------------------------------------- collecting


def test_sink_sorts_and_drops_repetitions() -> None:
    one, other = Source("a.opt", "xyz"), Source("b.opt", "xyz")
    sink = Sink()
    sink.error("E202", "second file", Span(other, 0, 1))
    sink.error("E201", "later", Span(one, 2, 3))
    sink.warning("W601", "first", Span(one, 0, 1))
    sink.error("E201", "later, again", Span(one, 2, 3))
    sink.error("E202", "another code", Span(one, 2, 3))
    messages = [found.message for found in sink.diagnostics]
    assert messages == ["first", "later", "another code", "second file"]


def test_only_errors_fail() -> None:
    sink = Sink()
    sink.warning("W601", "odd", Span(LAMB, 0, 1), "here", help="mend", notes=["n"])
    sink.check()
    assert not sink.has_errors
    sink.error("E201", "wrong", Span(LAMB, 1, 2), "this", Label(Span(LAMB, 3, 4), "that"))
    assert sink.has_errors
    with pytest.raises(CompileError) as caught:
        sink.check()
    assert caught.value.diagnostics == sink.diagnostics
    assert str(caught.value) == render_text(sink.diagnostics)
    assert [found.severity for found in sink.diagnostics] == ["warning", "error"]


def test_internal_error_names_the_pass() -> None:
    error = InternalError("fuse", "a loop in the plan")
    assert (error.pass_name, error.text) == ("fuse", "a loop in the plan")
    assert "fuse: a loop in the plan" in str(error)


@pytest.mark.parametrize(
    ("word", "candidates", "meant"),
    [
        ("stat", ["state", "step", "view"], "state"),
        ("LR", ["lr", "betas"], "lr"),
        ("nrom", ["norm", "rms"], "norm"),
        ("weight_decy", ["weight_decay", "momentum"], "weight_decay"),
        ("m", ["v", "g"], None),
        ("norm", ["norm"], None),
        ("x", [], None),
    ],
)
def test_did_you_mean(word: str, candidates: list[str], meant: str | None) -> None:
    assert did_you_mean(word, candidates) == meant


# ---------------------------------------------------------------- codes


def test_code_table() -> None:
    assert len({entry.name for entry in CODES.values()}) == len(CODES)
    for code, entry in CODES.items():
        assert re.fullmatch(r"E[1-5]\d\d|W6\d\d", code)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.name)
        assert not entry.title.endswith(".")
        for text in (entry.title, entry.text, entry.wrong, entry.right):
            assert text.strip()
        explained = explain(code)
        assert explained.startswith(f"# {code} {entry.name}\n")
        assert entry.text.strip() in explained
    with pytest.raises(KeyError):
        explain("E000")


@pytest.mark.parametrize("code", [code for code in CODES if code.startswith("E1")])
def test_syntax_examples(code: str) -> None:
    """The wrong example has this error and no other, the right one none."""
    for text, expected in ((CODES[code].wrong, {code}), (CODES[code].right, set())):
        sink = Sink()
        parse(Source("example.opt", text), sink)
        assert {found.code for found in sink.diagnostics} == expected
