"""The dump in ARCHITECTURE.md is what the command prints today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optdsl.cli import main

ROOT = Path(__file__).parents[2]


def test_the_plan_that_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    shown = re.search(r"^```plan (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert shown is not None
    monkeypatch.chdir(ROOT)
    assert main(["show", "plan", shown[1]]) == 0
    assert capsys.readouterr().out.rstrip() == shown[2].rstrip()
