"""The language reference: its blocks do what they say, and it leaves nothing out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import optdsl
from optdsl.codes import CODES
from optdsl.diagnostics import CompileError, render_text
from optdsl.frontend.check import check
from optdsl.frontend.declarations import CLASS_ARGUMENTS
from optdsl.frontend.expressions import RESERVED
from optdsl.frontend.primitives import LATER
from optdsl.frontend.resolve import PRIMITIVES
from optdsl.frontend.scope import standard_library
from optdsl.resources import directory
from optdsl.source import Source
from optdsl.types import Storage

TEXT = (Path(__file__).parents[2] / "docs" / "language.md").read_text("utf-8")
FENCE = re.compile(r"^```([a-z]*)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of the page: `error` are the codes that it gives, at `line` of it; `target` is none
    where no code is generated from it."""

    place: int
    code: str
    options: dict[str, str] = field(hash=False)

    def __str__(self) -> str:
        return f"line {self.place}"


BLOCKS = [
    Block(
        TEXT[: match.start()].count("\n") + 1,
        match[3],
        dict(mark.split("=", 1) for mark in match[2].split()),
    )
    for match in FENCE.finditer(TEXT)
    if match[1] == "opt"
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_gives_what_it_announces_and_nothing_else(block: Block) -> None:
    assert set(block.options) <= {"error", "line", "target"}
    found = check(Source("language.md", block.code))
    wanted = block.options.get("error", "")
    assert {each.code for each in found} == set(filter(None, wanted.split(","))), render_text(found)
    if "line" in block.options:
        assert {each.span.line for each in found} == {int(block.options["line"])}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_compiles_unless_it_says_otherwise(block: Block) -> None:
    if "E" in block.options.get("error", ""):
        with pytest.raises(CompileError) as caught:
            optdsl.compile_text(block.code)
        errors = [each for each in caught.value.diagnostics if each.severity == "error"]
        assert {each.code for each in errors} == set(block.options["error"].split(","))
    elif block.options.get("target") == "none":
        with pytest.raises(CompileError, match="E503"):
            optdsl.compile_text(block.code)
    else:
        optdsl.compile_text(block.code)


def test_the_message_that_is_shown_is_the_one_that_is_given() -> None:
    shown = next(match[3] for match in FENCE.finditer(TEXT) if match[1] == "text")
    block = next(each for each in BLOCKS if each.options.get("error") == "E202")
    assert render_text(check(Source("typo.opt", block.code))) == shown.rstrip()


def words(text: str) -> set[str]:
    """All words that stand in backquotes, outside of blocks."""
    text = FENCE.sub("", text)
    return {word for part in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", part)}


def test_every_function_is_told_of() -> None:
    functions = (PRIMITIVES - LATER) | set(standard_library().own)
    assert not functions - words(TEXT)


def test_every_name_and_argument_is_told_of() -> None:
    assert not RESERVED - words(TEXT)
    assert not CLASS_ARGUMENTS - words(TEXT) - {"params", "storage"}
    assert not {each.value for each in Storage} - words(TEXT) - {"compute"}


def test_every_word_of_the_grammar_is_told_of() -> None:
    grammar = (directory("grammar") / "optdsl.lark").read_text("utf-8")
    keywords = set(re.findall(r'^[A-Z_]+: "([a-z]+)"', grammar, re.MULTILINE))
    assert len(keywords) > 35
    shown = {word for block in BLOCKS for word in re.findall(r"\w+", block.code)}
    assert not keywords - words(TEXT) - shown


def test_every_code_that_is_named_exists_and_links_lead_somewhere() -> None:
    assert set(re.findall(r"\b[EW]\d{3}\b", TEXT)) <= set(CODES)
    headings = {
        re.sub(r"[^a-z ]", "", line[3:].lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("## ")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings
