"""Every block of the language reference compiles, or fails with the code that it announces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import optdsl
from optdsl.diagnostics import CompileError, Sink
from optdsl.frontend.check import check_scope
from optdsl.frontend.scope import make_scope
from optdsl.source import Source

TEXT = (Path(__file__).parents[2] / "docs" / "language.md").read_text("utf-8")
BLOCKS = [
    (f"line {TEXT[: match.start()].count(chr(10)) + 1}", match[1].split(), match[2])
    for match in re.finditer(r"^```opt([^\n]*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("place", "marks", "code"), BLOCKS, ids=[place for place, _, _ in BLOCKS])
def test_a_block_does_what_it_says(place: str, marks: list[str], code: str) -> None:
    options = dict(mark.split("=") for mark in marks)
    if "error" in options:
        with pytest.raises(CompileError) as caught:
            optdsl.compile_text(code)
        assert [found.code for found in caught.value.diagnostics] == [options["error"]]
        return
    sink = Sink()
    check_scope(make_scope(Source("language.md", code), sink), sink)
    assert not sink.has_errors, [found.message for found in sink.diagnostics]
    if options.get("target") == "none":
        with pytest.raises(CompileError, match="E503"):
            optdsl.compile_text(code)
    else:
        optdsl.compile_text(code)
