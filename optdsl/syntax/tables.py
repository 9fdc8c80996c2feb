"""The grammar made ready: Lark's tables, and the layer that turns indentation into tokens.

Input: `grammar/optdsl.lark`. Output: `Grammar`, the parser; `Blocks`, which stands between lexer
and parser and remembers where it is, for the messages. Relies on: `builder` for the nodes.
Does not do: word messages (`errors`), go on after an error (`parser`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import lark
from lark import Lark, Token
from lark.indenter import Indenter
from lark.lexer import PatternStr

from optdsl import resources
from optdsl.syntax.builder import Builder

TAB = 4  # columns a tab counts for, so that a file of tabs gives one error and not a hundred
CLOSES = {"LPAR": "RPAR", "LSQB": "RSQB"}


@dataclass(frozen=True)
class Fault:
    """A line at a wrong column. It is read as part of the block it most likely belongs to."""

    code: str
    message: str
    start: int
    help: str | None = None


class Blocks(Indenter):
    """Adds _INDENT and _DEDENT, drops line ends inside brackets.

    `open` are the brackets not yet closed, `first` and `last` the first token of the logical line
    and the last token seen, `header` the first and last token of the line before, `faults` what
    was wrong so far, `moved` the columns that lines were taken for that stand in none.
    """

    NL_type = "_NL"
    OPEN_PAREN_types: ClassVar = list(CLOSES)
    CLOSE_PAREN_types: ClassVar = list(CLOSES.values())
    INDENT_type = "_INDENT"
    DEDENT_type = "_DEDENT"
    tab_len = TAB

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        # The columns of the blocks around the line, and whether the parser knows of each.
        self.levels = [(0, True)]
        self.open: list[Token] = []
        self.first: Token | None = None
        self.last: Token | None = None
        self.header: tuple[Token, Token] | None = None
        self.faults: list[Fault] = []
        self.moved: dict[int, int] = {}
        return self._tokens(stream)

    def _tokens(self, stream: Iterator[Token]) -> Iterator[Token]:
        for token in stream:
            if token.type == "_NL":
                if not self.open:
                    yield from self._line_end(token)
                continue
            if self.last is None and token.column and token.column > 1:
                yield from self._begin(token.start_pos or 0, token.column - 1)
            if self.first is None:
                self.first = token
            yield token
            self.last = token
            if token.type in CLOSES:
                self.open.append(token)
            elif self.open and token.type == CLOSES[self.open[-1].type]:
                self.open.pop()
        end = token.end_pos if self.last else 0
        yield from self._begin(end or 0, 0)

    def _line_end(self, token: Token) -> Iterator[Token]:
        yield token
        if self.first and self.last:
            self.header = (self.first, self.last)
        self.first = None
        end = token.end_pos or 0
        indentation = token.rpartition("\n")[2]
        if "\t" in indentation:
            place = end - len(indentation) + indentation.index("\t")
            self._fault("E104", "a tab in the indentation", place, "indent with four spaces")
        yield from self._begin(end, len(indentation.expandtabs(TAB)))

    def _begin(self, start: int, column: int) -> Iterator[Token]:
        """The tokens that a line beginning at `start`, in `column` from 0, opens or closes."""
        if self.last is None:
            if column:
                self._fault("E106", f"the first line is indented by {column}", start)
            self.levels = [(column, True)]
            return
        columns = [level for level, _ in self.levels]
        if column > columns[-1]:
            known = self.last.type == "COLON"
            self.levels.append((column, known))
            if known:
                yield Token("_INDENT", "", start, end_pos=start)
            else:
                message = "this line is indented, but the line before it begins no block"
                self._fault("E106", message, start)
            return
        if column < columns[0]:  # the first line was at fault
            columns[0] = column
            self.levels[0] = (column, True)
        if column not in columns:
            around = " or ".join(str(level) for level in columns)
            message = f"this line is indented by {column}, as no block around it is"
            self._fault("E105", message, start, f"indent it by {around}")
            column = min(level for level in columns if level > column)
            self.moved[start] = column
        while column < self.levels[-1][0]:
            _, known = self.levels.pop()
            if known:
                yield Token("_DEDENT", "", start, end_pos=start)

    def _fault(self, code: str, message: str, start: int, mend: str | None = None) -> None:
        self.faults.append(Fault(code, message, start, mend))


class Grammar:
    """Lark's parser with what it calls. `spelled`: each terminal that is written one way only;
    `names`: the terminals that may be names.

    Building the tables takes 0.4 s, so they are kept in the user's cache, and load in 15 ms.
    Raises InternalError if the installation has no grammar.
    """

    def __init__(self) -> None:
        path = resources.directory("grammar") / "optdsl.lark"
        text = path.read_text(encoding="utf-8")
        key = hashlib.sha256(f"{lark.__version__} {text}".encode()).hexdigest()[:16]
        cache = resources.cache_directory()
        self.builder = Builder()
        self.blocks = Blocks()
        self.lark = Lark(
            text,
            parser="lalr",
            lexer="basic",
            start="module",
            postlex=self.blocks,
            transformer=self.builder,
            cache=str(cache / f"grammar-{key}.lark") if cache else False,
        )
        self.spelled = {
            terminal.name: terminal.pattern.value
            for terminal in self.lark.terminals
            if isinstance(terminal.pattern, PatternStr)
        }
        self.names = frozenset(
            symbol.name
            for rule in self.lark.rules
            if rule.origin.name == "name"
            for symbol in rule.expansion
        )
        definitions = "|".join(
            self.spelled[name] for name in ("OPTIMIZER", "WRAPPER", "TRANSFORM", "DEF", "IMPORT")
        )
        self._definition = re.compile(rf"^({definitions})\b", re.MULTILINE)
        branches = "|".join(self.spelled[name] for name in ("ELSE", "ELIF", "OTHERWISE"))
        self._continues = re.compile(rf"[)\]]|({branches})\b")

    def next_definition(self, text: str, start: int) -> int:
        """The first line from `start` on that begins with the word of a definition."""
        following = self._definition.search(text, start)
        return following.start() if following else len(text)

    def extent(self, text: str, start: int) -> int:
        """Where the statement that begins at `start` ends, judged by indentation alone.

        Its lines are the deeper ones that follow, with the branches and the closing brackets that
        are as deep. In the first column it is a definition, and ends where the next one begins.
        """
        own = self.blocks.moved.get(start, column(text, start))
        if own == 0:
            return self.next_definition(text, start + 1)
        end = text.find("\n", start)
        while 0 <= end < len(text) - 1:
            begin = end + 1
            end = text.find("\n", begin)
            line = text[begin : end if end >= 0 else None]
            code = line.lstrip(" \t")
            if not code.strip() or code.startswith("#"):
                continue
            depth = column(text, begin + len(line) - len(code))
            if depth < own or (depth == own and not self._continues.match(code)):
                return begin - 1
        return len(text) if end < 0 else end


def column(text: str, offset: int) -> int:
    """The column of `offset` from 0, with tabs counted as `TAB`."""
    return len(text[text.rfind("\n", 0, offset) + 1 : offset].expandtabs(TAB))
