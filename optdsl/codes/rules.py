"""E4xx: states, declarations, and rules made of rules.

Input: none. Output: `CODES`. Does not do: detect anything.
"""

from __future__ import annotations

from optdsl.codes.entry import Code

CODES: tuple[Code, ...] = (
    Code(
        code="E401",
        name="in-a-loop",
        title="Something with memory inside a loop",
        text="""\
A state, a call of a transform and an inner rule have one set of memory for the place where they
are written; a loop would make them share it from pass to pass. Declare the state before the loop.
""",
        wrong="""\
optimizer Averages(lr = 0.1, betas = (0.9, 0.99)):
    for beta in betas:
        m = ema(g, beta)
        p -= lr * m
""",
        right="""\
optimizer Averages(lr = 0.1, betas = (0.9, 0.99)):
    fast = ema(g, betas[0])
    slow = ema(g, betas[1])
    p -= lr * (fast + slow)
""",
    ),
    Code(
        code="E402",
        name="bad-requirement",
        title="A requirement that cannot be tested when a group is added",
        text="""\
`require` tests hyperparameters: when a group is added, and again when one is changed. It cannot
depend on a parameter, on `t`, on a tensor or on the pass of a loop.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    require rows > 1
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    require lr >= 0
    p -= lr * g
""",
    ),
    Code(
        code="E403",
        name="never-holds",
        title="A requirement that can never hold",
        text="""\
The condition is false whatever the hyperparameters are, so that no group could be added.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    require 1 < 0
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    require lr > 0
    p -= lr * g
""",
    ),
    Code(
        code="E404",
        name="reserved",
        title="A name that is taken",
        text="""\
`p g t rows cols short long numel ndim name` mean the same in every rule, and so do `steps`,
`workers` and `rank` where no parameter is called so; only `p` and `g` are assigned. Hyperparameters
and attributes become arguments of a class, which has `params maximize backend attributes storage
seed foreach fused capturable differentiable` already: what they do is not for a rule to say.
""",
        wrong="""\
optimizer SGD(lr = 0.1, maximize = false):
    if maximize:
        g *= -1
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
    Code(
        code="E405",
        name="unknown-storage",
        title="A storage that there is not",
        text="""\
A state is stored as `param` (as the parameter is), `float32`, `bf16`, `fp16`, `fp8`, `int8` or
`int4`. Values are computed in float32 (float64 for float64 parameters) however they are stored.
""",
        wrong="""\
optimizer Momentum(lr = 0.1):
    state m as float16
    m = 0.9 * m + g
    p -= lr * m
""",
        right="""\
optimizer Momentum(lr = 0.1):
    state m as float32
    m = 0.9 * m + g
    p -= lr * m
""",
    ),
    Code(
        code="E406",
        name="same-key",
        title="Two states of one parameter under one key",
        text="""\
In `state_dict()` a state has the key that `named` gives, else its name; the one state of a
transform has the name of the variable that the call is assigned to. `step` is the key of the
number of updates. Branches that exclude each other by sizes, names or options may use one key.
""",
        wrong="""\
optimizer Twice(lr = 0.1):
    m = ema(g, 0.9)
    m = ema(m, 0.99)
    p -= lr * m
""",
        right="""\
optimizer Twice(lr = 0.1):
    m = ema(g, 0.9)
    smooth = ema(m, 0.99)
    p -= lr * smooth
""",
    ),
    Code(
        code="E407",
        name="not-a-state",
        title="`first` of something that is no state",
        text="""\
`first(x)` is true on the step that creates the state x. It asks about a state, by its name.
""",
        wrong="""\
optimizer Momentum(lr = 0.1):
    m = 0.9 * g
    p -= lr * where(first(m), g, m)
""",
        right="""\
optimizer Momentum(lr = 0.1):
    state m
    m = where(first(m), g, 0.9 * m + g)
    p -= lr * m
""",
    ),
    Code(
        code="E408",
        name="one-for-all",
        title="A shared value made of what each parameter has of its own",
        text="""\
A state `over = all` is one for the model, `over = group` one for the group. What goes into it must
be so, too: a reduction `over = all` or `over = group`. `t` counts the updates of one parameter;
`steps` counts those of the group.
""",
        wrong="""\
optimizer Travelled(lr = 0.1):
    state longest: [] over all
    longest = max(longest, norm(g))
    p -= lr / (longest + 1e-8) * g
""",
        right="""\
optimizer Travelled(lr = 0.1):
    state longest: [] over all
    longest = max(longest, norm(g, over = all))
    p -= lr / (longest + 1e-8) * g
""",
    ),
    Code(
        code="E409",
        name="when-changes",
        title="`when` on something that changes from step to step",
        text="""\
`when` is decided once for a parameter, when it is added: from its shape, its name, attributes and
options. `if` on a number of the host is decided at each step.
""",
        wrong="""\
optimizer Late(lr = 0.1):
    when t > 100:
        g = sign(g)
    p -= lr * g
""",
        right="""\
optimizer Late(lr = 0.1):
    if t > 100:
        g = sign(g)
    p -= lr * g
""",
    ),
    Code(
        code="E410",
        name="hyperparameters-clash",
        title="Two rules with a hyperparameter of one name",
        text="""\
A wrapped rule takes the hyperparameters of the wrapper and of the rules inside it under their own
names. Where two are the same, give one a new name in the signature of the whole, or bind it.
""",
        wrong="""\
wrapper Scaled(inner, lr = 0.5):
    g *= lr
    step inner

optimizer ScaledSGD = Scaled(SGD)
""",
        right="""\
wrapper Scaled(inner, lr = 0.5):
    g *= lr
    step inner

optimizer ScaledSGD(lr = 1e-3, scale = 0.5) = Scaled(SGD(lr = lr), lr = scale)
""",
    ),
    Code(
        code="E411",
        name="now-and-then",
        title="An inner rule that does not run once a step",
        text="""\
Inside an inner rule `t` counts the runs of that rule. Under `every k from s` it is worked out from
the steps, so that k and s must stay what they are. Under any other condition that falls now so, now
otherwise, or where a rule runs twice in a step, nothing counts. `when`, and `if` on sizes, names
and options, decide once and for all and are fine.
""",
        wrong="""\
optimizer Alternating(lr = 0.1):
    if t % 2 == 0:
        use SGD(lr = lr)
""",
        right="""\
optimizer Alternating(lr = 0.1):
    every 2:
        use SGD(lr = lr)
""",
    ),
    Code(
        code="E412",
        name="bad-attribute",
        title="An attribute or input that cannot be what it says",
        text="""\
An attribute's default is a literal. Attributes and inputs of one name in rules that run together
are the same attribute or input, so they have the same default or the same shape.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    attribute scale = 2 * lr
    p -= lr * scale * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    attribute scale = 1.0
    p -= lr * scale * g
""",
    ),
    Code(
        code="E413",
        name="bad-default",
        title="A hyperparameter without a default that is a literal",
        text="""\
Every hyperparameter has a default: a number, `true` or `false`, a string, or a tuple of such. Only
the rules that a wrapper takes have none, and they come first.
""",
        wrong="""\
optimizer SGD(lr):
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    p -= lr * g
""",
    ),
    Code(
        code="E414",
        name="nothing-inside",
        title="A wrapper without a rule to wrap",
        text="""\
A wrapper is completed by `optimizer NAME = Wrapper(Rule)`; the result is a rule.
""",
        wrong="""\
optimizer Mine = Lookahead(k = 10)
""",
        right="""\
optimizer Mine = Lookahead(SGD, k = 10)
""",
    ),
    Code(
        code="E415",
        name="views-differ",
        title="Rules with different views of the parameter in one",
        text="""\
`view` says how a tensor of more than two dimensions is seen as a matrix. Rules that run together
share the parameter and see it alike.
""",
        wrong="""\
optimizer Mixed(lr = 0.1):
    view flat
    when ndim >= 2:
        use Adafactor(lr = lr)
    otherwise:
        p -= lr * g
""",
        right="""\
optimizer Mixed(lr = 0.1):
    view last
    when ndim >= 2:
        use Adafactor(lr = lr)
    otherwise:
        p -= lr * g
""",
    ),
    Code(
        code="E416",
        name="bad-report",
        title="A report that is not one number",
        text="""\
`report NAME = X` leaves one number to be read after the step, for the group or the model. A value
that each parameter has of its own is reduced first.
""",
        wrong="""\
optimizer SGD(lr = 0.1):
    report size = norm(g)
    p -= lr * g
""",
        right="""\
optimizer SGD(lr = 0.1):
    report size = norm(g, over = all)
    p -= lr * g
""",
    ),
    Code(
        code="E417",
        name="codes-of-few-numbers",
        title="Codes for a state that is not of the parameter's size",
        text="""\
`fp8`, `int8` and `int4` store blocks of a parameter's elements. States that are smaller (a number a
row, one for the parameter), shared or of a shape of their own are stored as they are computed:
there is little to save.
""",
        wrong="""\
optimizer Scaled(lr = 0.1):
    state v: [] as int8
    v = lerp(v, mean(g^2), 0.1)
    p -= lr * g / (sqrt(v) + 1e-8)
""",
        right="""\
optimizer Scaled(lr = 0.1):
    state v: []
    v = lerp(v, mean(g^2), 0.1)
    p -= lr * g / (sqrt(v) + 1e-8)
""",
    ),
    Code(
        code="E418",
        name="evaluation-gone",
        title="A value for evaluation that only the step has",
        text="""\
A model is switched to evaluation between two steps, when gradients, old states and what the step
worked out are gone. `eval VALUE` is therefore made of p and the states as the step leaves them.
""",
        wrong="""\
optimizer Ahead(lr = 0.1):
    p -= lr * g
    eval p - lr * g
""",
        right="""\
optimizer Ahead(lr = 0.1):
    state last
    last = g
    p -= lr * g
    eval p - lr * last
""",
    ),
)
