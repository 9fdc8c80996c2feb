"""What a syntax error is called, where it is shown and how it may be mended.

Input: Lark's exception and the state of `Blocks` when it was raised. Output: a `Problem`.
Relies on: the terminal names of `grammar/optdsl.lark`. Does not do: recover (`parser`).
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from dataclasses import dataclass

from lark import Token, UnexpectedCharacters, UnexpectedToken

from optdsl.diagnostics import did_you_mean
from optdsl.syntax.tables import CLOSES, Blocks, Grammar


@dataclass(frozen=True)
class Problem:
    """A diagnostic in offsets. Parsing goes on after the statement that begins at `resume`."""

    code: str
    message: str
    start: int
    end: int
    resume: int
    help: str | None = None
    more: tuple[tuple[int, int, str], ...] = ()


# Terminals that are not shown as they are written. Those of one meaning share one phrase.
PHRASES = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a string",
    "DOCSTRING": "a docstring",
    "AUGMENT": "`=`",
    "_NL": "the end of the line",
    "_INDENT": "an indented block",
    "_DEDENT": "the end of the block",
    "$END": "the end of the file",
}
OPERATORS = {"OR", "AND", "COMPARE", "IN", "MATCHES", "PLUS", "MINUS", "STAR", "TIMES", "CARET"}
EXPRESSION = {"NAME", "NUMBER", "STRING", "TRUE", "FALSE", "NONE", "NOT", "MINUS", "LPAR", "LSQB"}
LAYOUT = {"_NL", "_DEDENT", "$END"}
BRANCHES = {"ELSE": "IF", "ELIF": "IF", "OTHERWISE": "WHEN", "UNTIL": "REPEAT"}
LOOKALIKES = {"while": "repeat", "class": "optimizer", "function": "def", "let": "state"}
GREEK = re.compile(r"GREEK (?:SMALL|CAPITAL) LETTER (\w+)")
BRACKET = re.compile(r'"""([^"]|"(?!""))*"""|"[^"\n]*"|#[^\n]*|[()\[\]]')
QUOTE = "strings are written in double quotes"

# How other languages spell what this one spells otherwise, by the character that gives it away.
FOREIGN = {
    "'": QUOTE,
    "“": QUOTE,
    "”": QUOTE,
    "!": "negation is `not x`; `!=` is written without a space",
    "&": "write `and`",
    "|": "write `or`",
    "~": "write `not`",
    ";": "each statement goes on a line of its own",
    "\\": "an expression goes on in the next line inside brackets",
    "{": "blocks are made by indentation, tuples by `(` and `)`",
    "}": "blocks are made by indentation, tuples by `(` and `)`",
    "−": "write `-`",
    "×": "write `*`",
    "·": "write `*`",
    "÷": "write `/`",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "²": "write `^2`",
    "√": "write `sqrt(x)`",
    "\r": "lines end with a line feed, or with a carriage return and a line feed",
}


@dataclass(frozen=True)
class _Place:
    """An unexpected token, and all that is known where it stands."""

    text: str
    token: Token
    accepts: frozenset[str]
    grammar: Grammar

    @property
    def blocks(self) -> Blocks:
        return self.grammar.blocks

    @property
    def start(self) -> int:
        """Layout has no place of its own: it is shown at the end of what stands before it."""
        if self.token.type in LAYOUT and self.blocks.last is not None:
            return self.blocks.last.end_pos or 0
        return self.token.start_pos or 0

    @property
    def end(self) -> int:
        return self.start if self.token.type in LAYOUT else self.token.end_pos or 0

    @property
    def resume(self) -> int:
        return self.start if self.blocks.first is None else self.blocks.first.start_pos or 0

    def problem(self, code: str, message: str, mend: str | None = None) -> Problem:
        return Problem(code, message, self.start, self.end, self.resume, help=mend)


def describe(
    failure: UnexpectedCharacters | UnexpectedToken, text: str, grammar: Grammar
) -> Problem:
    """What went wrong in `text`, just after the failure, when `grammar.blocks` still knows."""
    if isinstance(failure, UnexpectedCharacters):
        return _characters(failure.pos_in_stream or 0, text, grammar)
    place = _Place(text, failure.token, frozenset(failure.accepts or ()), grammar)
    for rule in (_unclosed, _unopened, _no_block, _stray_branch, _word_as_name):
        problem = rule(place)
        if problem:
            return problem
    expected = _listed(_expected(place.accepts, grammar))
    return place.problem("E110", f"expected {expected}, found {_found(place)}", _mend(place))


# ---------------------------------------------------------------- characters


def _characters(start: int, text: str, grammar: Grammar) -> Problem:
    first = grammar.blocks.first
    resume = start if first is None else first.start_pos or 0
    line = text[start : text.find("\n", start)]
    if line.startswith('"'):
        what = "docstring" if line.startswith('"""') else "string"
        mark = '"""' if what == "docstring" else '"'
        end = start + (3 if what == "docstring" else len(line))
        message, mend = f"this {what} has no end", f"close it with `{mark}`"
        return Problem("E102", message, start, end, resume, help=mend)
    number = re.match(r"\.?[0-9][\w.]*", line)
    if number:
        message = f"`{_shown(number[0])}` is neither a number nor a name"
        mend = "a name begins with a letter; a product is written with `*`"
        return Problem("E103", message, start, start + number.end(), resume, help=mend)
    word = re.match(r"[^\W\d]\w*", line)
    if word and line[0] not in FOREIGN:
        message = f"`{_shown(word[0])}` is not a name: names are made of a-z, A-Z, 0-9 and _"
        return Problem("E101", message, start, start + word.end(), resume, help=_latin(word[0]))
    char = line[0]
    end = start + (2 if line[1:2] == char else 1)
    message = f"the language has no `{_shown(char)}`"
    if not char.isprintable() or char.isspace():
        message = f"stray character {_shown(char)} ({unicodedata.name(char, 'no name').lower()})"
    spaces = "only spaces and line feeds separate words" if char.isspace() else None
    way_out = _without_dot(line[1:]) if char == "." else FOREIGN.get(char, spaces)
    return Problem("E101", message, start, end, resume, help=way_out)


def _without_dot(rest: str) -> str | None:
    """`p.grad`, `torch.sign(g)`: what stands behind the dot is a name of its own."""
    mend = "after a dot comes only the transpose, `x.T`"
    part = re.match(r"([A-Za-z_]\w*) *(\(?)", rest)
    if part is None:
        return mend
    if part[1] == "grad":
        return f"the gradient of `p` is `g`; {mend}"
    name = _shown(part[1]) + ("(...)" if part[2] else "")
    return f"write `{name}`, without what stands before it; {mend}"


def _latin(word: str) -> str | None:
    """`β1` → beta1: Greek letters by their names."""
    letters = []
    for char in word:
        name = GREEK.fullmatch(unicodedata.name(char, ""))
        if name is None and not char.isascii():
            return None
        letters.append(name[1].lower() if name else char)
    return f"write `{''.join(letters)}`"


# ---------------------------------------------------------------- tokens


def _unclosed(place: _Place) -> Problem | None:
    """A bracket that is open where the statement ends, judged by indentation."""
    if not place.blocks.open:
        return None
    bracket = place.blocks.open[-1]
    resume = place.resume
    depth = 1
    for sign in BRACKET.finditer(
        place.text[: place.grammar.extent(place.text, resume)], place.start
    ):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(sign[0], 0)
        if depth == 0:
            return None
    start, end = bracket.start_pos or 0, bracket.end_pos or 0
    closing = place.grammar.spelled[CLOSES[bracket.type]]
    found = PHRASES["$END"] if place.token.type in LAYOUT else _found(place)
    mend = f"a `{closing}` is missing before {found}"
    return Problem("E108", f"this `{bracket}` is never closed", start, end, resume, help=mend)


def _unopened(place: _Place) -> Problem | None:
    if place.token.type not in CLOSES.values():
        return None
    if not place.blocks.open:
        return place.problem("E109", f"this `{place.token}` closes nothing")
    bracket = place.blocks.open[-1]
    if CLOSES[bracket.type] == place.token.type:
        return None
    problem = place.problem("E109", f"`{place.token}` cannot close `{bracket}`")
    opened = (bracket.start_pos or 0, bracket.end_pos or 0, "opened here")
    return dataclasses.replace(problem, more=(opened,))


def _no_block(place: _Place) -> Problem | None:
    if place.accepts != {"_INDENT"} or place.blocks.header is None:
        return None
    first, last = place.blocks.header
    start = first.start_pos or 0
    message = f"an indented block is missing after this `{_shown(first)}`"
    mend = "what belongs to it stands below, four spaces further in"
    return Problem("E107", message, start, last.end_pos or 0, start, help=mend)


def _stray_branch(place: _Place) -> Problem | None:
    kind = place.token.type
    if kind not in BRANCHES or place.blocks.first is not place.token:
        return None
    owner = place.grammar.spelled[BRANCHES[kind]]
    if kind == "UNTIL":
        return place.problem("E112", f"`{place.token}` stands only at the end of a `{owner}`")
    mend = {
        "ELSE": "the last arm of a `when` is `otherwise:`",
        "OTHERWISE": "the last arm of an `if` is `else:`",
        "ELIF": "the next arm of a `when` is another `when`",
    }[kind]
    return place.problem("E112", f"this `{place.token}` belongs to no `{owner}`", mend)


def _word_as_name(place: _Place) -> Problem | None:
    """`step` where a name is wanted, or the `=` of `step = 1`."""
    word = place.token
    first = place.blocks.first
    if word.type in ("EQUAL", "AUGMENT") and first is not None and place.blocks.last is first:
        word = first
    elif "NAME" not in place.accepts or "STATE" in place.accepts:
        return None
    spelled = place.grammar.spelled.get(word.type, "")
    if not spelled.isalpha():
        return None
    start, end = word.start_pos or 0, word.end_pos or 0
    mend = _mend(place) or f"choose another name, `{word}_` for instance"
    message = f"`{word}` is a word of the language and cannot be a name"
    return Problem("E111", message, start, end, place.resume, help=mend)


# ---------------------------------------------------------------- wording


def _expected(accepts: frozenset[str], grammar: Grammar) -> list[str]:
    """What could have stood there, from the general to the particular."""
    left = set(accepts)
    phrases = []
    if "STATE" in left:
        return ["a statement"]
    if "OPTIMIZER" in left:
        return ["a definition"]
    if "AUGMENT" in left:
        left -= {"LSQB", "COMMA", "EQUAL"}
    if "NUMBER" in left:
        phrases.append("an expression")
        left -= EXPRESSION | grammar.names | {"STAR"}
    elif "NAME" in left:
        left -= grammar.names - {"NAME"}
    elif left & OPERATORS - {"IN"}:
        phrases.append("an operator")
        left -= OPERATORS | {"LPAR", "LSQB", "TRANSPOSE"}
    order = sorted(left, key=lambda kind: (kind.startswith("_"), kind))
    return phrases + [PHRASES.get(kind) or f"`{grammar.spelled[kind]}`" for kind in order]


def _listed(phrases: list[str]) -> str:
    *most, last = phrases or ["nothing"]
    return f"{', '.join(most)} or {last}" if most else last


def _found(place: _Place) -> str:
    kind = place.token.type
    if kind in LAYOUT or kind == "DOCSTRING":
        return PHRASES[kind]
    return f"`{_shown(place.token)}`"


def _shown(text: str) -> str:
    """At most 30 characters, none of which a terminal would act on."""
    safe = "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in text)
    return safe if len(safe) <= 30 else safe[:29] + "…"


def _mend(place: _Place) -> str | None:
    """The likely way out of an unexpected token, or None."""
    token, last, first = place.token, place.blocks.last, place.blocks.first
    before = "" if last is None else last.type
    if "AUGMENT" in place.accepts and token.type in ("STAR", "TIMES", "CARET"):
        return "only + - * / have a short form: `x = x^2`"
    if token.type == "STAR" and before == "STAR":
        return "powers are written `x^n`"
    if token.type == "EQUAL" and before in ("TIMES", "CARET"):
        return "only + - * / have a short form: `x = x // y`"
    if token.type == "EQUAL" and "COMPARE" in place.accepts:
        return "`=` assigns, `==` compares"
    if token.type == "AUGMENT" and "EQUAL" in place.accepts:
        return f"`{token}` updates one name"
    if token.type == "IF":
        return "a choice inside an expression is `where(condition, a, b)`"
    if before == "IMPORT":
        return "a path relative to this file, in double quotes; shipped rules need no import"
    if token.type in ("PLUS", "MINUS") and last is first is not None:
        return f"write `{first} {token}= 1`"
    if token.type == "PLUS":
        return "a sign `+` is left out"
    if token.type == "COLON" and place.blocks.open and place.blocks.open[-1].type == "LSQB":
        return "there are no slices: `take(x, i)` is the rows of x at the positions i"
    if token.type == "DOCSTRING":
        return "a docstring is the first thing of a file or of a body"
    if "COLON" in place.accepts and token.type == "_NL" and "NAMED" not in place.accepts:
        return "a line that begins a block ends with `:`"
    if place.accepts == {"_NL"} and before == "COLON":
        return "the body begins on the next line"
    if first is not None and first.type == "STATE" and before == "COLON":
        return "a state has p's shape; another one stands in brackets, as in `state v: [rows, 1]`"
    if (
        first is not None
        and first.type == "STATE"
        and token.type in place.grammar.names | {"COLON"}
    ):
        return "what a state starts from, `= …`, is the last of its parts"
    return _mend_start(place)


def _mend_start(place: _Place) -> str | None:
    """The way out of a line that begins with a name and is no assignment."""
    first = place.blocks.first
    if first == "from":
        return 'write `import "rules.opt"`; rules that ship need no import'
    if first is None or first.type != "NAME":
        return None
    words = [word for word in place.grammar.spelled.values() if word.isalpha()]
    meant = LOOKALIKES.get(first) or did_you_mean(first, words)
    if place.token is first or place.blocks.last is first:
        if meant and place.token.type != "LPAR":
            return f"did you mean `{meant}`?"
        if "OPTIMIZER" in place.accepts:
            return "statements stand in the body of an `optimizer`, `wrapper`, `transform` or `def`"
        if place.token.type in ("LPAR", "_NL"):
            return "a line that only computes does nothing: assign the value, `y = …`"
    return None
