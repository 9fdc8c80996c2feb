"""The table of codes: its examples do what they say, and no code is missing or left over."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from optdsl.codes import CODES, explain
from optdsl.codes.page import GROUPS
from optdsl.diagnostics import CompileError, Diagnostic, Sink, render_text
from optdsl.frontend.check import check
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import make_scope
from optdsl.schedule.make import make_plan
from optdsl.source import Source

ROOT = Path(__file__).parents[2]
OF_A_TARGET = {"E503", "E510"}
"""Codes that a file gives only where code is generated from it."""


def diagnosed(text: str, *, planned: bool) -> list[Diagnostic]:
    """What is said of a file, with `planned` also by the schedule for each of its rules."""
    source = Source("example.opt", text)
    found = list(check(source))
    if not planned or any(each.severity == "error" for each in found):
        return found
    scope = make_scope(source, Sink())
    for name in rule_names(scope):
        rule = lower_rule(name, scope, Sink())
        assert rule is not None
        try:
            make_plan(rule)
        except CompileError as error:
            found += error.diagnostics
    return found


@pytest.mark.parametrize("code", CODES)
def test_wrong_example_gives_its_code_alone(code: str) -> None:
    found = diagnosed(CODES[code].wrong, planned=code in OF_A_TARGET)
    assert {each.code for each in found} == {code}, render_text(found)


@pytest.mark.parametrize("code", CODES)
def test_right_example_gives_nothing(code: str) -> None:
    found = diagnosed(CODES[code].right, planned=code in OF_A_TARGET)
    assert not found, render_text(found)


@pytest.mark.parametrize("code", CODES)
def test_entry_is_complete_and_readable(code: str) -> None:
    entry = CODES[code]
    assert entry.code == code
    assert entry.code[:2] in GROUPS
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.name)
    assert not entry.title.endswith(".")
    assert entry.text.strip().endswith((".", ":"))
    for text in (entry.title, entry.text):
        assert all(len(line) <= 100 for line in text.splitlines())
    assert entry.wrong != entry.right
    assert entry.title in explain(code)


def test_names_differ() -> None:
    assert len({entry.name for entry in CODES.values()}) == len(CODES)


def test_every_code_in_the_source_has_an_entry_and_every_entry_a_use() -> None:
    used = set()
    for path in (ROOT / "optdsl").rglob("*.py"):
        if "codes" not in path.relative_to(ROOT).parts:
            used |= set(re.findall(r'"([EW]\d{3})"', path.read_text(encoding="utf-8")))
    assert used == set(CODES)


def test_page_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "optdsl.codes"], capture_output=True, cwd=ROOT, check=True
    ).stdout.decode("utf-8")
    written = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert made == written, "run python -m optdsl.codes > docs/errors.md"
