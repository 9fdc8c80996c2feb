"""docs/zoo/checked.json, from the outcomes of the tests that hold rules to what they should do.

Input: `record_property("checked", (kind, rule, source, error))` of tests that passed. Of the kinds
oracle and peer the source is what the rule was held to, and the error the largest seen; of `verify
float32` and so on the source is a target, and the error in units of the last place. Output: with
`--checked` the file, in which what ran is new; what is verified is written rule by rule. With
`--missing` as well, of the tests that verify those run of which the file knows nothing. Does not
do: run anything, the pages (optdsl/gallery).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optdsl.gallery.pages import VERIFIED

FILE = Path(__file__).parents[2] / "docs" / "zoo" / "checked.json"
Found = dict[str, dict[str, dict[str, float]]]


def title(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Checked:
    """The pytest plugin that gathers errors."""

    def __init__(self, config: pytest.Config) -> None:
        self.writes = bool(config.option.checked) and not hasattr(config, "workerinput")
        self.found: Found = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if config.option.checked and config.option.missing:
            known = {(rule, kind) for rule, kinds in read().items() for kind in kinds}
            cells = map(_cell, items)
            kept = [i for i, cell in zip(items, cells, strict=True) if cell and cell not in known]
            config.hook.pytest_deselected(items=[each for each in items if each not in kept])
            items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or not report.passed:
            return
        for name, value in report.user_properties:
            if name == "checked":
                kind, rule, source, error = value  # type: ignore[misc]
                own = self.found.setdefault(rule, {}).setdefault(kind, {})
                own[source] = max(own.get(source, 0.0), float(error))
                if kind.startswith(VERIFIED):
                    self.write()  # it may be a minute's work, of an hour's

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.write()

    def write(self) -> None:
        if self.writes and self.found:
            known = read()
            write(known | {rule: known.get(rule, {}) | new for rule, new in self.found.items()})


def _cell(item: pytest.Item) -> tuple[str, str] | None:
    """The rule that a test verifies, and the kind under which that stands."""
    marker = item.get_closest_marker("verifies")
    if marker is None:
        return None
    given = item.callspec.params  # type: ignore[attr-defined]
    return given["name"], VERIFIED + title(given["dtype"])


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
