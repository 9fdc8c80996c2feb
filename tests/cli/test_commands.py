"""Commands that read, lay out and explain: what they print, and their exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from optdsl.cli import COMMANDS, main
from optdsl.cli.rules import snake
from optdsl.frontend.scope import shipped_index
from optdsl.source import Source
from optdsl.syntax.layout import format_module
from tests.cli.files import GOOD, ODD, WRONG, written

# ---------------------------------------------------------------- check


def test_check_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written("good.opt", GOOD), written("b.opt", GOOD)]) == 0
    assert capsys.readouterr() == ("2 files checked: no errors\n", "")


def test_check_finds_all_errors_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written("wrong.opt", WRONG), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(each["code"], each["line"]) for each in found] == [
        ("E202", 2),  # in a function that nothing calls
        ("E202", 5),
        ("W601", 7),
        ("E207", 9),  # in a wrapper that wraps nothing
        ("E304", 12),
    ]
    assert all(each["file"] == "wrong.opt" for each in found)


def test_check_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written("wrong.opt", WRONG), written("odd.opt", ODD)]) == 1
    out = capsys.readouterr().out
    assert out.endswith("\n2 files checked: 4 errors, 2 warnings\n")
    assert "wrong.opt:5:15: error[E202]: `gg` is not defined" in out


def test_a_warning_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written("odd.opt", ODD)]) == 0
    assert "odd.opt:1:25: warning[W601]" in capsys.readouterr().out


def test_syntax_errors_do_not_hide_other_items(capsys: pytest.CaptureFixture[str]) -> None:
    text = WRONG.replace("p -= lr * gg", "p -= lr *") + "\noptimizer Fourth():\n    use First()\n"
    assert main(["check", written("wrong.opt", text), "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    codes = [(each["code"], each["line"]) for each in found]
    assert codes[0] == ("E202", 2)
    assert codes[1][0].startswith("E1") and codes[1][1] == 5
    assert ("E304", 12) in codes
    assert not any(line == 15 for _, line in codes), "First is there, but for its syntax error"


def test_check_of_an_import(capsys: pytest.CaptureFixture[str]) -> None:
    written("blocks.opt", "def half(x):\n    return x / 2\n")
    text = 'import "blocks.opt"\n\noptimizer A(lr = 1.0):\n    p -= lr * half(g)\n'
    assert main(["check", written("a.opt", text)]) == 0
    written("blocks.opt", "def half(x):\n    return x /\n")
    assert main(["check", "a.opt"]) == 1
    assert "blocks.opt:2:" in capsys.readouterr().out


# ---------------------------------------------------------------- fmt, new, zoo


def test_fmt(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(written("a.opt", "optimizer A(lr=0.1):\n  p-=lr*g  # step\n"))
    assert main(["fmt", "--check", "a.opt"]) == 1
    assert path.read_text() == "optimizer A(lr=0.1):\n  p-=lr*g  # step\n"
    assert main(["fmt", "a.opt"]) == 0
    assert path.read_text() == "optimizer A(lr = 0.1):\n    p -= lr * g  # step\n"
    assert main(["fmt", "--check", "a.opt"]) == main(["fmt", "a.opt"]) == 0
    assert capsys.readouterr().out == "a.opt: would be changed\na.opt: changed\n"


def test_fmt_leaves_a_wrong_file_alone(capsys: pytest.CaptureFixture[str]) -> None:
    wrong, other = (
        written("wrong.opt", "optimizer A(:\n"),
        written("b.opt", GOOD.replace(" ", "  ")),
    )
    assert main(["fmt", wrong, other]) == 1
    assert Path(wrong).read_text() == "optimizer A(:\n"
    assert Path(other).read_text() == GOOD
    assert "wrong.opt:1:12: error[E108]" in capsys.readouterr().err


def test_fmt_makes_line_ends_alike() -> None:
    Path("a.opt").write_bytes(GOOD.replace("\n", "\r\n").encode())
    assert main(["fmt", "a.opt"]) == 0
    assert Path("a.opt").read_bytes() == GOOD.encode()


def test_new_compiles_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "MySGDRule"]) == 0
    text = Path("my_sgd_rule.opt").read_text()
    assert format_module(Source("a", text)) == text
    assert main(["check", "my_sgd_rule.opt"]) == 0
    assert main(["compile", "my_sgd_rule.opt", "-o", "out"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "my_sgd_rule.opt: written",
        "1 file checked: no errors",
        "out/my_sgd_rule.py: written",
    ]


@pytest.mark.parametrize("name", ["a-b", "1a", "if", "optimizer", "", "a b", "ä"])
def test_new_refuses_other_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", name]) == 2
    assert "cannot be a rule's name" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == sorted(
        shipped_index(), key=str.lower
    )
    assert re.search(r"^LookaheadAdamW +Lookahead\(AdamW\)$", listed, re.MULTILINE)
    assert main(["zoo", "show", "AdamW"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("optimizer AdamW(")
    assert main(["zoo", "copy", "AdamW"]) == 0
    assert Path("adamw.opt").read_text() == text
    assert main(["zoo", "copy", "AdamW", "-o", "mine.opt"]) == 0
    assert main(["check", "adamw.opt", "mine.opt"]) == 0


def test_zoo_with_other_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["zoo", "show", "Adamw"]) == main(["zoo", "copy"]) == main(["zoo", "list", "x"]) == 2
    )
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "optdsl: no rule `Adamw` is shipped; did you mean `AdamW`?"
    assert said[1] == "optdsl: `zoo copy` needs the name of a rule"


@pytest.mark.parametrize("arguments", [["new", "Mine"], ["zoo", "copy", "AdamW", "-o", "mine.opt"]])
def test_nothing_is_replaced_unasked(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(written("mine.opt", "precious"))
    assert main(arguments) == 2
    assert path.read_text() == "precious"
    assert "mine.opt: exists already; --force replaces it" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert path.read_text().startswith(("# A rule", "optimizer"))


@pytest.mark.parametrize(
    ("name", "file"),
    [("MyRule", "my_rule"), ("AdamW", "adamw"), ("LayerwiseSGD", "layerwise_sgd"),
     ("SGDSaI", "sgd_sai"), ("LookaheadAdamW", "lookahead_adamw"), ("SWAN", "swan"), ("x2", "x2")],
)  # fmt: skip
def test_file_names(name: str, file: str) -> None:
    assert snake(name) == file


# ---------------------------------------------------------------- explain CODE, help


def test_explain_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "E102"]) == 0
    assert capsys.readouterr().out.startswith("# E102 unterminated-string")
    assert main(["explain", "E999"]) == 2
    assert "there is no code E999" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == main(["help", name]) == 0
    out = capsys.readouterr().out
    assert f"usage: optdsl {name}" in out
    assert "examples:" in out


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["help"]) == 0
    assert capsys.readouterr().out.count("usage: optdsl COMMAND") == 2
    assert main([]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in COMMANDS)
    assert "exit status:" in said
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("optdsl 0.")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chekc", "a.opt"]) == 2
    assert "there is no command `chekc`; did you mean `check`?" in capsys.readouterr().err
