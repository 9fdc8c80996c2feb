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
from optdsl.syntax.tables import Fault, Grammar, column

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
    module = ast.Module(Span(source, 0, len(source.text)), None, (), ())
    faults: dict[int, Fault] = {}
    grammar.builder.begin(source, sink)
    for _ in range(MAX_ERRORS):
        problem = None
        try:
            module = grammar.lark.parse(text)  # type: ignore[assignment]
        except (UnexpectedCharacters, UnexpectedToken) as failure:
            problem = describe(failure, text, grammar)
        faults |= {fault.start: fault for fault in grammar.blocks.faults}
        if problem is None:
            break
        # A header is innocent if its body was there, and was blanked out.
        emptied = problem.code == "E107" and _has_body(original, problem)
        if not emptied:
            _report(problem, source, sink)
        text = _blanked(text, problem, emptied, grammar)
    _report_faults(faults, original, source, sink)
    return module, text == original


def _prepared(text: str) -> str:
    """The last line ends; a byte order mark is an empty first line, as far as Lark can see."""
    if text.startswith("\ufeff"):
        text = "\n" + text[1:]
    return text + "\n"


def _report(problem: Problem, source: Source, sink: Sink) -> None:
    more = [Label(Span(source, start, end), text) for start, end, text in problem.more]
    span = Span(source, problem.start, problem.end)
    sink.error(problem.code, problem.message, span, "", *more, help=problem.help)


def _report_faults(faults: dict[int, Fault], text: str, source: Source, sink: Sink) -> None:
    """Wrong indentation: of lines in a row that are wrong alike, and of all tabs, the first."""
    tabs = [start for start, fault in faults.items() if fault.code == "E104"]
    for start, fault in faults.items():
        notes = []
        if fault.code != "E104":
            again = column(text, start) == _column_before(text, start)
        else:
            again = start > min(tabs)
            notes = [f"{len(tabs)} lines are indented by tabs"] if len(tabs) > 1 else []
        if not again:
            span = Span(source, start, start + 1)
            sink.error(fault.code, fault.message, span, help=fault.help, notes=notes)


def _column_before(text: str, start: int) -> int | None:
    """The column of the line of code before the one of `start`."""
    for line in reversed(text[:start].split("\n")[:-1]):
        code = line.lstrip(" \t")
        if code.strip() and not code.startswith("#"):
            return column(line, len(line) - len(code))
    return None


def _has_body(original: str, header: Problem) -> bool:
    """Whether the next line of code is deeper than the header."""
    code = re.compile(r"\n[ \t]*(?=[^\s#])").search(original, header.end)
    return code is not None and column(original, code.end()) > column(original, header.resume)


def _blanked(text: str, problem: Problem, emptied: bool, grammar: Grammar) -> str:
    start = problem.resume
    if problem.code == "E102" and text.startswith('"""', problem.start):
        end = grammar.next_definition(text, start)  # what follows is prose
    elif emptied and column(text, start) == 0:
        end = problem.end  # of a definition nothing but its header is left
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
