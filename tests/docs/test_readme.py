"""The README's code blocks run, in order, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import optdsl
from optdsl.diagnostics import CompileError

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```([^\n]*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[tuple[str, str]]:
    return [(info, code) for info, code in BLOCKS if info.split(" ")[0] == kind]


def test_the_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = next(code for info, code in blocks("opt") if "error" not in info)
    (tmp_path / "clipped_lion.opt").write_text(rule, "utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for _, code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert type(names["optimizer"]).__name__ == "SWAN"


def test_the_wrong_rule_has_the_error_that_is_shown() -> None:
    info, code = next((info, code) for info, code in blocks("opt") if "error" in info)
    with pytest.raises(CompileError) as caught:
        optdsl.compile_text(code, name="oops.opt")
    (found,) = caught.value.diagnostics
    assert found.code == info.split("error=")[1]
    shown = next(code for kind, code in BLOCKS if not kind and "oops.opt:" in code)
    assert str(caught.value).splitlines()[0] == shown.strip()
