"""How a line is spaced: one text for messages, dumps and the formatter.

Input: tokens, or an expression. Output: text. Relies on: `parser.tokens`.
Does not do: lines, indentation, comments (`layout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lark import Token

from optdsl.source import Source
from optdsl.syntax import ast
from optdsl.syntax.parser import tokens

OPENING = {"LPAR", "LSQB"}
CLOSING = {"RPAR", "RSQB"}
# After these comes an operator, a call's arguments or an index; after all else an operand.
ENDS_OPERAND = {"NAME", "NUMBER", "STRING", "TRUE", "FALSE", "NONE", "TRANSPOSE"} | CLOSING


def expression_text(expression: ast.Expr) -> str:
    """The expression as it was written, on one line and spaced as the formatter does."""
    source = Source(expression.span.source.name, expression.span.text)
    return spaced(token for token in tokens(source) if not token.type.startswith("_"))


def spaced(line: Iterable[Token]) -> str:
    """One line of tokens: a space round binary operators except `^`, and after commas."""
    return "".join(blank + token for blank, token in with_blanks(line))


def with_blanks(line: Iterable[Token]) -> Iterator[tuple[str, Token]]:
    """Each token with what stands before it: a space, or nothing."""
    operand = False  # whether the token before ends an operand
    tight = True  # whether the next token stands right after it
    for token in line:
        kind = token.type
        yield "" if tight or _clings(kind, operand) else " ", token
        sign = kind in ("MINUS", "STAR") and not operand
        tight = kind in OPENING or kind == "CARET" or sign
        # A name after an operand is a word of a declaration, such as `over`.
        operand = kind in ENDS_OPERAND and not (kind == "NAME" and operand)


def _clings(kind: str, operand: bool) -> bool:
    """Whether a token of this kind stands right after the one before."""
    if kind in CLOSING or kind in ("COMMA", "COLON", "CARET", "TRANSPOSE"):
        return True
    return kind in OPENING and operand
