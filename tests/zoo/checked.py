"""docs/zoo/checked.json, from the outcomes of the tests that hold rules to published values.

Input: `record_property("checked", (kind, rule, source, error))` of tests that passed: kind is
oracle or peer, source what the rule was held to, error the largest seen. Output: with `--checked`
the file, in which what ran is new. Does not do: run anything, the pages (optdsl/gallery).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "docs" / "zoo" / "checked.json"
Found = dict[str, dict[str, dict[str, float]]]


class Checked:
    """The pytest plugin that gathers errors."""

    def __init__(self, config: pytest.Config) -> None:
        self.writes = bool(config.option.checked) and not hasattr(config, "workerinput")
        self.found: Found = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or not report.passed:
            return
        for name, value in report.user_properties:
            if name == "checked":
                kind, rule, source, error = value  # type: ignore[misc]
                own = self.found.setdefault(rule, {}).setdefault(kind, {})
                own[source] = max(own.get(source, 0.0), float(error))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.writes and self.found:
            write(read() | {rule: read().get(rule, {}) | new for rule, new in self.found.items()})


def read() -> dict[str, Any]:
    """What the file says; nothing where it is not there."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def write(found: Found) -> None:
    """Writes the file, with errors of two digits: the others are the machine's."""
    rows = [
        f"{json.dumps(rule)}: {json.dumps({k: _short(v) for k, v in sorted(own.items())})}"
        for rule, own in sorted(found.items(), key=lambda item: item[0].lower())
    ]
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


def _short(errors: dict[str, float]) -> dict[str, float]:
    return {source: float(f"{error:.1e}") for source, error in sorted(errors.items())}
