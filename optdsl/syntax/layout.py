"""The canonical layout of a rule file, for `optdsl fmt`.

Input: a `Source`. Output: its text with four spaces a block, one way of spacing and at most one
blank line in a row. Line breaks inside brackets, the order of parts and all comments stay.
Relies on: `parser` for the tokens, `text` for the spacing. Does not do: break long lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from lark import Token

from optdsl.diagnostics import InternalError, Sink
from optdsl.source import Source
from optdsl.syntax.builder import docstring_text
from optdsl.syntax.parser import parse, tokens
from optdsl.syntax.tables import column
from optdsl.syntax.text import CLOSING, OPENING, with_blanks

INDENT = "    "


@dataclass
class _Row:
    """A line of the result, and the comment behind it."""

    text: str
    comment: str = ""


@dataclass
class _Line:
    """A logical line: its tokens and how many blocks it stands in."""

    tokens: list[Token]
    depth: int

    @property
    def start(self) -> int:
        return self.tokens[0].start_pos or 0

    @property
    def end(self) -> int:
        return self.tokens[-1].end_pos or 0

    @property
    def begins_block(self) -> bool:
        return self.tokens[-1].type == "COLON"


def format_module(source: Source) -> str:
    """The text of `source` in canonical layout; a second application changes nothing.

    Raises CompileError if the text has syntax errors.
    """
    sink = Sink()
    parse(source, sink)
    sink.check()
    text = source.text.removeprefix("\ufeff").replace("\r\n", "\n")
    source = Source(source.name, text)
    rows: list[_Row] = []
    before: _Line | None = None
    columns = [0]
    for line in _lines(tokens(source)):
        gap = text[before.end if before else 0 : line.start]
        _add_gap(rows, gap, before, line, columns)
        columns[line.depth :] = [column(text, line.start)]
        rows.extend(_rows(line, text))
        before = line
    _add_gap(rows, text[before.end if before else 0 :] + "\n", before, None, columns)
    return "".join(f"{row}\n" for row in _aligned(rows)).strip("\n") + "\n"


def _lines(found: list[Token]) -> Iterator[_Line]:
    depth = 0
    line: list[Token] = []
    for token in found:
        if not token.type.startswith("_"):
            line.append(token)
        elif token.type == "_NL" and line:
            yield _Line(line, depth)
            line = []
        else:
            depth += {"_INDENT": 1, "_DEDENT": -1}.get(token.type, 0)


def _add_gap(
    rows: list[_Row], gap: str, before: _Line | None, after: _Line | None, columns: list[int]
) -> None:
    """Add what stands between two lines: comments, and at most one blank line in a row."""
    trailing, *between = gap.split("\n")
    if trailing.strip() and rows:
        rows[-1].comment = trailing.strip()
    elif trailing.strip():
        rows.append(_Row(trailing.strip()))
    # A block does not begin with a blank line.
    header = len(rows) if before and before.begins_block else 0
    apart = _stand_apart(before, after)
    for piece in between[:-1]:
        comment = piece.strip()
        depth = _depth_of_comment(piece, before, after, columns)
        if len(rows) > header and rows[-1].text and (not comment or (apart and depth == 0)):
            rows.append(_Row(""))
        if comment:
            rows.append(_Row(INDENT * depth + comment))
            apart = apart and depth > 0
    if apart and rows[-1].text:
        rows.append(_Row(""))


def _depth_of_comment(
    line: str, before: _Line | None, after: _Line | None, columns: list[int]
) -> int:
    """A comment belongs to the line after it, or to a deeper block that it is as deep as."""
    low = after.depth if after else 0
    high = before.depth if before else 0
    at = len(line) - len(line.lstrip())
    return max([low, *(d for d in range(low, high + 1) if columns[d] <= at)])


def _stand_apart(before: _Line | None, after: _Line | None) -> bool:
    """Definitions of several lines, and the docstring of a file, have a blank line round them."""
    if before is None or after is None or after.depth:
        return False
    return before.depth > 0 or after.begins_block or before.tokens[0].type == "DOCSTRING"


def _rows(line: _Line, text: str) -> list[_Row]:
    """The line as it was broken inside its brackets."""
    margin = INDENT * line.depth
    if line.tokens[0].type == "DOCSTRING":
        return [_Row(row) for row in _docstring(line.tokens[0], margin)]
    rows = [_Row(margin)]
    deeper = 1 if line.begins_block else 0  # so that the block stands out
    level = 0
    end = line.start
    for blank, token in with_blanks(line.tokens):
        if token.type in CLOSING:
            level -= 1
        start = token.start_pos or 0
        comment, *breaks = text[end:start].split("\n")
        rows[-1].comment = comment.strip()
        if breaks:
            indent = margin + (INDENT * (level + deeper) if level else "")
            rows.extend(_Row(indent + piece.strip()) for piece in breaks[:-1] if piece.strip())
            rows.append(_Row(indent))
        rows[-1].text += token if breaks else blank + token
        end = token.end_pos or 0
        if token.type in OPENING:
            level += 1
    return rows


def _docstring(token: Token, margin: str) -> list[str]:
    """The first of three ways that says the same: on one line, from the quotes on, below them."""
    text = docstring_text(token)
    first, *rest = (f"{margin}{line}".rstrip() for line in text.split("\n"))
    opening, closing = f'{margin}"""', f'{margin}"""'
    beside = opening + first.removeprefix(margin)
    ways = [[beside + '"""'], [beside, *rest, closing], [opening, first, *rest, closing]]
    for way in ways[1:] if rest or text.endswith('"') else ways:
        # Beside the quotes, text loses its indentation, or lends it to the lines below.
        if docstring_text("\n".join(way).strip(" ")) == text:
            return way
    raise InternalError("layout", f"no layout keeps the docstring {text!r}")


def _aligned(rows: list[_Row]) -> Iterator[str]:
    """The rows with their comments; those of consecutive rows begin in one column."""
    for commented, run in itertools.groupby(rows, key=lambda row: bool(row.comment)):
        group = list(run)
        width = max(len(row.text) for row in group) + 2 if commented else 0
        yield from (row.text.ljust(width) + row.comment for row in group)
