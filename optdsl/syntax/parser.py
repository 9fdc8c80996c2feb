"""Text → AST, with all syntax errors of the file in one run.

Input: a `Source`. Output: `ast.Module`, and diagnostics E1xx in the sink. Relies on: `tables` for
the grammar, `builder` for the nodes, `errors` for the wording.
Does not do: names, types, reading files.
"""

from __future__ import annotations

import functools
import re
import threading

from lark import Token, UnexpectedCharacters, UnexpectedToken

from optdsl.diagnostics import Label, Sink
from optdsl.source import Source, Span
from optdsl.syntax import ast
from optdsl.syntax.errors import Problem, describe
from optdsl.syntax.tables import Blocks, Grammar, column

MAX_DEPTH = 100  # nesting of blocks and expressions; later passes recurse a few calls per level
MAX_ERRORS = 50  # each costs another parse of the text

_lock = threading.Lock()  # the parser's state is one per process
_grammar = functools.cache(Grammar)


def parse(source: Source, sink: Sink) -> ast.Module:
    """The tree of `source`. After an error it lacks the statements that were in error.

    Never raises for what is in the text: every fault is a diagnostic with a position.
    """
    with _lock:
        module, whole = _parse(source, sink, _grammar())
    if whole and not module.imports and not module.items:
        mend = "a rule begins with `optimizer NAME(lr = 1e-3):`"
        sink.error("E116", "this file defines nothing", Span(source, 0, 0), help=mend)
    return _without_deep_items(module, sink)


def tokens(source: Source) -> list[Token]:
    """The tokens of a text without syntax errors, _NL, _INDENT and _DEDENT among them.

    All words that may be names are of type NAME. Comments are no tokens: they lie between the
    tokens, or in an _NL.
    """
    with _lock:
        grammar = _grammar()
        found = list(grammar.lark.lex(_prepared(source.text)))
    return [t.update(type="NAME") if t.type in grammar.names else t for t in found]


def _parse(source: Source, sink: Sink, grammar: Grammar) -> tuple[ast.Module, bool]:
    """The tree, and whether it is the whole text's.

    At an error the statement is blanked out and the text parsed again, which keeps every offset.
    """
    text = original = _prepared(source.text)
    grammar.builder.begin(source, sink)
    for _ in range(MAX_ERRORS):
        try:
            module = grammar.lark.parse(text)
        except (UnexpectedCharacters, UnexpectedToken) as failure:
            problem = describe(failure, text, grammar)
        else:
            assert isinstance(module, ast.Module)
            _report_layout(grammar.blocks, source, sink)
            return module, text == original
        # A header is innocent if its body was there, and was blanked out.
        if problem.code != "E107" or not _has_body(original, problem):
            _report(problem, source, sink)
        text = _blanked(text, problem, grammar)
    _report_layout(grammar.blocks, source, sink)
    return ast.Module(Span(source, 0, len(source.text)), None, (), ()), False


def _prepared(text: str) -> str:
    """The last line ends; a byte order mark is an empty first line, as far as Lark can see."""
    if text.startswith("\ufeff"):
        text = "\n" + text[1:]
    return text + "\n"


def _report(problem: Problem, source: Source, sink: Sink) -> None:
    more = [Label(Span(source, start, end), text) for start, end, text in problem.more]
    span = Span(source, problem.start, problem.end)
    sink.error(problem.code, problem.message, span, "", *more, help=problem.help)


def _report_layout(blocks: Blocks, source: Source, sink: Sink) -> None:
    for fault in blocks.faults:
        span = Span(source, fault.start, fault.start + 1)
        sink.error(fault.code, fault.message, span, help=fault.help)
    for offset in blocks.tabs[:1]:
        count = len(blocks.tabs)
        notes = [f"{count} lines of this file are indented by tabs"] if count > 1 else []
        span, mend = Span(source, offset, offset + 1), "indent with four spaces"
        sink.error("E104", "a tab in the indentation", span, help=mend, notes=notes)


def _has_body(original: str, header: Problem) -> bool:
    """Whether the next line of code is deeper than the header."""
    code = re.compile(r"\n[ \t]*(?=[^\s#])").search(original, header.end)
    return code is not None and column(original, code.end()) > column(original, header.resume)


def _blanked(text: str, problem: Problem, grammar: Grammar) -> str:
    start = problem.resume
    if problem.code == "E102" and text.startswith('"""', problem.start):
        end = grammar.next_definition(text, start)  # what follows is prose
    else:
        end = grammar.extent(text, start)
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def _without_deep_items(module: ast.Module, sink: Sink) -> ast.Module:
    """Leave out what is nested so deep that a recursive pass would overflow Python's stack."""
    kept = []
    for item in module.items:
        deep = _node_at_depth(item, MAX_DEPTH)
        if deep is None:
            kept.append(item)
            continue
        message = f"nested more than {MAX_DEPTH} deep"
        mend = "give a name to a part of it"
        start = Span(deep.span.source, deep.span.start, deep.span.start + 1)
        sink.error("E115", message, start, help=mend)
    return module.replace(items=tuple(kept))


def _node_at_depth(root: ast.Node, limit: int) -> ast.Node | None:
    level = [root]
    for _ in range(limit):
        level = [child for node in level for child in ast.children(node)]
    return level[0] if level else None
