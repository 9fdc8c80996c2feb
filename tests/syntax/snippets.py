"""Rule texts for the tests of the syntax, and what they are compared by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from optdsl.diagnostics import Diagnostic, Sink
from optdsl.source import Source, Span
from optdsl.syntax import ast
from optdsl.syntax.parser import parse

ROOT = Path(__file__).parents[2]
FILES = sorted(Path(__file__).with_name("snippets").glob("*.opt"))
SHIPPED = sorted((ROOT / "optdsl").glob("*/*.opt"))


def definitions() -> list[str]:
    """Each definition of each file as a text of its own."""
    pattern = re.compile(r"^(?:optimizer|wrapper|transform|def)\b", re.MULTILINE)
    found = []
    for path in (*FILES, *SHIPPED):
        text = path.read_text()
        starts = [match.start() for match in pattern.finditer(text)]
        ends = [*starts[1:], len(text)]
        found += [text[a:b].strip() + "\n" for a, b in zip(starts, ends, strict=True)]
    return found


def parsed(text: str) -> ast.Module:
    """The tree of a text that has no errors."""
    sink = Sink()
    module = parse(Source("test.opt", text), sink)
    sink.check()
    return module


def diagnosed(text: str) -> tuple[Diagnostic, ...]:
    sink = Sink()
    parse(Source("test.opt", text), sink)
    return sink.diagnostics


def body(*lines: str) -> tuple[ast.Stmt, ...]:
    """The statements of a rule made of these lines."""
    text = "optimizer X():\n" + "".join(f"    {line}\n" for line in lines)
    item = parsed(text).items[0]
    assert isinstance(item, ast.Optimizer)
    return item.body


def expression(text: str) -> ast.Expr:
    statement = body(f"x = {text}")[0]
    assert isinstance(statement, ast.Assign)
    return statement.value


def walk(node: ast.Node) -> Iterator[ast.Node]:
    yield node
    for child in ast.children(node):
        yield from walk(child)


def bare(value: object) -> object:
    """A tree as nested tuples without spans, for comparison."""
    if isinstance(value, ast.Node):
        fields = [getattr(value, field) for field in value.__match_args__]
        kept = [bare(field) for field in fields if not isinstance(field, Span)]
        return (type(value).__name__, *kept)
    if isinstance(value, tuple):
        return tuple(bare(item) for item in value)
    return value


def lisp(node: ast.Expr) -> str:
    """An expression with all its brackets: `a + b * c` is `(+ a (* b c))`."""
    match node:
        case ast.Number():
            return repr(node.value)
        case ast.String():
            return repr(node.value)
        case ast.Bool():
            return str(node.value).lower()
        case ast.NoneLiteral():
            return "none"
        case ast.Name():
            return node.name
        case ast.Unary():
            return f"({node.op} {lisp(node.operand)})"
        case ast.Binary():
            return f"({node.op} {lisp(node.left)} {lisp(node.right)})"
        case ast.Compare():
            first, *rest = (lisp(operand) for operand in node.operands)
            pairs = zip(node.ops, rest, strict=True)
            return f"({first} {' '.join(f'{op} {operand}' for op, operand in pairs)})"
        case ast.Call():
            args = [(f"{a.name}:" if a.name else "") + lisp(a.value) for a in node.args]
            return f"{node.function}({', '.join(args)})"
        case ast.Index():
            return f"{lisp(node.base)}[{lisp(node.index)}]"
        case ast.Transpose():
            return f"{lisp(node.base)}.T"
        case ast.Tuple():
            return f"<{', '.join(lisp(item) for item in node.items)}>"
        case ast.Star():
            return f"*{node.name}"
        case ast.ShapeLiteral():
            return f"[{', '.join(lisp(dim) for dim in node.shape.dims)}]"
    raise AssertionError(node)
