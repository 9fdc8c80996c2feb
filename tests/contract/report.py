"""docs/contract.md, from the outcomes of the tests that are tied to its rows.

Input: reports of tests marked `contract`, and the page as it stands. Output: with `--contract` the
page, in which the cells of what ran are new; without, a failure where an outcome is not what the
page says. With `--missing` only tests run whose cell is not there yet: minutes, where all of them
take an hour. Relies on: items.py. Does not do: run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.contract.items import ITEMS

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
PASS = "pass"
UNTESTED = "no test yet"
FAILED = "FAILED"

Cells = dict[tuple[str, str], str]
"""What the page says, by item and rule."""

HEAD = """\
# The contract

What surrounds an optimizer (schedulers, checkpoints, hooks, scalers) must find in a compiled class
all that it finds in torch's own. Each row is an item of that, each column a shipped rule, and the
cell is what the tests found on the `cpu` and `reference` backends, in some rows with `triton` under
its interpreter, too: *pass*, or the number of a reason below. Written by `make contract` from the
outcomes of the tests alone.
"""


class Report:
    """The pytest plugin that gathers outcomes."""

    def __init__(self, config: pytest.Config) -> None:
        self.writes = bool(config.option.contract)
        self.counts = not hasattr(config, "workerinput")  # workers of pytest-xdist report to one
        self.outcomes: dict[tuple[str, str], list[str]] = {}
        self.differences: list[str] = []

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        marker = item.get_closest_marker("contract")
        if marker is not None:
            case = item.callspec.params["case"]  # type: ignore[attr-defined]
            item.user_properties.append(("contract", (marker.args[0], case.rule)))

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if config.option.missing and not config.option.checked:
            known = {key for key, cell in read_page().items() if cell != FAILED}
            cells = [dict(item.user_properties).get("contract") for item in items]
            kept = [i for i, cell in zip(items, cells, strict=True) if cell and cell not in known]
            config.hook.pytest_deselected(items=[each for each in items if each not in kept])
            items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        given = dict(report.user_properties)
        if "contract" not in given or (report.when != "call" and report.passed):
            return
        item, rule = given["contract"]  # type: ignore[misc]
        outcome = str(given.get("reason", PASS)) if report.passed else FAILED
        self.outcomes.setdefault((item, rule), []).append(outcome)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.counts or not self.outcomes:
            return
        known, found = read_page(), {key: _cell(each) for key, each in self.outcomes.items()}
        if self.writes:
            # Not at the top: pytest_configure decides first whether Triton interprets.
            from tests.contract.cases import rules

            columns = sorted({rule for _, rule in known | found} & set(rules()))
            PAGE.write_text(page(known | found, columns), encoding="utf-8")
            return
        self.differences = [
            f"{rule}, {item}: {cell!r}, the page says {known.get((item, rule), 'nothing')!r}"
            for (item, rule), cell in found.items()
            if cell not in (FAILED, known.get((item, rule)))
        ]
        if self.differences:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.differences:
            terminalreporter.section("docs/contract.md is out of date: run `make contract`")
            for each in self.differences:
                terminalreporter.line(each)


def _cell(outcomes: Iterable[str]) -> str:
    found = dict.fromkeys(outcomes)
    if FAILED in found:
        return FAILED
    return "; ".join(each for each in found if each != PASS) or PASS


def page(cells: Mapping[tuple[str, str], str], columns: Iterable[str]) -> str:
    """The page: a row for each item, a column for each rule, and the reasons by number."""
    rules = list(columns)
    numbers: dict[str, int] = {}
    rows = [f"| | {' | '.join(rules)} |", f"| --- |{' --- |' * len(rules)}"]
    for item in ITEMS:
        found = [cells.get((item, rule), UNTESTED) for rule in rules]
        shown = [
            each if each == PASS else str(numbers.setdefault(each, len(numbers) + 1))
            for each in found
        ]
        rows.append(f"| {item} | {' | '.join(shown)} |")
    parts = [HEAD, "\n".join(rows), "## The items"]
    parts.append("\n".join(f"- **{item}**. {text}" for item, text in ITEMS.items()))
    if numbers:
        parts.append("## The reasons")
        parts.append("\n".join(f"{number}. {reason}" for reason, number in numbers.items()))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def read_page() -> Cells:
    """What the page says now; nothing where it is not there."""
    if not PAGE.exists():
        return {}
    text = PAGE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = _parts(lines[0])[1:]
    _, _, listed = text.partition("## The reasons\n")
    reasons = dict(line.split(". ", 1) for line in listed.strip().splitlines())
    cells = {}
    for line in lines[2:]:
        item, *found = _parts(line)
        for rule, cell in zip(rules, found, strict=True):
            cells[item, rule] = reasons.get(cell, cell)
    return {key: cell for key, cell in cells.items() if cell != UNTESTED}


def _parts(line: str) -> list[str]:
    return [part.strip() for part in line.strip("|").split("|")]
