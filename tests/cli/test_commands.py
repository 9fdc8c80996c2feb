"""The commands: what they print, what they write, and their exit status."""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from optdsl.cli import COMMANDS, main
from optdsl.cli.rules import snake
from optdsl.cli.terminal import Fault, write_file
from optdsl.compiler import PASSES
from optdsl.diagnostics import InternalError
from optdsl.frontend.scope import shipped_index
from optdsl.source import Source
from optdsl.syntax.layout import format_module

GOOD = "optimizer Good(lr = 0.1):\n    p -= lr * g\n"
ODD = "optimizer Odd(lr = 0.1, unused = 1):\n    p -= lr * g\n"
WRONG = """\
def unused(x):
    return x + missing

optimizer First(lr = 0.1):
    p -= lr * gg

wrapper Second(inner, k = 2):
    step inner
    p -= unknown(p)

optimizer Third(lr = 0.1):
    p -= lr * g @ g
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def listed(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


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


# ---------------------------------------------------------------- show, compile


@pytest.mark.parametrize("what", ["ast", "ir", "plan", "cpu", "triton", "python"])
def test_show(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", what, "AdamW"]) == 0
    out = capsys.readouterr().out
    expected = {
        "ast": "Optimizer name='AdamW'",
        "ir": "rule AdamW view=rows",
        "plan": "stage 0 kernel adamw",
        "cpu": "void adamw",
        "triton": "@triton.jit",
        "python": "class AdamW(Optimizer):",
    }
    assert expected[what] in out


def test_show_std(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "std"]) == 0
    assert "def newton_schulz(" in capsys.readouterr().out


def test_show_needs_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "ir"]) == main(["show", "ir", "EMA"]) == 2
    assert main(["show", "ir", "AdamW", "--rule", "Adam"]) == 2
    assert main(["show", "ir", "Adamx"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "optdsl: `show ir` needs a FILE"
    assert "ema.opt has no rule EMA" in said[1] or "becomes an optimizer" in said[1]
    assert said[2] == "optdsl: adamw.opt has no rule Adam; did you mean AdamW?"
    assert said[3].endswith("Adamx: no such file, and no shipped rule; did you mean Adamax?")


def test_show_of_several_rules_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    written("two.opt", GOOD + GOOD.replace("Good", "Better"))
    assert main(["show", "ir", "two.opt"]) == 0
    assert capsys.readouterr().out.count("==> ") == 2
    assert main(["show", "ir", "two.opt", "--rule", "Better"]) == 0
    out = capsys.readouterr().out
    assert "==>" not in out and "rule Better" in out


def test_compile_writes_modules(capsys: pytest.CaptureFixture[str]) -> None:
    written("two.opt", GOOD + ODD)
    assert main(["compile", "two.opt", "AdamW", "-o", "out/deep"]) == 0
    assert listed("out/deep") == ["adamw.py", "good.py", "odd.py"]
    before = Path("out/deep/good.py").read_bytes()
    ast.parse(before)
    assert b"Made by: optdsl compile two.opt" in before
    assert main(["compile", "two.opt", "-o", "out/deep"]) == 0, "what was generated is replaced"
    assert Path("out/deep/good.py").read_bytes() == before
    assert "W601" in capsys.readouterr().err
    assert main(["compile", "two.opt", "--rule", "Good", "-o", "one.py"]) == 0
    assert Path("one.py").read_bytes() == before


def test_compile_for_one_target(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for target in ("cpu", "triton", "triton,cpu"):
        assert main(["compile", "AdamW", "--target", target, "-o", "one.py"]) == 0
        texts[target] = Path("one.py").read_text()
    assert "void adamw" in texts["cpu"] and "@triton.jit" not in texts["cpu"]
    assert "void adamw" not in texts["triton"] and "@triton.jit" in texts["triton"]
    assert main(["compile", "AdamW", "-o", "one.py"]) == 0
    assert Path("one.py").read_text() == texts["triton,cpu"]
    assert main(["compile", "AdamW", "--target", "gpu"]) == 2
    assert "'gpu' is not one of cpu, triton" in capsys.readouterr().err


def test_a_target_that_was_left_out_is_named() -> None:
    assert main(["compile", "AdamW", "--target", "triton", "-o", "one.py"]) == 0
    code = (
        "import torch\nfrom one import AdamW\n"
        "p = torch.nn.Parameter(torch.ones(2)); p.grad = p.detach()\n"
        "AdamW([p]).step()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env=environment,
    )  # fmt: skip
    assert "AdamW was compiled without kernels for the cpu backend" in done.stderr


def test_compile_standalone() -> None:
    assert main(["compile", "AdamW", "--standalone", "-o", "one.py"]) == 0
    text = Path("one.py").read_text()
    ast.parse(text)
    assert "import optdsl" not in text and "from optdsl." not in text
    assert main(["compile", "AdamW", "-o", "one.py"]) == 0, "it is known as generated"


def test_compile_writes_all_or_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    written("two.opt", GOOD + WRONG)
    assert main(["compile", "two.opt", "-o", "out"]) == 1
    assert not Path("out").exists()
    written("good.opt", GOOD)
    Path("out").mkdir()
    written("out/good.py", "import this  # mine\n")
    assert main(["compile", "good.opt", "AdamW", "-o", "out"]) == 2
    assert listed("out") == ["good.py"]
    assert Path("out/good.py").read_text() == "import this  # mine\n"
    assert "was not generated; --force replaces it" in capsys.readouterr().err


def test_compile_to_one_file_takes_one_rule(capsys: pytest.CaptureFixture[str]) -> None:
    written("two.opt", GOOD + ODD)
    assert main(["compile", "two.opt", "-o", "one.py"]) == 2
    assert main(["compile", "two.opt", written("b.opt", GOOD), "-o", "out"]) == 2
    said = capsys.readouterr().err
    assert "one.py can hold one rule, not Good, Odd" in said
    assert "Good and Good would both be out/good.py" in said
    assert listed() == ["b.opt", "two.opt"]


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_can_be_seen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "LookaheadAdamW", "--dump-after", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# after {name}")
    assert len(out.splitlines()) > 10
    assert "object at 0x" not in out
    assert not listed()


def test_unknown_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "AdamW", "--dump-after=lowr"]) == 2
    said = capsys.readouterr().err
    assert "did you mean lower?" in said
    assert all(name in said for name in PASSES)


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


# ---------------------------------------------------------------- bad input


BAD = {
    "missing": ("no such file", lambda path: None),
    "folder": ("Is a directory", lambda path: path.mkdir()),
    "bytes": ("not UTF-8 (byte 1)", lambda path: path.write_bytes(b"a\xff\xfe")),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", [["check"], ["fmt"], ["compile"], ["explain"], ["show", "ir"]])
def test_unreadable_input(
    kind: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said, make = BAD[kind]
    make(Path("bad.opt"))
    assert main([*command, "bad.opt"]) == 2
    err = capsys.readouterr().err
    assert err == f"optdsl: bad.opt: {said}\n"


def test_a_nul_in_the_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "a\0b.opt"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_missing_file_with_a_near_name(capsys: pytest.CaptureFixture[str]) -> None:
    written("adamw.opt", GOOD)
    assert main(["check", "adamv.opt"]) == 2
    assert capsys.readouterr().err == "optdsl: adamv.opt: no such file; did you mean adamw.opt?\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "AdamW", "-o", "taken/out"],
        ["compile", "AdamW", "-o", "nowhere/one.py/two.py/"],
        ["new", "Mine", "-o", "absent/mine.opt"],
        ["zoo", "copy", "AdamW", "-o", "absent/mine.opt"],
    ],
)
def test_unwritable_output(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    written("taken", "a file")
    written("nowhere", "another")
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert listed() == ["nowhere", "taken"]


def test_a_write_that_fails_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(written("a.opt", "old"))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(Fault, match=r"a\.opt: cannot be written: No space left on device"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert listed() == ["a.opt"]


def test_a_write_keeps_links_and_modes() -> None:
    path = Path(written("a.opt", "old"))
    path.chmod(0o640)
    Path("link.opt").symlink_to("a.opt")
    write_file(Path("link.opt"), "new")
    assert Path("link.opt").is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_folder_is_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.py").mkdir()
    assert main(["compile", written("good.opt", GOOD), "-o", "."]) == 2
    assert Path("good.py").is_dir()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (InternalError("a pass", "no"), "internal error in a pass: no (a bug of optdsl"),
        (KeyError("x"), "internal error in check: KeyError: 'x'"),
        (RecursionError("deep\ndown"), "internal error in check: RecursionError: deep"),
    ],
)
def test_a_bug_is_said_without_a_traceback(
    fault: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*args: object) -> None:
        raise fault

    monkeypatch.setattr("optdsl.cli.check.check", broken)
    assert main(["check", written("good.opt", GOOD)]) == 70
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


# ---------------------------------------------------------------- as a process


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root} | more
    return subprocess.run(
        [sys.executable, "-m", "optdsl", *arguments],
        capture_output=True, text=True, env=environment, check=False, timeout=120,
    )  # fmt: skip


def test_as_a_process() -> None:
    done = run("check", written("wrong.opt", WRONG))
    assert (done.returncode, done.stderr) == (1, "")
    assert "\033" not in done.stdout


def test_a_closed_pipe_is_no_error() -> None:
    root = str(Path(__file__).parents[2])
    shell = f"'{sys.executable}' -m optdsl show python LookaheadAdamW | head -1"
    done = subprocess.run(
        ["sh", "-c", shell], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.stdout.startswith('"""LookaheadAdamW')
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["--help"], ["zoo"], ["check", "good.opt"]], ids=" ".join)
def test_a_full_disk_behind_stdout(arguments: list[str]) -> None:
    written("good.opt", GOOD)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "optdsl", *arguments], stdout=full, stderr=subprocess.PIPE,
            text=True, env=environment, check=False, timeout=120,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "optdsl: stdout: No space left on device\n")


QUICK = [
    ["check", "good.opt"],
    ["fmt", "--check", "good.opt"],
    ["new", "Other"],
    ["zoo"],
    ["explain", "E102"],
    ["--help"],
    ["check", "--help"],
]


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_quick_commands_import_nothing_slow(arguments: list[str]) -> None:
    """torch takes 2 s, jinja2 and the schedule 0.2 s; 0.3 s is what an editor waits for."""
    written("good.opt", GOOD)
    code = (
        "import sys\nfrom optdsl.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "slow = {'torch', 'numpy', 'jinja2', 'rich', 'typer', 'triton', 'optdsl.schedule'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_compile_and_explain_need_no_torch() -> None:
    code = (
        "import sys\nfrom optdsl.cli import main\n"
        "assert main(['compile', 'AdamW']) == main(['explain', 'SWAN']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- storage


def test_compile_takes_the_storage_of_states(tmp_path: Path, capsys) -> None:
    assert main(["compile", "AdamW", "-o", str(tmp_path), "--storage", "exp_avg_sq=int8"]) == 0
    text = (tmp_path / "adamw.py").read_text("utf-8")
    assert text.count('storage="int8"') == 1
    assert main(["compile", "AdamW", "-o", str(tmp_path), "--storage", "exp_avgsq=int8"]) == 2
    assert "no state 'exp_avgsq'; did you mean exp_avg_sq?" in capsys.readouterr().err


def test_verify_holds_codes_to_the_oracle(capsys) -> None:
    options = ["--quick", "--target", "cpu", "--dtype", "float32"]
    assert main(["verify", "Lion", *options, "--storage", "int8"]) == 0
    assert "ok" in capsys.readouterr().out
    assert main(["verify", "Lion", *options, "--storage", "int3"]) == 2
    assert "no storage 'int3'" in capsys.readouterr().err


def test_explain_counts_the_bytes_of_codes(capsys) -> None:
    assert main(["explain", "AdamW", "--json", "--storage", "exp_avg=bf16,exp_avg_sq=int8"]) == 0
    report = json.loads(capsys.readouterr().out)
    one = 1 + 4 / 256
    assert report["state_bytes_per_param"] == 2 + one
    assert report["bytes_per_param"] == round(12 + 2 * (2 + one), 3)
    assert main(["explain", "AdamW", "--storage", "exp=bf16"]) == 2
    assert "no state 'exp'" in capsys.readouterr().err
