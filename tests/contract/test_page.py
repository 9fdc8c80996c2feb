"""docs/contract.md has all that it must, and its writer and reader agree."""

from __future__ import annotations

import pytest

from tests.contract import report
from tests.contract.cases import rules
from tests.contract.items import ITEMS
from tests.contract.report import PAGE, page, read_page


def test_every_item_has_a_row_and_every_rule_a_column() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert [each.strip() for each in table[0][1:]] == rules(), "run `make contract`"
    assert [row[0].strip() for row in table[2:]] == list(ITEMS)


def test_every_cell_has_an_outcome() -> None:
    cells = read_page()
    missing = [(item, rule) for item in ITEMS for rule in rules() if not cells.get((item, rule))]
    assert missing == [], "run `make contract`"


def test_no_cell_is_a_failure() -> None:
    assert [key for key, cell in read_page().items() if cell == "FAILED"] == []


def test_what_is_written_is_read(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {("hooks", "SGD"): "pass", ("names", "SGD"): "no | names: a. b", ("names", "Lion"): "x"}
    cells = {key: cell.replace("|", "or") for key, cell in cells.items()}
    monkeypatch.setattr(report, "PAGE", tmp_path / "contract.md")
    assert read_page() == {}
    report.PAGE.write_text(page(cells, ["Lion", "SGD"]), encoding="utf-8")
    assert read_page() == cells
