"""E3xx: kinds and shapes of values.

Input: none. Output: `CODES`. Does not do: detect anything.
"""

from __future__ import annotations

from optdsl.codes.entry import Code

CODES: tuple[Code, ...] = (
    Code(
        code="E301",
        name="shapes-differ",
        title="Two values whose shapes do not broadcast",
        text="""\
A parameter is a matrix `[rows, cols]` in its rule. A number `[]`, one number per row `[rows, 1]`
and one per column `[1, cols]` go with it; an axis of size 1 is repeated, and any other pair of
different sizes is an error, also where the numbers might happen to be the same.
""",
        wrong="""\
optimizer Odd(lr = 0.1):
    a = g @ g.T
    p -= lr * (g + a)
""",
        right="""\
optimizer Odd(lr = 0.1):
    a = g @ g.T
    p -= lr * (g + a @ g)
""",
    ),
    Code(
        code="E302",
        name="kinds-differ",
        title="A string, a condition or a number where another kind is wanted",
        text="""\
Strings are options: they are compared with `==`, `!=` and `in`, and with nothing but strings.
Conditions are compared with conditions. `name matches "..."` tests the parameter's name against a
regular expression, a string literal; it is the only thing that `matches` does.
""",
        wrong="""\
optimizer SGD(lr = 0.1, kind = "plain"):
    if kind == 1:
        g = sign(g)
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1, kind = "plain"):
    if kind == "sign":
        g = sign(g)
    p -= lr * g
""",
    ),
    Code(
        code="E303",
        name="matrix-wanted",
        title="`@` or `.T` on something that is no matrix",
        text="""\
`@` multiplies matrices and `.T` turns one. A number has neither; multiply numbers with `*`.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    p -= lr @ g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
    Code(
        code="E304",
        name="inner-sizes-differ",
        title="A matrix product whose inner sizes differ",
        text="""\
In `a @ b` the columns of a are as many as the rows of b. Sizes are compared as they are written:
`rows` and `short` are different sizes even for a parameter where they are the same number.
`wide(x)` turns a matrix to `[short, long]`, so that a rule need not ask which side is longer.
""",
        wrong="""\
optimizer Whitened(lr = 0.1):
    p -= lr * (g @ g)
""",
        right="""\
optimizer Whitened(lr = 0.1):
    p -= lr * (g @ g.T) @ g
""",
    ),
    Code(
        code="E305",
        name="branches-differ",
        title="Two branches that give one name different shapes",
        text="""\
After an `if` a name has one shape, that of both branches together; they may differ by axes of
size 1 only. Names that are used in one branch only may have any shape there, and what depends on
the shape can stand inside the branches.
""",
        wrong="""\
optimizer Gram(lr = 0.1):
    if rows < cols:
        a = g @ g.T
    else:
        a = g.T @ g
    p -= lr * norm(a) * g
""",
        right="""\
optimizer Gram(lr = 0.1):
    if rows < cols:
        size = norm(g @ g.T)
    else:
        size = norm(g.T @ g)
    p -= lr * size * g
""",
    ),
    Code(
        code="E306",
        name="nothing-to-reduce",
        title="A reduction of a number",
        text="""\
`sum`, `mean`, `norm` and the like take in the elements of a tensor. A hyperparameter or a number
worked out from some is one number already. `min` and `max` of several values compare them.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    p -= max(lr) * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= max(lr, 1e-6) * g
""",
    ),
    Code(
        code="E307",
        name="no-such-axis",
        title="An axis, or a range of parameters, that there is not",
        text="""\
`axis` is 0 (over the rows: one number per column stays), 1 (over the columns: one per row), or the
name of a leading axis that the value has. `over` is `all`, `group` or `workers`. `axis = ()` stands
with `over`, and for values that have the same shape in every parameter.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    when ndim == 2:
        p -= lr * g / (norm(g, axis = 2) + 1e-8)
""",
        right="""\
optimizer SGD(lr = 0.1):
    when ndim == 2:
        p -= lr * g / (norm(g, axis = 1) + 1e-8)
""",
    ),
    Code(
        code="E308",
        name="not-a-value",
        title="A tuple, a word or a rule where a number or tensor is wanted",
        text="""\
A tuple is taken apart by an assignment, `beta1, beta2 = betas`, by an index, `betas[0]`, or by
`for`. `all`, `group` and `none` are words for arguments, rules are run by `use` and `step`.
""",
        wrong="""\
optimizer Momentum(lr = 0.1, betas = (0.9, 0.999)):
    p -= lr * ema(g, betas)
""",
        right="""\
optimizer Momentum(lr = 0.1, betas = (0.9, 0.999)):
    p -= lr * ema(g, betas[0])
""",
    ),
    Code(
        code="E309",
        name="condition-as-number",
        title="A condition used as a number",
        text="""\
A comparison gives true or false, which is no number: it cannot be added, reduced or stored in a
state. `where(condition, 1, 0)` makes one of it.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    p -= lr * g * (g > 0)
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g * where(g > 0, 1, 0)
""",
    ),
    Code(
        code="E310",
        name="ambiguous-product",
        title="`a * b @ c` on matrices without parentheses",
        text="""\
`*` and `@` bind alike and are read from the left, which is not what most papers mean by it.
Say which product comes first.
""",
        wrong="""\
optimizer Scaled(lr = 0.1):
    p -= lr * (g * g @ g.T @ g)
""",
        right="""\
optimizer Scaled(lr = 0.1):
    p -= lr * ((g * g) @ g.T @ g)
""",
    ),
    Code(
        code="E311",
        name="number-as-condition",
        title="A number where a condition is wanted",
        text="""\
`if`, `when`, `require`, `until`, `where`, `and`, `or` and `not` take conditions. A number is
neither true nor false; compare it.
""",
        wrong="""\
optimizer SGD(lr = 0.1, momentum = 0.9):
    if momentum:
        g = ema(g, momentum)
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1, momentum = 0.9):
    if momentum > 0:
        g = ema(g, momentum)
    p -= lr * g
""",
    ),
    Code(
        code="E312",
        name="bad-pattern",
        title="A pattern that is no regular expression",
        text="""\
`name matches "..."` searches the parameter's name for a regular expression as Python writes them:
`bias|norm` finds either, `^head` a name that begins so, `\\.weight$` one that ends so.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    if not (name matches "(bias"):
        g += 0.01 * p
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    if not (name matches "bias"):
        g += 0.01 * p
    p -= lr * g
""",
    ),
    Code(
        code="E313",
        name="host-number-wanted",
        title="Something else where a number of the host is wanted",
        text="""\
How often a loop runs, the period of `every`, `at` of a draw and an index are numbers that the host
knows: made of literals, hyperparameters, sizes, attributes, `t` and `steps`, not of tensors.
`host(x)` of a tensor may say how often a loop runs and be a period; `at` and an index are known
before the step. A tuple is indexed by a literal; an index is a whole number from 0, and less than
the size where that is known.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    every norm(g):
        p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1, period = 4):
    every period:
        p -= lr * g
""",
    ),
    Code(
        code="E314",
        name="bad-size",
        title="A size that is none",
        text="""\
Memory is laid out when a parameter is added, so a size is a whole number that is known then: made
of integers, integer hyperparameters, `rows cols short long numel ndim` and attributes. `/` gives
a fraction; `//` rounds down. `*p` stands last in a shape. A named axis is as long as the caller's
input makes it, so no state has one; and what is shared by parameters has one size for all of them.
""",
        wrong="""\
optimizer LowRank(lr = 0.1):
    state m: [rows / 2, 1]
    p -= lr * g * (1 + sum(m))
""",
        right="""\
optimizer LowRank(lr = 0.1):
    state m: [rows // 2, 1]
    p -= lr * g * (1 + sum(m))
""",
    ),
    Code(
        code="E315",
        name="matrix-shape",
        title="A matrix of the wrong shape for a routine",
        text="""\
`inverse`, `solve`, `eigh`, `cholesky`, `diag`, `trace` and `triu` take a square matrix, `qr` and
`svd` any. `wide` and `tall` turn a value of p's shape; `unwide` and `untall` turn one of theirs
back.
""",
        wrong="""\
optimizer Newton(lr = 0.1):
    p -= lr * inverse(g) @ g
""",
        right="""\
optimizer Newton(lr = 0.1):
    p -= lr * inverse(g @ g.T + eye(rows)) @ g
""",
    ),
    Code(
        code="E316",
        name="not-a-point",
        title="`loss` or `grad` at something that is no value of the parameter",
        text="""\
`loss(q)` and `grad(q)` evaluate the model with the parameters at q, which has p's shape.
""",
        wrong="""\
optimizer Ahead(lr = 0.1):
    p -= lr * grad(lr)
""",
        right="""\
optimizer Ahead(lr = 0.1):
    p -= lr * grad(p - lr * g)
""",
    ),
    Code(
        code="E317",
        name="tuple-length",
        title="As many names as a tuple has not items",
        text="""\
`a, b = x` takes a tuple of two apart; `for a, b in x` takes each item of x apart. A loop over
`range(n)` gives one number at a time. What `for` runs over is a tuple or a range.
""",
        wrong="""\
optimizer Momentum(lr = 0.1, betas = (0.9, 0.99, 0.999)):
    beta1, beta2 = betas
    p -= lr * ema(g, beta1) / (sqrt(ema(g^2, beta2)) + 1e-8)
""",
        right="""\
optimizer Momentum(lr = 0.1, betas = (0.9, 0.999)):
    beta1, beta2 = betas
    p -= lr * ema(g, beta1) / (sqrt(ema(g^2, beta2)) + 1e-8)
""",
    ),
    Code(
        code="E318",
        name="does-not-fit",
        title="A value that does not fit what it is assigned to",
        text="""\
`p`, `g`, a state and an entry of one keep their shape: a value with fewer axes is repeated into
them, one with more does not fit. Reduce it, or declare the state with the shape that it needs.
""",
        wrong="""\
optimizer Scalar(lr = 0.1):
    state v: []
    v = 0.9 * v + 0.1 * g^2
    p -= lr * g / (sqrt(v) + 1e-8)
""",
        right="""\
optimizer Scalar(lr = 0.1):
    state v: []
    v = 0.9 * v + 0.1 * mean(g^2)
    p -= lr * g / (sqrt(v) + 1e-8)
""",
    ),
    Code(
        code="E319",
        name="one-condition",
        title="A condition with a shape where one is wanted",
        text="""\
`if` and `until` take one condition for the parameter, `host` one number. `where(condition, a, b)`
chooses for each element.
""",
        wrong="""\
optimizer Signs(lr = 0.1):
    if g > 0:
        g = sqrt(g)
    p -= lr * g
""",
        right="""\
optimizer Signs(lr = 0.1):
    g = where(g > 0, sqrt(max(g, 0)), g)
    p -= lr * g
""",
    ),
    Code(
        code="E320",
        name="under-tensor-condition",
        title="Something that a condition on tensors cannot decide about",
        text="""\
The host does not wait for a condition on tensors: both branches are computed and one is taken. So
nothing that the host must do stands there: the model is not evaluated, no inner rule runs, no
routine of a library is called, nothing is reduced over parameters and no state begins. Do it
before the `if` and choose from the results, or decide by a number of the host.
""",
        wrong="""\
optimizer Clipped(lr = 0.1):
    if norm(g) > 1:
        g = g / (norm(g, over = all) + 1e-6)
    p -= lr * g
""",
        right="""\
optimizer Clipped(lr = 0.1):
    size = norm(g, over = all)
    if norm(g) > 1:
        g = g / (size + 1e-6)
    p -= lr * g
""",
    ),
    Code(
        code="E321",
        name="loop-changes-kind",
        title="A name whose kind or shape changes in a loop",
        text="""\
What one pass of a loop hands on to the next has one shape. A number may become a tensor, an axis
of size 1 a longer one; any other change is an error, and so is a tuple that is assigned in a loop.
""",
        wrong="""\
optimizer Powers(lr = 0.1):
    x = g
    repeat 3:
        x = x @ g.T
    p -= lr * norm(x) * g
""",
        right="""\
optimizer Powers(lr = 0.1):
    x = g @ g.T
    repeat 3:
        x = x @ (g @ g.T)
    p -= lr * norm(x) * g
""",
    ),
    Code(
        code="E322",
        name="not-positions",
        title="Something that cannot be ordered, or positions that are no list",
        text="""\
`argsort`, `take`, `put`, `flip` and `kth_smallest` work on tensors. Positions are a column or a row
of whole numbers, as `argsort` and `permutation` give them; `put(x, i, into)` takes as many rows
(`axis = 1`: columns) in x as there are positions; the k of `kth_smallest` is one number.
""",
        wrong="""\
optimizer Sorted(lr = 0.1):
    p -= lr * take(g, argsort(g))
""",
        right="""\
optimizer Sorted(lr = 0.1):
    p -= lr * take(g, argsort(g @ eye(cols, 1)))
""",
    ),
)
