"""E2xx: names, calls and the places of statements.

Input: none. Output: `CODES`. Does not do: detect anything.
"""

from __future__ import annotations

from optdsl.codes.entry import Code

CODES: tuple[Code, ...] = (
    Code(
        code="E201",
        name="misplaced",
        title="Something that has no meaning where it stands",
        text="""\
`return` ends a function, and a rule is none. `view` holds for a whole rule and stands at its top.
`eval` and `report` say one thing for a step, so they stand outside loops and outside conditions
on tensors. Only names, and entries of names, are assigned.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
    return p
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
    Code(
        code="E202",
        name="undefined-name",
        title="A name that nothing defines",
        text="""\
A name is a local that was assigned above, a state, a parameter of the rule or function, or one
of the names that every rule has: `p g t steps rows cols short long numel ndim name workers rank`,
`pi` and `inf`. A value that is kept from step to step needs a `state`.
""",
        wrong="""\
optimizer Momentum(lr = 0.1):
    buf = 0.9 * buf + g
    p -= lr * buf
""",
        right="""\
optimizer Momentum(lr = 0.1):
    state buf
    buf = 0.9 * buf + g
    p -= lr * buf
""",
    ),
    Code(
        code="E203",
        name="maybe-undefined",
        title="A name that has a value only on some paths",
        text="""\
One branch of an `if` gives the name a value and the other does not, or only a loop does, which
may run no time, or the name is the variable of a loop that has ended. What a branch declares as
a state is known in that branch. A state that is shared by parameters and was assigned where only
some of them go has two values after that: read it before the branch or inside it.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    if t > 100:
        scale = 0.5
    p -= lr * scale * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    scale = 1
    if t > 100:
        scale = 0.5
    p -= lr * scale * g
""",
    ),
    Code(
        code="E204",
        name="out-of-reach",
        title="`p` or `g` inside a function",
        text="""\
A `def` is a function of its arguments and of nothing else: pass `p` or `g` to it. A `transform`
may read them. Only a rule assigns them, so that every change of a parameter can be seen in it.
""",
        wrong="""\
def decayed(weight_decay):
    return g + weight_decay * p

optimizer SGD(lr = 0.1, weight_decay = 0.01):
    p -= lr * decayed(weight_decay)
""",
        right="""\
def decayed(x, p, weight_decay):
    return x + weight_decay * p

optimizer SGD(lr = 0.1, weight_decay = 0.01):
    p -= lr * decayed(g, p, weight_decay)
""",
    ),
    Code(
        code="E205",
        name="hidden-function",
        title="A value that hides a function which is then called",
        text="""\
A local, a state or a hyperparameter may have the name of a function, but then the function is
out of reach. A name has one meaning in one body.
""",
        wrong="""\
optimizer Normalized(lr = 0.1):
    norm = norm(g)
    p -= lr * g / (norm + norm(p) + 1e-8)
""",
        right="""\
optimizer Normalized(lr = 0.1):
    size = norm(g)
    p -= lr * g / (size + norm(p) + 1e-8)
""",
    ),
    Code(
        code="E206",
        name="rule-or-function",
        title="A rule where a function is wanted, or the other way round",
        text="""\
Functions (`def`, `transform`) are called and give a value. Rules (`optimizer`, `wrapper`) change
the parameter: another rule runs by `use` and an inner one by `step`, and rules are put together
by `optimizer NAME = Wrapper(Rule)`.
""",
        wrong="""\
optimizer Mine(lr = 0.1):
    p -= lr * Adam(g)
""",
        right="""\
optimizer Mine(lr = 0.1):
    use Adam(lr = lr)
""",
    ),
    Code(
        code="E207",
        name="unknown-function",
        title="A function or rule that is not there",
        text="""\
A function or rule is looked for in the file, in its imports in their order, in the standard
library (`optdsl show std`) and among the shipped rules (`optdsl zoo`). `step` takes the name of
an inner rule of the wrapper.
""",
        wrong="""\
optimizer SignSGD(lr = 0.1):
    p -= lr * sgn(g)
""",
        right="""\
optimizer SignSGD(lr = 0.1):
    p -= lr * sign(g)
""",
    ),
    Code(
        code="E208",
        name="unknown-argument",
        title="An argument that a function or rule does not have, or has twice",
        text="""\
Arguments are given by position or by name, each once. A rule takes its own hyperparameters and
those of its inner rules; where two inner rules share a name, say which is meant:
`Graft(Adam(lr = 0.1), SGD(lr = 0.01))`.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    p -= lr * g / (norm(g, along = all) + 1e-8)
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g / (norm(g, over = all) + 1e-8)
""",
    ),
    Code(
        code="E209",
        name="argument-count",
        title="Too few or too many arguments",
        text="""\
A parameter without a default must be given. Hyperparameters of a rule are given by name. `range`
takes one or two whole numbers, `first` the name of a state.
""",
        wrong="""\
optimizer Momentum(lr = 0.1):
    p -= lr * ema(g)
""",
        right="""\
optimizer Momentum(lr = 0.1):
    p -= lr * ema(g, 0.9)
""",
    ),
    Code(
        code="E210",
        name="defined-twice",
        title="Two functions or rules of one name in one file",
        text="""\
A file defines a name once. A definition in the file comes before one of the same name in an
import, the standard library or the shipped rules, and may take its place.
""",
        wrong="""\
optimizer Mine(lr = 0.1):
    p -= lr * g

optimizer Mine(lr = 0.2):
    p -= lr * sign(g)
""",
        right="""\
optimizer Mine(lr = 0.1):
    p -= lr * g

optimizer MineSigned(lr = 0.2):
    p -= lr * sign(g)
""",
    ),
    Code(
        code="E211",
        name="bad-import",
        title="An import that cannot be read",
        text="""\
`import "blocks.opt"` names a file relative to the one that imports it. The file must be there, be
readable and be UTF-8 text; imports may not form a cycle; and a text that was not read from a file
has no folder to import from. The standard library and the shipped rules need no import.
""",
        wrong="""\
import "missing/blocks.opt"

optimizer SGD(lr = 0.1):
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
    Code(
        code="E212",
        name="declared-twice",
        title="A declaration of a name that has a meaning already",
        text="""\
A state, an input or an attribute would hide a local, a hyperparameter or another declaration of
the same name; so would a second parameter of one name in a signature. Two branches that exclude
each other may each declare a state of one name.
""",
        wrong="""\
optimizer Momentum(lr = 0.1, momentum = 0.9):
    state momentum
    momentum = 0.9 * momentum + g
    p -= lr * momentum
""",
        right="""\
optimizer Momentum(lr = 0.1, momentum = 0.9):
    state buf
    buf = momentum * buf + g
    p -= lr * buf
""",
    ),
    Code(
        code="E230",
        name="endless",
        title="A rule that unfolds without end",
        text="""\
Functions, inner rules and loops over tuples are written out where they stand, which is why a
composed rule costs no more than one written by hand. So nothing can call itself, calls nest at
most 64 deep, and what is written out has a limit. `repeat` and `for` over a range are loops.
""",
        wrong="""\
def halved(x, n):
    return halved(x / 2, n - 1)

optimizer SGD(lr = 0.1):
    p -= lr * halved(g, 3)
""",
        right="""\
def halved(x, n):
    repeat n:
        x = x / 2
    return x

optimizer SGD(lr = 0.1):
    p -= lr * halved(g, 3)
""",
    ),
    Code(
        code="E231",
        name="not-in-a-function",
        title="Something that a function cannot have",
        text="""\
A `def` has no state: it declares none and calls no `transform`. A function of either kind declares
no attribute, input, requirement or view and runs no rule; that is for rules.
""",
        wrong="""\
def average(x):
    state m
    m = 0.9 * m + 0.1 * x
    return m

optimizer Momentum(lr = 0.1):
    p -= lr * average(g)
""",
        right="""\
transform average(x):
    state m
    m = 0.9 * m + 0.1 * x
    return m

optimizer Momentum(lr = 0.1):
    p -= lr * average(g)
""",
    ),
    Code(
        code="E232",
        name="no-result",
        title="A function that may end without a value",
        text="""\
A function ends with `return` on every path, and with values of one kind: both sides of a condition
give a number or tensor, or both give a tuple of the same length.
""",
        wrong="""\
def clipped(x, most):
    if most > 0:
        return clamp(x, -most, most)

optimizer SGD(lr = 0.1, most = 1.0):
    p -= lr * clipped(g, most)
""",
        right="""\
def clipped(x, most):
    if most > 0:
        return clamp(x, -most, most)
    return x

optimizer SGD(lr = 0.1, most = 1.0):
    p -= lr * clipped(g, most)
""",
    ),
)
