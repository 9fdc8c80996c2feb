"""W6xx: what is legal and probably not meant.

Input: none. Output: `CODES`. Does not do: detect anything.
"""

from __future__ import annotations

from optdsl.codes.entry import Code

CODES: tuple[Code, ...] = (
    Code(
        code="W601",
        name="unused-hyperparameter",
        title="A hyperparameter that nothing reads",
        text="""\
The rule takes the hyperparameter and would do the same without it. A `require` alone does not
count as a use.
""",
        wrong="""\
optimizer SGD(lr = 0.1, momentum = 0.9):
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1, momentum = 0.9):
    p -= lr * ema(g, momentum)
""",
    ),
    Code(
        code="W602",
        name="unused-local",
        title="A local that nothing reads",
        text="""\
The name is assigned and then left alone: often a misspelt one. A name that begins with `_` is not
looked at.
""",
        wrong="""\
optimizer Momentum(lr = 0.1):
    state buf
    bud = 0.9 * buf + g
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
        code="W603",
        name="lost-in-float32",
        title="A constant that float32 cannot hold",
        text="""\
Tensors are computed in float32, which has nothing between 0 and 1e-38 at full precision and
nothing above 3.4e38. A constant out there becomes 0, loses digits or becomes infinite where it
meets a tensor: the square of `eps = 1e-30` is 0. Numbers of the host are doubles; the default of
a hyperparameter stands for its value here.
""",
        wrong="""\
optimizer Scaled(lr = 0.1, eps = 1e-30):
    p -= lr * g / sqrt(mean(g^2) + eps^2)
""",
        right="""\
optimizer Scaled(lr = 0.1, eps = 1e-30):
    p -= lr * g / sqrt(mean(g^2) + eps)
""",
    ),
    Code(
        code="W604",
        name="division-by-zero",
        title="A division by what may be zero",
        text="""\
The divisor can be 0, as the norm of a gradient is when the parameter takes no part, and 0 / 0 is
NaN for good. What is seen to be safe: `+ eps`, `max(x, eps)`, `exp(x)`, products, means and roots
of positive values, and a `where(x > 0, ..., ...)` around the division.
""",
        wrong="""\
optimizer Normalized(lr = 0.1):
    p -= lr * g / norm(g)
""",
        right="""\
optimizer Normalized(lr = 0.1):
    p -= lr * g / (norm(g) + 1e-8)
""",
    ),
    Code(
        code="W605",
        name="axis-of-a-vector",
        title="An axis without a look at the number of dimensions",
        text="""\
A vector of n elements is the matrix [n, 1], and a tensor of more than two dimensions is one of its
first size by all the others. Over `axis = 1` of a vector each element is alone with itself: its
mean is the element, its deviation 0. Say which parameters are meant by `when ndim == 2`, or by
`if ndim >= 2`.
""",
        wrong="""\
optimizer Centred(lr = 0.1):
    p -= lr * (g - mean(g, axis = 1))
""",
        right="""\
optimizer Centred(lr = 0.1):
    if ndim >= 2:
        g -= mean(g, axis = 1)
    p -= lr * g
""",
    ),
    Code(
        code="W606",
        name="stalled-average",
        title="An average that stands still in its storage",
        text="""\
bf16 keeps 8 binary digits. Where an average moves by less than 1/512 of the way at a step, as with
`beta = 0.999`, most moves are rounded away and it stands still. Store it as float32, or round it
stochastically.
""",
        wrong="""\
optimizer RMS(lr = 0.1, beta = 0.999):
    state v as bf16
    v = lerp(v, g^2, 1 - beta)
    p -= lr * g / (sqrt(v) + 1e-8)
""",
        right="""\
optimizer RMS(lr = 0.1, beta = 0.999):
    state v
    v = lerp(v, g^2, 1 - beta)
    p -= lr * g / (sqrt(v) + 1e-8)
""",
    ),
    Code(
        code="W607",
        name="unchanged-parameter",
        title="A rule that leaves p as it is",
        text="""\
No statement of the rule assigns p and no inner rule runs, so that its step changes states at most.
""",
        wrong="""\
optimizer Momentum(lr = 0.1):
    state m
    m = lerp(m, lr * g, 0.1)
""",
        right="""\
optimizer Momentum(lr = 0.1):
    state m
    m = lerp(m, lr * g, 0.1)
    p -= m
""",
    ),
)
