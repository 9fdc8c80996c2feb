"""Every syntax error: its code, its place, what is said, and that the others are found as well."""

from __future__ import annotations

import re

import pytest

from optdsl.diagnostics import Diagnostic, Sink
from optdsl.source import Source
from optdsl.syntax import ast
from optdsl.syntax.parser import MAX_DEPTH, parse
from optdsl.syntax.tables import Grammar
from tests.syntax.snippets import diagnosed, parsed

HEAD = "optimizer X():\n"
MARK = "‸"  # stands before the character at which the error is reported

TERMINALS = {terminal.name.strip("_") for terminal in Grammar().lark.terminals} | {
    "INDENT",
    "DEDENT",
    "END",
}

# In a rule's body: code, text with a mark, part of the message, part of the help (None: any).
IN_BODY = [
    # characters
    ("E101", "p = ‸'a'", "no `'`", "double quotes"),
    ("E101", "p = a ‸&& b", "no `&`", "`and`"),
    ("E101", "p = a ‸| b", "no `|`", "`or`"),
    ("E101", "p = ‸!a", "no `!`", "`not x`"),
    ("E101", "p = a‸; q = b", "no `;`", "a line of its own"),
    ("E101", "p = a + ‸\\", "no `\\`", "inside brackets"),
    ("E101", "p = g‸.data", "no `.`", "`x.T`"),
    ("E101", "p = g‸.Tx", "no `.`", "`x.T`"),
    ("E101", "p = p‸.grad", "no `.`", "is `g`"),
    ("E101", "p = torch‸.sign(g)", "no `.`", "write `sign(...)`"),
    ("E101", "p = math‸.pi * g", "no `.`", "write `pi`"),
    ("E101", "p = ‸{a}", "no `{`", "indentation"),
    ("E101", "p = ‸β1 * g", "`β1` is not a name", "`beta1`"),
    ("E101", "p = ‸ñ * g", "`ñ` is not a name", None),
    ("E101", "p = a ‸× b", "no `×`", "`*`"),
    ("E101", "p = a‸²", "no `²`", "`^2`"),
    ("E101", "p = a ‸≤ b", "no `≤`", "`<=`"),
    ("E101", "p = a‸\u00a0+ b", "U+00A0 (no-break space)", "only spaces"),
    ("E101", "p = a‸\x00", "U+0000", None),
    ("E101", "p = a‸\x1b[31m", "U+001B", None),
    ("E101", "p = a‸\rq = b", "U+000D", "line feed"),
    ("E101", "p = ‸$x", "no `$`", None),
    ("E102", 'state m named ‸"abc', "string has no end", 'close it with `"`'),
    ("E102", '‸"""abc', "docstring has no end", '`"""`'),
    ("E103", "p = ‸3x", "`3x` is neither", "product"),
    ("E103", "p = ‸1e", "`1e` is neither", None),
    ("E103", "p = ‸1.5.2", "`1.5.2` is neither", None),
    ("E103", "p = ‸1__0", "`1__0` is neither", None),
    ("E103", "p = ‸1e999", "too large for a double", "`inf`"),
    ("E103", "p = ‸1e-999", "too small for a double", None),
    ("E103", "p = ‸9223372036854775808", "64 bits", "`inf`"),
    ("E103", f"p = ‸{'9' * 5000}", "64 bits", "`inf`"),
    # brackets
    ("E108", "p = f‸(a, b", "`(` is never closed", "`)` is missing before the end of the file"),
    ("E108", "p = f‸(a\n    q = b", "`(` is never closed", "before `q`"),
    ("E109", "p = f(a, [b‸)", "`)` cannot close `[`", None),
    ("E108", "state m: ‸[1 as int8", "`[` is never closed", "`]` is missing before `as`"),
    ("E109", "p = f(a)‸)", "`)` closes nothing", None),
    ("E109", "p = f(a‸]", "`]` cannot close `(`", None),
    ("E110", "p = (a ‸b)", "expected an operator, `,` or `)`, found `b`", None),
    ("E110", "p = f(a,\n      b ‸c,\n      d\n    )", "found `c`", None),
    # words
    ("E110", "p = g *‸* 2", "expected an expression, found `*`", "`x^n`"),
    ("E110", "p ‸**= 2", "found `*`", "short form"),
    ("E110", "p ‸//= 2", "found `//`", "short form"),
    ("E110", "a, b ‸+= 1", "found `+=`", "one name"),
    ("E110", "p =‸", "expected an expression, found the end of the line", None),
    ("E110", "p = a -‸  # more", "expected an expression, found the end of the line", None),
    ("E110", "p = ‸+1", "found `+`", "left out"),
    ("E110", "k‸++", "found `+`", "write `k += 1`"),
    ("E110", "p = g[0‸:2]", "found `:`", "`take(x, i)`"),
    ("E110", "p = g ‸if a else b", "found `if`", "where(condition"),
    ("E110", "p = f(‸, a)", "expected an expression or `)`, found `,`", None),
    ("E110", "p = (‸*)", "expected an expression or `)`, found `*`", None),
    ("E110", "norm‸(p)", "expected `=`, found `(`", "assign"),
    ("E110", "norm‸", "expected `=`, found the end of the line", "assign"),
    ("E110", "stat ‸m", "expected `=`", "did you mean `state`?"),
    ("E110", "while ‸x:\n        p = g", "expected `=`, found `x`", "`repeat`"),
    ("E110", "‸3 = p", "expected a statement, found `3`", None),
    ("E110", "f‸(x) = p", "expected `=`, found `(`", None),
    ("E110", "if a ‸= b:\n        p = g", "expected an operator or `:`", "`==` compares"),
    ("E110", "if a‸\n        p = g", "expected an operator or `:`", "ends with `:`"),
    ("E110", "if a: ‸p = g", "expected the end of the line, found `p`", "next line"),
    ("E110", "every k from ‸:\n        p = g", "expected an expression, found `:`", None),
    ("E110", "for x ‸y:\n        p = g", "expected `,` or `in`, found `y`", None),
    ("E110", "state x: ‸like p", "expected `[`, found `like`", "in brackets"),
    ("E110", "state x = 3 ‸as int8", "found `as`", "the last of its parts"),
    ("E110", "state x over ‸model", "expected `all` or `group`, found `model`", None),
    ("E110", "view ‸columns", "expected `flat`, `last` or `rows`, found `columns`", None),
    ("E110", 'p = g\n    ‸"""late"""', "found a docstring", "first thing"),
    ("E110", "‸optimizer Y():\n        p = g", "expected a statement, found `optimizer`", None),
    ("E110", "attribute depth‸", "expected `=`, found the end of the line", None),
    ("E110", "state m named ‸key", "expected a string, found `key`", None),
    ("E111", "‸step = 3", "`step` is a word of the language", "`step_`"),
    ("E111", "‸view -= 3", "`view` is a word", None),
    ("E111", "p -= ‸step * g", "`step` is a word", None),
    ("E111", "state ‸input", "`input` is a word", None),
    ("E111", "p = f(‸state = 1)", "`state` is a word", None),
    ("E111", "p = ‸if", "`if` is a word", "where(condition"),
    ("E112", "‸else:\n        p = g", "`else` belongs to no `if`", "`otherwise:`"),
    ("E112", "‸elif a:\n        p = g", "`elif` belongs to no `if`", None),
    ("E112", "‸otherwise:\n        p = g", "`otherwise` belongs to no `when`", None),
    ("E112", "when a:\n        p = g\n    ‸else:\n        p = g", "belongs to no `if`", None),
    ("E112", "‸until a", "only at the end of a `repeat`", None),
    ("E112", "if a:\n        ‸until a", "only at the end of a `repeat`", None),
    ("E114", 'state m named "a" ‸named "b"', '`m` is given `named "b"`', "one of the two"),
    ("E114", "state m over all: [] ‸over all", "has `over all` already", None),
    ("E114", "input m: [1]: ‸int", "`m` is given `int`", None),
    # lines
    ("E104", "p = g\n‸\tp = g", "a tab", "four spaces"),
    ("E105", "p = g\n  ‸p = g", "indented by 2", "0 or 4"),
    ("E105", "if a:\n        p = g\n      ‸p = g\n    p = g", "indented by 6", "0 or 4 or 8"),
    ("E106", "p = g\n      ‸p = g\n      p = g", "begins no block", None),
    ("E106", "p = g\n      ‸if a:\n          p = g\n      p = g\n    p = g", "begins no", None),
    ("E107", "‸if a:\n    p = g", "missing after this `if`", "four spaces further in"),
    ("E107", "‸if a:\n    else:\n        p = g", "missing after this `if`", None),
    ("E107", "‸every k:", "missing after this `every`", None),
]

IN_FILE = [
    ("E106", "  ‸optimizer X():\n      p = g\n  optimizer Y():\n      p = g\n", "first line", None),
    ("E106", "\n # c\n\n ‸optimizer X():\n    p = g\n", "first line", None),
    ("E106", "  ‸optimizer X():\n      p = g\noptimizer Y():\n    p = g\n", "first line", None),
    ("E107", "‸optimizer X():\n", "missing after this `optimizer`", None),
    ("E107", "‸def f(x):\nreturn x\n", "missing after this `def`", None),
    ("E108", "optimizer X‸(lr = 1:\n    p = g\n", "never closed", "before `:`"),
    ("E108", "optimizer Q = Foo‸(a,\n", "never closed", "the end of the file"),
    ("E110", "‸p = g\n", "expected a definition, found `p`", "in the body of"),
    ("E110", "‸optimiser X():\n    p = g\n", "expected a definition", "did you mean `optimizer`?"),
    ("E110", "‸from optdsl.zoo import EMA\n", "expected a definition", "need no import"),
    ("E110", "‸class X:\n    p = g\n", "expected a definition", "did you mean `optimizer`?"),
    ("E110", "‸state m\n", "expected a definition, found `state`", None),
    ("E110", "import ‸blocks\n", "expected a string", "in double quotes"),
    ("E110", "optimizer X()‸\n    p = g\n", "expected `:` or `=`", "ends with `:`"),
    ("E110", "optimizer X‸:\n    p = g\n", "expected `=` or `(`", None),
    ("E110", "optimizer X = ‸3\n", "expected a name", None),
    ("E110", 'optimizer X():\n    p = g\n‸"""late"""\n', "found a docstring", "first thing"),
    ("E111", "optimizer ‸state():\n    p = g\n", "`state` is a word", None),
    ("E111", "def f(‸in):\n    return 1\n", "`in` is a word", None),
    ("E113", "wrapper W(c = 1, ‸inner):\n    step inner\n", "`inner` has no default", "front"),
    ("E116", "‸", "defines nothing", "optimizer NAME"),
    ("E116", "‸\n\n# only this\n", "defines nothing", None),
    ("E116", '‸"""Only this."""\n', "defines nothing", None),
]


def check(code: str, marked: str, message: str, mend: str | None) -> Diagnostic:
    before, _, after = marked.partition(MARK)
    (found,) = diagnosed(before + after)
    assert found.code == code
    assert found.span.start == len(before)
    assert message in found.message
    assert mend is None or mend in (found.help or "")
    said = f"{found.message} {found.help}".replace("optimizer NAME(", "")
    assert not TERMINALS & set(re.findall(r"\w+", said)), "terminals' names are not for readers"
    return found


@pytest.mark.parametrize(("code", "marked", "message", "mend"), IN_BODY)
def test_in_a_body(code: str, marked: str, message: str, mend: str | None) -> None:
    check(code, f"{HEAD}    {marked}\n", message, mend)


@pytest.mark.parametrize(("code", "marked", "message", "mend"), IN_FILE)
def test_in_a_file(code: str, marked: str, message: str, mend: str | None) -> None:
    check(code, marked, message, mend)


# ---------------------------------------------------------------- several errors in one run


def codes(text: str) -> list[tuple[str, int]]:
    return [(found.code, found.span.line) for found in diagnosed(text)]


def test_errors_of_several_definitions() -> None:
    text = (
        "optimizer A(lr:\n    p = g\n    nonsense here too\n\n"
        "def f(x):\n    return x +\n\n"
        "p = 3\n    q = 4\nr = 5\n\n"
        "optimizer B = 3\n"
        "import blocks\n\n"
        "wrapper C(inner):\n    step inner\n    p = )\n"
    )
    assert codes(text) == [
        ("E108", 1),
        ("E110", 6),
        ("E110", 8),
        ("E110", 12),
        ("E110", 13),
        ("E109", 17),
    ]


def test_errors_of_several_statements() -> None:
    lines = [
        "a = 1 +",
        "b = f(1, 2",
        "c = f(1,",
        "      2",
        "d = 2",
        "if a = 1:",
        "    e = )",  # goes with the line above it
        "elif b:",
        "    f = 1",
        "else:",
        "    f = 2",
        "if a == 1:",
        "    good = 1",
        "    g = (",
        "else",
        "    h = 1",
        "    i = 1 1",
        "j = 3x + 'a'",
        "norm(p)",
    ]
    text = HEAD + "".join(f"    {line}\n" for line in lines)
    assert codes(text) == [
        ("E110", 2),
        ("E108", 3),
        ("E108", 4),
        ("E110", 7),
        ("E108", 15),
        ("E110", 16),
        ("E103", 19),
        ("E110", 20),
    ]


def test_what_is_not_in_error_stays() -> None:
    sink = Sink()
    text = (
        f"{HEAD}    a = 1\n    b = +\n    if c:\n        )\n    d = 2\n\ndef f(x):\n    return x\n"
    )
    module = parse(Source("test.opt", text), sink)
    assert [item.name for item in module.items] == ["X", "f"]
    rule = module.items[0]
    assert isinstance(rule, ast.Optimizer)
    assert [s.span.text for s in rule.body] == ["a = 1", "d = 2"]
    assert len(sink.diagnostics) == 2


def test_docstring_without_an_end_hides_only_its_definition() -> None:
    text = f'{HEAD}    """Says\n    "this" and (that\n    p = g\n\noptimizer Y():\n    p = )\n'
    assert codes(text) == [("E102", 2), ("E109", 7)]


def test_misindented_lines_hide_nothing() -> None:
    columns = [(4, "a = 1"), (3, "b = )"), (4, "c = 1"), (6, "d = )"), (6, "e = )"), (4, "f = )")]
    text = HEAD + "".join(f"{' ' * column}{line}\n" for column, line in columns)
    assert codes(text) == [
        ("E105", 3),
        ("E109", 3),
        ("E106", 5),
        ("E109", 5),
        ("E109", 6),
        ("E109", 7),
    ]


def test_a_file_of_tabs_is_one_error() -> None:
    text = "optimizer X():\n\ta = 1\n\tif a:\n\t\tb = 2\n\tc = )\n"
    assert codes(text) == [("E104", 2), ("E109", 5)]
    (tab, _) = diagnosed(text)
    assert tab.notes == ("4 lines are indented by tabs",)


def test_nonsense_ends() -> None:
    assert len(diagnosed("x y\n" * 500)) == 1
    assert 10 < len(diagnosed(HEAD + "    x y\n" * 500)) <= 50
    assert diagnosed(HEAD + "    p = " + "(" * 100_000)
    assert diagnosed(HEAD + "    p = " + ")" * 100_000)
    assert diagnosed("\n" * 1000 + '"' * 999)


# ---------------------------------------------------------------- depth


def nested(kind: str, depth: int) -> str:
    """A rule `depth` deep: the definition, the statement, and so on down to the name."""
    n = depth - 3
    if kind == "blocks":
        head = "".join(f"{'    ' * i}if a:\n" for i in range(1, depth - 2))
        return f"{HEAD}{head}{'    ' * (depth - 2)}p = g\n"
    texts = {
        "sum": "a" + " + a" * n,
        "powers": "a" + "^a" * n,
        "signs": "-" * n + "a",
        "nots": "not " * n + "a",
        "index": "a" + "[0]" * n,
        "transposes": "a" + ".T" * n,
        "calls": "f(" * (n // 2) + "a" + ")" * (n // 2),
    }
    return f"{HEAD}    p = {texts[kind]}\n"


@pytest.mark.parametrize(
    "kind", ["sum", "powers", "signs", "nots", "index", "transposes", "calls", "blocks"]
)
def test_depth(kind: str) -> None:
    assert parsed(nested(kind, MAX_DEPTH)).items
    sink = Sink()
    module = parse(
        Source("test.opt", nested(kind, MAX_DEPTH + 2) + "\n" + HEAD + "    p = g\n"), sink
    )
    assert [found.code for found in sink.diagnostics] == ["E115"]
    assert [item.name for item in module.items] == ["X"], "the deep one is left out"
    if kind != "blocks":  # Lark itself does not recurse
        assert codes(nested(kind, 4000)) == [("E115", 2)]


def test_brackets_alone_are_not_deep() -> None:
    text = f"{HEAD}    p = {'(' * 5000}g{')' * 5000}\n"
    assert isinstance(parsed(text).items[0], ast.Optimizer)
