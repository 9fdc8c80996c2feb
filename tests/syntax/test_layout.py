"""The formatter: what it changes, and that it changes nothing else."""

from __future__ import annotations

import random
import re

import pytest

from optdsl.diagnostics import CompileError
from optdsl.source import Source
from optdsl.syntax import ast
from optdsl.syntax.layout import format_module
from optdsl.syntax.parser import tokens
from optdsl.syntax.text import expression_text
from tests.syntax.snippets import FILES, SHIPPED, bare, body, definitions, expression, parsed


def formatted(text: str) -> str:
    return format_module(Source("test.opt", text))


def comments(text: str) -> list[str]:
    """The comments of a text, in order: what is left of it without tokens and blanks."""
    source = Source("test.opt", text)
    left = list(text)
    for token in tokens(source):
        if not token.type.startswith("_"):
            left[token.start_pos : token.end_pos] = " " * len(token)
    return [line.strip() for line in "".join(left).split("\n") if line.strip()]


@pytest.mark.parametrize("path", [*FILES, *SHIPPED], ids=lambda path: path.name)
def test_files(path) -> None:
    text = path.read_text()
    result = formatted(text)
    assert formatted(result) == result
    assert bare(parsed(result)) == bare(parsed(text))
    assert comments(result) == comments(text)


CASES = [
    ("spaces", "p=a*b+c@d//e%f", "p = a * b + c @ d // e % f"),
    ("powers", "p = a ^ b ^ - c", "p = a^b^-c"),
    ("signs", "p = - a - - b * ( - c )", "p = -a - -b * (-c)"),
    ("words", "p=not a or b and(c in(d,e))", "p = not a or b and (c in (d, e))"),
    ("comparisons", 'p = a<=b!=c and name   matches"x"', 'p = a <= b != c and name matches "x"'),
    ("calls", "p = f ( a , b=c )", "p = f(a, b = c)"),
    ("shapes", "x = f( [ 5 , * p ] , [ ] , [a , ] )", "x = f([5, *p], [], [a,])"),
    ("products of shapes", "x = f([2*rank, a * b])", "x = f([2 * rank, a * b])"),
    ("indices", "m [ k+1 ]=x [ 0 ] .T @ y", "m[k + 1] = x[0].T @ y"),
    ("updates", "p-=1", "p -= 1"),
    (
        "states",
        'state row:[rows,1]named"r" over all  on host as int8=-1,b',
        'state row: [rows, 1] named "r" over all on host as int8 = -1, b',
    ),
    ("soft words", "host  = over(all)+host (on)", "host = over(all) + host(on)"),
    ("tuples", "a,b=c,d", "a, b = c, d"),
    ("trailing comment", "p = g#so  ", "p = g  #so"),
    ("strings", 'require k in("a  b" , "c")', 'require k in ("a  b", "c")'),
]


@pytest.mark.parametrize(
    ("before", "after"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_one_line(before: str, after: str) -> None:
    assert formatted(f"optimizer X():\n  {before}\n") == f"optimizer X():\n    {after}\n"


MESSY = '''

# top
"""A file.
    Indented.
"""
import "a.opt"
# about A
optimizer A( lr=1e-3 , betas=(0.9,# inner
  0.99),
  # own

  c=-1
  ):   # trailing


  """One
       deeper

     than this

  """


  # first
  state row:[rows,1] named "r"    # short
  state x over all=0 # other


  if   not(a or b):
     y=1   # c
     # deep end
   # as deep as the if
# at the left

  every k from(s) :

        # lead
        z=f(x,
    y)
optimizer B = Lookahead(A,k=10)
optimizer C=B
#last
def f(x):
      return x,-x
   # after f


# end
'''

NEAT = '''# top
"""A file.
Indented.
"""

import "a.opt"

# about A
optimizer A(lr = 1e-3, betas = (0.9,  # inner
            0.99),
        # own
        c = -1
):  # trailing
    """One
      deeper

    than this
    """

    # first
    state row: [rows, 1] named "r"  # short
    state x over all = 0            # other

    if not (a or b):
        y = 1  # c
        # deep end
    # as deep as the if
    # at the left

    every k from (s):
        # lead
        z = f(x,
            y)

optimizer B = Lookahead(A, k = 10)
optimizer C = B

#last
def f(x):
    return x, -x
# after f

# end
'''


def test_a_messy_file() -> None:
    assert formatted(MESSY) == NEAT
    assert formatted(NEAT) == NEAT
    assert formatted("\ufeff" + MESSY.replace("\n", "\r\n")) == NEAT


@pytest.mark.parametrize(
    "text",
    [
        '"""x"""',
        '""""x"  """',
        '""" "x" and ""\n"""',
        '"""a\n\n\n"""',
        '"""\n\n   a\n     b\n"""',
        '"""\n     first\n   less indented\n"""',
        '"""\n    a\n \ufeff\n"""',
        '"""a\n        b\n      c"""',
        '"""a\n  \n \t b   \n\n  """',
        '"""\n"""',
        '""""""',
        '"""a\x0cb\u2028c\n \x0c\n"""',
    ],
)
def test_docstrings(text: str) -> None:
    for margin in ("    ", "  "):
        before = f"optimizer X():\n{margin}{text}\n{margin}p = g\n"
        result = formatted(before)
        assert formatted(result) == result
        assert bare(parsed(result)) == bare(parsed(before))
        assert not re.search(r"[ \t]$", result, re.MULTILINE)


def test_refuses_a_file_with_errors() -> None:
    with pytest.raises(CompileError) as caught:
        formatted("optimizer X():\n    p = )\n    q = +\n")
    assert [found.code for found in caught.value.diagnostics] == ["E109", "E110"]


def mangled(text: str, rng: random.Random) -> str:
    """The same tokens and comments, laid out at random."""
    source = Source("test.opt", text)
    parts: list[str] = []
    end = depth = 0
    fresh = True
    for token in tokens(source):
        if token.type in ("_INDENT", "_DEDENT"):
            depth += 1 if token.type == "_INDENT" else -1
        elif token.type == "_NL":
            rows = f"{text}\n"[end : token.end_pos].split("\n")[:-1]
            comment = rows[0].strip()
            parts.append((" " * rng.randrange(3) + comment if comment else "") + "\n")
            # A blank line stays one: where the formatter keeps them is not what is tested.
            parts += [
                "\n" * rng.randint(1, 3) if not row.strip() else f"{row}\n" for row in rows[1:]
            ]
            fresh, end = True, token.end_pos
        else:
            parts.append("  " * depth if fresh else " " * _gap(parts[-1], token, rng))
            parts.append(token)
            fresh, end = False, token.end_pos
    return "".join(parts)


def _gap(before: str, token: str, rng: random.Random) -> int:
    """No space only where the two remain two."""
    together = before[-1:] + token[:1]
    apart = re.fullmatch(r"[\w.\"][\w.\"]|[-+*/<>=!][=/]|\*\*", together)
    return rng.randint(1 if apart else 0, 2)


@pytest.mark.parametrize("seed", range(3))
def test_layout_at_random_leads_to_one_layout(seed: int) -> None:
    """Spaces and indentation are gone; comments stand at any depth the text leaves open."""
    rng = random.Random(seed)
    for text in definitions():
        if re.search(r"\(\s*\n|,\s*\n", text) or '"""' in text:
            continue  # line breaks in brackets are kept as they are
        messy = mangled(text, rng)
        assert bare(parsed(messy)) == bare(parsed(text))
        assert formatted(messy) == formatted(text), messy


def test_expression_text() -> None:
    text = "f( a ,\n  # why\n  over=all )+b ^ - c .T"
    (statement,) = body(f"x = ({text})")
    assert isinstance(statement, ast.Assign)
    assert expression_text(statement.value) == "(f(a, over = all) + b^-c.T)"
    assert isinstance(statement.value, ast.Binary)
    assert expression_text(statement.value.left) == "f(a, over = all)"
    assert expression_text(expression("a, (b)")) == "a, (b)"
