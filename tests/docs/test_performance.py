"""README.md and docs/performance.md hold the figures of benchmarks/results, by `make page`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import aot
from benchmarks.page import AIMS, FIRST, PAGES, PART, PARTS, RESULTS, fill, kernels
from optdsl.bench import records as files
from optdsl.bench.cases import CASES
from optdsl.bench.contests import CONTESTS
from optdsl.bench.records import LIMIT
from optdsl.bench.run import races

TEXT = PAGES[1].read_text("utf-8")


def test_the_pages_are_of_the_committed_figures() -> None:
    texts = [page.read_text("utf-8") for page in PAGES]
    assert [fill(text) for text in texts] == texts
    assert sorted(part["name"] for text in texts for part in PART.finditer(text)) == sorted(PARTS)


def test_other_figures_make_another_page(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    found = files.read(tmp_path / "cpu.json")
    assert found is not None
    (lost,) = (each for each in found.races() if each == ("AdamW", "one of 64M", 2))
    found.put(lost, [])
    files.write(tmp_path / "cpu.json", found)
    filled = fill(TEXT, tmp_path)
    assert filled != TEXT
    assert "not run; 0.97 |\n" in filled
    assert PART.sub("", filled) == PART.sub("", TEXT)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(KeyError, match="else"):
        fill("<!-- else -->\n<!-- end -->\n")


def test_aims_are_of_races_that_there_are() -> None:
    known = {
        (race.key[0], race.case.title, peer)
        for race in races(list(CONTESTS), list(CASES), [1], 0.0)
        for peer in (LIMIT, *(each.name for each in race.contest.peers))
    }
    assert known >= {(aim.contest, aim.case, aim.peer) for aim in AIMS} | set(FIRST)


def test_what_was_not_compiled_is_said(tmp_path: Path) -> None:
    entry = aot.Entry("0", {"adamw_v0_0": [48, 8, 0, 128], "adamw_v0_1": [60, 8, 16, 64]}, ["!"])
    aot.write(tmp_path / "aot.json", {"sm_90 fp32": {aot.ZOO[0]: entry}})
    assert aot.read(tmp_path / "aot.json") == {"sm_90 fp32": {aot.ZOO[0]: entry}}
    rows = kernels(tmp_path).splitlines()
    assert rows[2] == "| sm_90 | fp32 | 1 | 2 | 48, 60 | 54 | 60 | 1: at most 16 B | 1 | 1 |"
    assert rows[3].startswith("| gfx942 | fp32 | none yet |")
    assert len(rows) == 2 + len(aot.COLUMNS)
