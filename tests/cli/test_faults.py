"""Commands on bad input, and as processes: one line and a status, never a traceback."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from optdsl.cli import main
from optdsl.cli.terminal import Fault, write_file
from optdsl.diagnostics import InternalError
from tests.cli.files import GOOD, WRONG, listed, written

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


def run_alone(code: str) -> None:
    """Runs `code` in a process of its own, which must end well."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


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
    run_alone(code)


def test_compile_and_explain_need_no_torch() -> None:
    code = (
        "import sys\nfrom optdsl.cli import main\n"
        "assert main(['compile', 'AdamW']) == main(['explain', 'SWAN']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    run_alone(code)
