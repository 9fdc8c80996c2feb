"""Errors and warnings as data, and how they are shown.

Input: a code, a message and spans. Output: `Diagnostic`s, collected by a `Sink`, rendered as
text or JSON. Relies on: `source` for positions, `codes` for the names of codes.
Does not do: decide what is an error; explain a code at length (`codes.explain`).
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from optdsl.codes import CODES
from optdsl.source import Source, Span

SHOWN = 20  # diagnostics rendered as text; a reader mends the first ones anyway
WIDTH = 160  # columns of a source line that are shown; longer lines are cut around the label
TAB = 4  # columns shown for a tab


@dataclass(frozen=True)
class Label:
    """A place in the source and what is to be said of it (may be empty)."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One error or warning. `labels[0]` is its place; codes E… are errors, W… warnings."""

    code: str
    message: str
    labels: tuple[Label, ...]
    help: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        return "warning" if self.code.startswith("W") else "error"

    @property
    def span(self) -> Span:
        return self.labels[0].span

    def to_json(self) -> dict[str, object]:
        """Plain data. Lines and columns count characters from 1; ends are exclusive."""
        entry = CODES.get(self.code)
        return {
            "code": self.code,
            "name": entry.name if entry else "",
            "severity": self.severity,
            "message": self.message,
            **_range(self.span),
            "labels": [{**_range(label.span), "text": label.text} for label in self.labels],
            "notes": list(self.notes),
            "help": self.help,
        }


def _range(span: Span) -> dict[str, object]:
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    }


class CompileError(Exception):
    """The program is wrong. `diagnostics` says where and why; `str()` is their text."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return render_text(self.diagnostics, color=False)


class InternalError(Exception):
    """A bug of the compiler itself: which pass found it, and what it found."""

    def __init__(self, pass_name: str, text: str) -> None:
        super().__init__(pass_name, text)
        self.pass_name = pass_name
        self.text = text

    def __str__(self) -> str:
        return f"internal error in {self.pass_name}: {self.text} (a bug of optdsl, not of the rule)"


@dataclass
class Sink:
    """Collects diagnostics, so that one run reports all of them."""

    _found: list[Diagnostic] = field(default_factory=list)

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        text: str = "",
        *more: Label,
        help: str | None = None,  # noqa: A002 - what a reader calls it
        notes: Sequence[str] = (),
    ) -> None:
        """Record a diagnostic at `span`; `text` is said there, `more` are further places."""
        self._found.append(
            Diagnostic(code, message, (Label(span, text), *more), help, tuple(notes))
        )

    def warning(
        self,
        code: str,
        message: str,
        span: Span,
        text: str = "",
        *more: Label,
        help: str | None = None,  # noqa: A002 - what a reader calls it
        notes: Sequence[str] = (),
    ) -> None:
        """As `error`; the code (W…) makes it a warning."""
        self.error(code, message, span, text, *more, help=help, notes=notes)

    def add(self, diagnostic: Diagnostic) -> None:
        """Record a diagnostic that another sink collected."""
        self._found.append(diagnostic)

    @property
    def has_errors(self) -> bool:
        return any(diagnostic.severity == "error" for diagnostic in self._found)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """In order of file and position; of one code at one place only the first is kept."""
        first: dict[tuple[str, str, int, int], Diagnostic] = {}
        for diagnostic in self._found:
            span = diagnostic.span
            first.setdefault((span.source.name, diagnostic.code, span.start, span.end), diagnostic)
        return tuple(sorted(first.values(), key=lambda d: (d.span.source.name, d.span.start)))

    def check(self) -> None:
        """Raise CompileError if there was an error; warnings go with it."""
        if self.has_errors:
            raise CompileError(self.diagnostics)


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` is most likely a misspelling of, or None."""
    names = sorted(set(candidates) - {word})
    by_case = {name.lower(): name for name in names}
    if word.lower() in by_case:
        return by_case[word.lower()]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.7)
    return close[0] if close else None


# ---------------------------------------------------------------- rendering


def render_json(diagnostics: Iterable[Diagnostic]) -> str:
    """A JSON array of `Diagnostic.to_json()`, two spaces of indentation."""
    return json.dumps([diagnostic.to_json() for diagnostic in diagnostics], indent=2)


def render_text(diagnostics: Iterable[Diagnostic], color: bool = False) -> str:
    """Each diagnostic with its source lines; at most 20, then how many more there are."""
    found = list(diagnostics)
    parts = ["\n".join(_render(diagnostic, _Paint(color))) for diagnostic in found[:SHOWN]]
    if len(found) > SHOWN:
        parts.append(f"and {len(found) - SHOWN} more")
    return "\n\n".join(parts)


STYLES = {"error": "1;31", "warning": "1;33", "bold": "1", "gutter": "34", "help": "1;36"}


class _Paint:
    """ANSI colours, or nothing."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, style: str, text: str) -> str:
        return f"\033[{STYLES[style]}m{text}\033[0m" if self.on else text


def _render(diagnostic: Diagnostic, paint: _Paint) -> Iterator[str]:
    severity = diagnostic.severity
    head = paint(severity, f"{severity}[{diagnostic.code}]:")
    place = paint("bold", f"{diagnostic.span}:")
    yield f"{place} {head} {paint('bold', diagnostic.message)}"

    lines = _by_line(diagnostic.labels)
    width = max(len(str(line)) for _, line in lines) + 2
    file = diagnostic.span.source.name
    for (source, line), labels in lines.items():
        if source.name != file:
            yield paint("gutter", " " * width + "-->") + f" {labels[0].span}"
            file = source.name
        text, carets, *remarks = _excerpt(source, line, labels)
        yield (paint("gutter", f"{line:>{width}} |") + f" {text}").rstrip()
        margin = paint("gutter", " " * width + " |")
        yield f"{margin} {paint(severity, carets)}"
        for remark in remarks:
            yield f"{margin} {remark}"
    for note in diagnostic.notes:
        yield f"{paint('help', 'note:')} {note}"
    if diagnostic.help:
        yield f"{paint('help', 'help:')} {diagnostic.help}"


def _by_line(labels: tuple[Label, ...]) -> dict[tuple[Source, int], list[Label]]:
    """Labels by the line they begin on: the primary one's line first, then from the top."""
    ordered = sorted(labels[1:], key=lambda label: (label.span.source.name, label.span.start))
    lines: dict[tuple[Source, int], list[Label]] = {}
    for label in (labels[0], *ordered):
        lines.setdefault((label.span.source, label.span.line), []).append(label)
    return lines


def _excerpt(source: Source, line: int, labels: list[Label]) -> list[str]:
    """The line, its carets, and under them what the labels say.

    The rightmost text stands beside the carets, the others below, each on a stem:

        p -= lr * (trust - a)
                   ^^^^^   ^ [cols, cols]
                   |
                   [rows, 1]
    """
    text, columns = _display(source.line_text(line))
    origin = source.line_starts[line - 1]
    marks = []  # (first column, end column, text), from left to right
    for label in labels:
        first = columns[min(label.span.start - origin, len(columns) - 1)]
        end = columns[min(label.span.end - origin, len(columns) - 1)]
        marks.append((first, max(end, first + 1), label.text))
    marks.sort(key=lambda mark: mark[:2])

    cut = 0
    if len(text) > WIDTH:
        place = columns[min(labels[0].span.start - origin, len(columns) - 1)]
        cut = max(0, place - WIDTH // 2)
        text = ("…" if cut else "") + text[cut + bool(cut) : cut + WIDTH] + "…"
    marks = [(_clamp(a - cut, 0), _clamp(b - cut, 1), said) for a, b, said in marks]

    carets = [" "] * marks[-1][0]
    for first, end, _ in marks:
        carets[first:end] = "^" * (end - first)
    caret_line = "".join(carets)
    said = [(first, remark) for first, _, remark in marks if remark]
    if said and said[-1][0] == marks[-1][0]:
        caret_line += " " + said.pop()[1]
    below = [_stems(said)] if said else []
    while said:
        first, remark = said.pop()
        below.append(_stems(said)[:first].ljust(first) + remark)
    return [text, caret_line, *below]


def _clamp(column: int, low: int) -> int:
    return max(low, min(column, WIDTH + low))


def _stems(said: list[tuple[int, str]]) -> str:
    stems = [" "] * (said[-1][0] + 1 if said else 0)
    for first, _ in said:
        stems[first] = "|"
    return "".join(stems)


def _display(line: str) -> tuple[str, list[int]]:
    """The line as a terminal can show it, and the column of each character (and of the end).

    Control characters become a visible sign: a rule file must not be able to drive the terminal.
    """
    shown: list[str] = []
    columns = [0]
    for char in line.rstrip("\r"):
        column = columns[-1]
        if char == "\t":
            shown.append(" " * (TAB - column % TAB))
            column += TAB - column % TAB
        elif not char.isprintable():
            shown.append("\N{REPLACEMENT CHARACTER}")
            column += 1
        else:
            shown.append(char)
            if not unicodedata.combining(char):
                column += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        columns.append(column)
    return "".join(shown), columns
