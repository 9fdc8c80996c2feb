"""E5xx: what this version of the language, or of a target, does not do.

Input: none. Output: `CODES`. Does not do: detect anything.
"""

from __future__ import annotations

from optdsl.codes.entry import Code

CODES: tuple[Code, ...] = (
    Code(
        code="E501",
        name="not-yet",
        title="A word that is kept for a later version",
        text="""\
The name is known and its meaning is settled, but this version does not have it: the storage of an
inner rule, a state on the host `over all`. It is an error and not an unknown function, so that no
rule means something else in a later version.
""",
        wrong="""\
optimizer SmallAdamW = AdamW(storage = "int8")
""",
        right="""\
optimizer SmallAdamW = AdamW(weight_decay = 0.1)
""",
    ),
    Code(
        code="E502",
        name="not-distributed-yet",
        title="Something between workers that is kept for a later version",
        text="""\
Draws that differ or agree between workers (`own = workers`, `same = workers`), losses weighted per
sample and collectives inside loops are not in this version. `mean(x, over = workers)` and
`gather(x, over = workers)` are.
""",
        wrong="""\
optimizer Noisy(lr = 0.1):
    p -= lr * (g + randn(own = workers))
""",
        right="""\
optimizer Noisy(lr = 0.1):
    p -= lr * (g + randn())
""",
    ),
    Code(
        code="E503",
        name="not-generated-yet",
        title="A construct that has a meaning, but no generated code yet",
        text="""\
The interpreter runs the rule (`optdsl.interpreter.run`), but the targets `cpu` and `triton` do not
generate code for this construct in this version: collectives, one draw `over = all`, draws
in loops, loops that work out a number of the host, and what ties parameters together under a
condition that a loop changes.
""",
        wrong="""\
optimizer Averaged(lr = 0.1):
    g = mean(g, over = workers)
    p -= lr * g
""",
        right="""\
optimizer NormalizedSGD(lr = 0.1):
    p -= lr * g / (norm(g, over = all) + 1e-12)
""",
    ),
    Code(
        code="E510",
        name="too-many-variants",
        title="A rule whose conditions can fall in too many ways",
        text="""\
Code is generated for each way in which the conditions on host numbers can fall, at most 256. They
multiply: nine independent ones make 512 variants. Choose by `where` on tensors, or split the rule.
""",
        wrong="""\
optimizer Options(lr = 0.1, a = 1, b = 1, c = 1, d = 1, e = 1, f = 1, h = 1, i = 1, j = 1):
    if a > 0:
        g = sign(g)
    if b > 0:
        g = 2 * g
    if c > 0:
        g = g + 0.1 * p
    if d > 0:
        g = ema(g, 0.9)
    if e > 0:
        g = g / (norm(g) + 1e-8)
    if f > 0:
        g = clamp(g, -1, 1)
    if h > 0:
        g = g - mean(g)
    if i > 0:
        g = abs(g)
    if j > 0:
        g = g + 0.1 * g^2
    p -= lr * g
""",
        right="""\
optimizer Options(lr = 0.1, a = 1, b = 1, c = 1):
    if a > 0:
        g = sign(g)
    if b > 0:
        g = 2 * g
    if c > 0:
        g = g + 0.1 * p
    p -= lr * g
""",
    ),
)
