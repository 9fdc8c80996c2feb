"""E1xx: what the parser refuses.

Input: none. Output: `CODES`. Does not do: detect anything.
"""

from __future__ import annotations

from optdsl.codes.entry import Code

CODES: tuple[Code, ...] = (
    Code(
        code="E101",
        name="stray-character",
        title="A character that the language does not know",
        text="""\
Outside strings, docstrings and comments a rule file is made of ASCII letters, digits, `_` and
the signs of the language. Names are ASCII because they become names in the generated code:
write `beta1` for `β1`. Powers are written `^`, strings in double quotes, `and`, `or` and `not`
as words.
""",
        wrong="""\
optimizer SGD(lr = 0.1, β = 0.9):
    p -= lr * β * g
""",
        right="""\
optimizer SGD(lr = 0.1, beta = 0.9):
    p -= lr * beta * g
""",
    ),
    Code(
        code="E102",
        name="unterminated-string",
        title="A string or docstring without an end",
        text='''\
A string ends on the line it begins on. A docstring, between two `"""`, may take several lines.
There are no escapes: a backslash stands for itself, and a string cannot hold a double quote.
''',
        wrong="""\
optimizer SGD(lr = 0.1):
    state m named "momentum_buffer
    m = 0.9 * m + g
    p -= lr * m
""",
        right="""\
optimizer SGD(lr = 0.1):
    state m named "momentum_buffer"
    m = 0.9 * m + g
    p -= lr * m
""",
    ),
    Code(
        code="E103",
        name="malformed-number",
        title="A number that cannot be read or kept",
        text="""\
A number is written `10`, `1_000`, `.5`, `1e-3`. A letter straight after a number makes neither
a number nor a name: write the product, `2 * x`, or begin the name with a letter. A number that
no 64-bit integer or double holds, or that would become 0, is refused as well; infinity is
`inf`.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    p -= 2lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= 2 * lr * g
""",
    ),
    Code(
        code="E104",
        name="tab-indentation",
        title="A tab in the indentation",
        text="""\
Blocks are made by indentation, and how wide a tab is differs from one editor to the next.
Indent with spaces, four for each block.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
\tp -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
    Code(
        code="E105",
        name="inconsistent-indentation",
        title="A line that is in line with no block",
        text="""\
A line that is indented less than the one before it continues one of the blocks around it, and
has to begin in the same column as that block's other lines.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    g += 0.1 * p
  p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    g += 0.1 * p
    p -= lr * g
""",
    ),
    Code(
        code="E106",
        name="unexpected-indentation",
        title="A line that is indented for no reason",
        text="""\
A line is indented more than the line before it only where that one begins a block, that is,
ends with `:`. A long expression goes on in the next line inside brackets, at any column.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    g += 0.1 * p
        p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    g += 0.1 * p
    p -= lr * g
""",
    ),
    Code(
        code="E107",
        name="missing-block",
        title="A line that begins a block, and no block",
        text="""\
After a line that ends with `:` the lines of its block follow, each indented more than that
line.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
    Code(
        code="E108",
        name="unclosed-bracket",
        title="A bracket that is never closed",
        text="""\
Line ends inside brackets do not count, so that an open bracket takes in the lines after it.
Where the statement ends, by its indentation, the bracket should have been closed.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    g = clamp(g, -1, 1
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    g = clamp(g, -1, 1)
    p -= lr * g
""",
    ),
    Code(
        code="E109",
        name="unmatched-bracket",
        title="A closing bracket that closes nothing",
        text="""\
A `)` closes a `(` and a `]` closes a `[`. Here there is no open bracket, or one of the other
kind.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    p -= lr * clamp(g, -1, 1))
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * clamp(g, -1, 1)
""",
    ),
    Code(
        code="E110",
        name="unexpected-token",
        title="Something else was expected here",
        text="""\
The text up to this place can be read, and this cannot follow it. The message lists what can.
""",
        wrong="""\
optimizer SGD(lr = 0.1)
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
    Code(
        code="E111",
        name="reserved-word",
        title="A word of the language used as a name",
        text="""\
The words that begin a statement or a definition, and those inside expressions (`and`, `or`,
`not`, `in`, `matches`, `true`, `false`, `none`), cannot be names. Words that mean something
only inside a declaration (`over`, `all`, `group`, `on`, `host`, `as`, `named`, `from`, `rows`,
`last`, `flat`) can, as can the keywords of Python and C.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    step = lr * g
    p -= step
""",
        right="""\
optimizer SGD(lr = 0.1):
    move = lr * g
    p -= move
""",
    ),
    Code(
        code="E112",
        name="stray-branch",
        title="A branch that belongs to nothing",
        text="""\
`else` and `elif` follow the block of an `if`, and `otherwise` that of a `when`, at the same
indentation and with no statement between. `until` is the last statement of a `repeat`.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    when ndim == 2:
        p -= lr * g
    else:
        p -= 0.1 * lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    when ndim == 2:
        p -= lr * g
    otherwise:
        p -= 0.1 * lr * g
""",
    ),
    Code(
        code="E113",
        name="parameter-order",
        title="A parameter without a default after one with",
        text="""\
Arguments may be given by position, so that what can be left out comes last. The first
parameters of a wrapper, those without a default, are the rules inside it.
""",
        wrong="""\
wrapper Clip(c = 1, inner):
    g = clamp(g, -c, c)
    step inner
""",
        right="""\
wrapper Clip(inner, c = 1):
    g = clamp(g, -c, c)
    step inner
""",
    ),
    Code(
        code="E114",
        name="repeated-part",
        title="A part of a declaration given twice",
        text="""\
A state has one key, one shape, one storage, one extent; an input one shape. The parts may stand
in any order, but each only once.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    state m named "momentum" named "momentum_buffer"
    m = 0.9 * m + g
    p -= lr * m
""",
        right="""\
optimizer SGD(lr = 0.1):
    state m named "momentum_buffer"
    m = 0.9 * m + g
    p -= lr * m
""",
    ),
    Code(
        code="E115",
        name="too-deep",
        title="Nested too deep",
        text="""\
Blocks and expressions may be nested 100 deep. A sum of a hundred terms is a hundred deep, since
it is read from the left. Give names to parts of it.
""",
        wrong=f"""\
optimizer SGD(lr = 0.1):
    p -= lr * ({" + ".join("1" * 101)}) * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * 101 * g
""",
    ),
    Code(
        code="E116",
        name="empty-file",
        title="A file that defines nothing",
        text="""\
A rule file has at least one definition (`optimizer`, `wrapper`, `transform` or `def`) or
import.
""",
        wrong="""\
# nothing yet
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
)
