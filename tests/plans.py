"""Plans written by hand, for tests of what comes after the schedule.

`PLANS` maps a name to a function that builds the plan. They cover what a schedule can make: flat
and rows passes, reductions to every domain, small passes, several stages and variants, states in
few bits, library passes. `sizes` in the texts are those of p's matrix view.
"""

from __future__ import annotations

from collections.abc import Callable

from optdsl.ir.nodes import (
    LoopBody,
    Value,
)
from optdsl.ops import OPS, Result
from optdsl.schedule.plan import (
    Decision,
    Domain,
    LibraryPass,
    Pass,
    Phase,
    Plan,
    Store,
    Variant,
)
from optdsl.types import DType, Shape, Storage
from tests.sketches import (
    Sketch,
    gradient,
    kernel,
    parameter,
    state,
    states_of,
    temp,
    type_of,
)

ADAMW_TEXT = """\
optimizer AdamW(lr = 1e-3, betas = (0.9, 0.999), eps = 1e-8, weight_decay = 0.01):
    require lr >= 0
    beta1, beta2 = betas
    state m named "exp_avg", v named "exp_avg_sq"

    p *= 1 - lr * weight_decay
    m = lerp(m, g, 1 - beta1)
    v = lerp(v, g^2, 1 - beta2)
    p -= lr * debias(m, beta1) / (sqrt(debias(v, beta2)) + eps)
"""
ADAMW_HYPERS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def _adam_step(s: Sketch, p: Value, g: Value, m: Value, v: Value) -> tuple[Value, Value, Value]:
    """AdamW's new p, m and v, with its host factors in the scalar table."""
    lr, eps, decay = s.hyper("lr"), s.hyper("eps"), s.hyper("weight_decay")
    beta1, beta2 = s.hyper("betas", 0), s.hyper("betas", 1)
    t = s.host("t", DType.INT)
    shrink = s.scalar(s.at(6).make("neg", s.make("mul", lr, decay)))
    new_m = s.at(7).make("lerp", m, g, s.scalar(s.make("sub", 1, beta1)), name="m")
    squared = s.at(8).make("mul", g, g)
    new_v = s.make("lerp", v, squared, s.scalar(s.make("sub", 1, beta2)), name="v")
    s.at(9)
    first = s.make("div", new_m, s.scalar(s.make("sub", 1, s.make("pow", beta1, t))))
    second = s.make("div", new_v, s.scalar(s.make("sub", 1, s.make("pow", beta2, t))))
    below = s.make("add", s.make("sqrt", second), s.scalar(eps, "eps"))
    update = s.make("div", s.make("mul", s.scalar(lr, "lr"), first), below)
    new_p = s.make("sub", s.make("fma", shrink, p, p), update, name="p")
    return new_p, new_m, new_v


def adamw(storage: Storage = Storage.COMPUTE) -> Plan:
    """One flat pass. `storage` is that of both states."""
    s = Sketch("AdamW", ADAMW_TEXT)
    p, m, v = _adam_step(s, s.load("p"), s.load("g"), s.load("m"), s.load("v"))
    phase = Phase(stores=(Store("p", p), Store("m", m), Store("v", v)))
    buffers = [parameter(), gradient(), state("m", storage=storage), state("v", storage=storage)]
    positive = s.at(2).make("ge", s.hyper("lr"), 0)
    return s.plan(
        ADAMW_HYPERS,
        buffers,
        [kernel(0, "adamw_0", phase)],
        requirements=(s.require(positive, "lr >= 0"),),
    )


CLIP_TEXT = """\
optimizer ClippedAdamW(lr = 1e-3, betas = (0.9, 0.999), eps = 1e-8, weight_decay = 0.01,
                       max_norm = 1.0):
    beta1, beta2 = betas
    state m named "exp_avg", v named "exp_avg_sq"
    g *= min(1, max_norm / (norm(g, over = all) + 1e-6))
    p *= 1 - lr * weight_decay
    m = lerp(m, g, 1 - beta1)
    v = lerp(v, g^2, 1 - beta2)
    p -= lr * debias(m, beta1) / (sqrt(debias(v, beta2)) + eps)
"""


def clipped_adamw() -> Plan:
    """Two flat passes around a sum over all parameters."""
    s = Sketch("ClippedAdamW", CLIP_TEXT)
    g = s.at(5).load("g")
    square = s.reduce("norm_squared", s.make("mul", g, g), Domain.ALL)
    norm = s.make("sqrt", s.result("norm_squared", Domain.ALL))
    bound = s.make("div", s.scalar(s.hyper("max_norm"), "max_norm"), s.make("add", norm, 1e-6))
    clipped = s.make("mul", g, s.make("min", 1, bound), name="g")
    p, m, v = _adam_step(s, s.load("p"), clipped, s.load("m"), s.load("v"))
    return s.plan(
        {**ADAMW_HYPERS, "max_norm": 1.0},
        [parameter(), gradient(), state("m"), state("v")],
        [
            kernel(0, "clippedadamw_0", Phase(partials=(square,))),
            kernel(
                1, "clippedadamw_1", Phase(stores=(Store("p", p), Store("m", m), Store("v", v)))
            ),
        ],
    )


LAMB_TEXT = """\
optimizer LAMB(lr = 1e-3, betas = (0.9, 0.999), eps = 1e-6, weight_decay = 0.01):
    beta1, beta2 = betas
    m = ema(g, beta1)
    v = ema(g^2, beta2)
    u = debias(m, beta1) / (sqrt(debias(v, beta2)) + eps) + weight_decay * p
    trust = where(norm(p) > 0 and norm(u) > 0, norm(p) / norm(u), 1)
    p -= lr * trust * u
"""


def lamb() -> Plan:
    """Two flat passes around two sums per tensor; the second recomputes u."""
    s = Sketch("LAMB", LAMB_TEXT)
    beta1, beta2, t = s.hyper("betas", 0), s.hyper("betas", 1), s.host("t", DType.INT)
    p, g = s.load("p"), s.load("g")

    def direction(m: Value, v: Value) -> Value:
        s.at(5)
        first = s.make("div", m, s.scalar(s.make("sub", 1, s.make("pow", beta1, t))))
        second = s.make("div", v, s.scalar(s.make("sub", 1, s.make("pow", beta2, t))))
        below = s.make("add", s.make("sqrt", second), s.scalar(s.hyper("eps"), "eps"))
        decay = s.make("mul", s.scalar(s.hyper("weight_decay"), "weight_decay"), p)
        return s.make("add", s.make("div", first, below), decay, name="u")

    m = s.at(3).make("lerp", s.load("m"), g, s.scalar(s.make("sub", 1, beta1)), name="m")
    weight = s.at(4).scalar(s.make("sub", 1, beta2))
    v = s.make("lerp", s.load("v"), s.make("mul", g, g), weight, name="v")
    u = direction(m, v)
    s.at(6)
    sums = (
        s.reduce("p_squared", s.make("mul", p, p), Domain.TENSOR),
        s.reduce("u_squared", s.make("mul", u, u), Domain.TENSOR),
    )
    norms = [s.make("sqrt", s.result(each.slot, Domain.TENSOR)) for each in sums]
    both = s.make("and", s.make("gt", norms[0], 0), s.make("gt", norms[1], 0))
    trust = s.make("where", both, s.make("div", *norms), 1, name="trust")
    u = direction(s.load("m"), s.load("v"))
    step = s.at(7).make("mul", s.make("mul", s.scalar(s.hyper("lr"), "lr"), trust), u)
    new_p = s.make("sub", p, step, name="p")
    return s.plan(
        {**ADAMW_HYPERS, "eps": 1e-6},
        [parameter(), gradient(), state("m"), state("v")],
        [
            kernel(0, "lamb_0", Phase(partials=sums, stores=(Store("m", m), Store("v", v)))),
            kernel(1, "lamb_1", Phase(stores=(Store("p", new_p),))),
        ],
    )


ADAFACTOR_TEXT = """\
optimizer Adafactor(lr = 1e-2, beta2_decay = -0.8, eps = (1e-7, 1e-3), d = 1):
    eps1, eps2 = eps
    alpha = max(eps2, rms(p)) * min(lr, 1 / sqrt(t))
    state row: [rows, 1], col: [1, cols]
    row = lerp(row, mean(g^2, axis = 1), t^beta2_decay)
    col = lerp(col, mean(g^2, axis = 0), t^beta2_decay)
    v = row * col / max(mean(row, axis = 0), eps1)
    u = g / sqrt(max(v, eps1^2))
    p -= alpha / max(1, rms(u) / d) * u
"""


def adafactor(view: str = "rows") -> Plan:
    """Rows passes with row results, sums per column, matrix and tensor, and a small pass."""
    s = Sketch("Adafactor", ADAFACTOR_TEXT, view)
    matrix = Domain.MATRIX if view == "last" else Domain.TENSOR
    t, lr = s.host("t", DType.INT), s.hyper("lr")
    sizes = {name: s.host("size", DType.INT, name=name) for name in ("rows", "cols", "numel")}
    p, g = s.load("p"), s.load("g")
    square = s.at(5).make("mul", g, g)
    weight = s.scalar(s.make("pow", t, s.hyper("beta2_decay")))
    row_sum = s.reduce("row_sum", square, Domain.ROW)
    col_sum = s.reduce("col_sum", square, Domain.COL)
    p_squared = s.at(3).reduce("p_squared", s.make("mul", p, p), Domain.TENSOR)
    row_mean = s.at(5).make("div", s.row_result("row_sum"), s.scalar(sizes["cols"], "cols"))
    row = s.make("lerp", s.load("row", Domain.ROW), row_mean, weight, name="row")
    row_total = s.at(7).reduce("row_total", row, matrix)
    rows = s.scalar(sizes["rows"], "rows")
    col_mean = s.at(6).make("div", s.result("col_sum", Domain.COL), rows)
    col = s.make("lerp", s.load("col", Domain.COL), col_mean, weight, name="col")

    eps1 = s.hyper("eps", 0)
    mean = s.at(7).make("div", s.result("row_total", matrix), rows)
    below = s.make("max", mean, s.scalar(eps1, "eps1"))
    product = s.make("mul", s.load("row", Domain.ROW), s.load("col", Domain.COL))
    v = s.make("div", product, below, name="v")
    floor = s.at(8).scalar(s.make("mul", eps1, eps1))
    u = s.make("div", g, s.make("sqrt", s.make("max", v, floor)), name="u")
    u_squared = s.at(9).reduce("u_squared", s.make("mul", u, u), Domain.TENSOR)

    def rms(slot: str) -> Value:
        mean = s.make("div", s.result(slot, Domain.TENSOR), s.scalar(sizes["numel"], "numel"))
        return s.make("sqrt", mean)

    step = s.at(3).scalar(s.make("min", lr, s.make("div", 1, s.make("sqrt", t))))
    size = s.make("max", s.scalar(s.hyper("eps", 1), "eps2"), rms("p_squared"))
    alpha = s.make("mul", size, step, name="alpha")
    over = s.at(9).make("max", 1, s.make("div", rms("u_squared"), s.scalar(s.hyper("d"), "d")))
    new_p = s.make("sub", p, s.make("mul", s.make("div", alpha, over), u), name="p")
    first = (
        Phase(rows=(row_sum,), partials=(col_sum, p_squared)),
        Phase(partials=(row_total,), stores=(Store("row", row),)),
    )
    return s.plan(
        {"lr": 1e-2, "beta2_decay": -0.8, "eps": (1e-7, 1e-3), "d": 1},
        [parameter(), gradient(), state("row", Domain.ROW), state("col", Domain.COL)],
        [
            kernel(0, "adafactor_0", *first, layout="rows"),
            kernel(1, "adafactor_1", Phase(stores=(Store("col", col),)), domain=Domain.COL),
            kernel(2, "adafactor_2", Phase(partials=(u_squared,)), layout="rows"),
            kernel(3, "adafactor_3", Phase(stores=(Store("p", new_p),)), layout="rows"),
        ],
    )


SWAN_TEXT = """\
optimizer SWAN(lr = 1e-3, ns_steps = 10, beta = 0.8, alpha = 0.2, eps = 1e-8):
    c = g - mean(g, axis = 1)
    x = c / sqrt(mean(c^2, axis = 1) + eps)
    w = x / (norm(x) + 1e-30)
    y = w @ w.T
    z = eye(rows)
    repeat ns_steps:
        r = 3 * eye(rows) - z @ y
        y = beta * y @ r
        z = beta * r @ z
    u = z @ w
    p -= alpha * lr * norm(x) / (norm(u) + 1e-30) * u
"""


def _whitened(s: Sketch, x: Value, x_squared: Value) -> Value:
    """Lines 4 to 11: matrix work with a loop of two carried values."""
    full = type_of(Domain.FULL, "rows")
    square = full.with_(shape=Shape((), "rows", "rows"))
    beta = s.scalar(s.hyper("beta"), "beta")
    norm = s.at(4).make("sqrt", x_squared)
    w = s.make("div", x, s.make("add", norm, 1e-30), name="w")
    s.at(5)
    y0 = s.library("matmul", w, s.library("transpose", w, type=full), type=square, name="y")
    z0 = s.at(6).library("eye", type=square, name="z", n="rows", m="rows")
    y, z = (s.leaf("loop_arg", square, n, loop=1, index=i) for i, n in enumerate("yz"))
    zy = s.at(8).library("matmul", z, y, type=square)
    r = s.make("sub", s.make("mul", 3, z0), zy, name="r")
    next_y = s.at(9).library("matmul", s.make("mul", beta, y), r, type=square, name="y")
    next_z = s.at(10).library("matmul", s.make("mul", beta, r), z, type=square, name="z")
    count = s.scalar(s.hyper("ns_steps"), "ns_steps")
    body = LoopBody((y, z), (next_y, next_z))
    loop = s.at(7).library("loop", count, y0, z0, type=square, body=body)
    z = s.library("loop_result", loop, type=square, name="z", index=1)
    return s.at(11).library("matmul", z, w, type=full, name="u")


def swan() -> Plan:
    """Three phases over rows, a library pass with a loop, a sum over its result, a flat pass."""
    s = Sketch("SWAN", SWAN_TEXT)
    g = s.load("g")
    cols = s.scalar(s.host("size", DType.INT, name="cols"), "cols")
    g_sum = s.at(2).reduce("g_sum", g, Domain.ROW)
    c = s.make("sub", g, s.make("div", s.row_result("g_sum"), cols), name="c")
    c_squared = s.at(3).reduce("c_squared", s.make("mul", c, c), Domain.ROW)
    mean = s.make("div", s.row_result("c_squared"), cols)
    below = s.make("sqrt", s.make("add", mean, s.scalar(s.hyper("eps"), "eps")))
    x = s.make("div", c, below, name="x")
    x_squared = s.at(4).reduce("x_squared", s.make("mul", x, x), Domain.TENSOR)
    total = s.result("x_squared", Domain.TENSOR)
    u = _whitened(s, s.load("x"), total)
    loaded = s.at(12).load("u")
    u_squared = s.reduce("u_squared", s.make("mul", loaded, loaded), Domain.TENSOR)
    rate = s.scalar(s.make("mul", s.hyper("alpha"), s.hyper("lr")))
    norm = s.make("add", s.make("sqrt", s.result("u_squared", Domain.TENSOR)), 1e-30)
    factor = s.make("div", s.make("mul", rate, s.make("sqrt", total)), norm)
    new_p = s.make("sub", s.load("p"), s.make("mul", factor, loaded), name="p")
    first = (
        Phase(rows=(g_sum,)),
        Phase(rows=(c_squared,)),
        Phase(partials=(x_squared,), stores=(Store("x", x),)),
    )
    return s.plan(
        {"lr": 1e-3, "ns_steps": 10, "beta": 0.8, "alpha": 0.2, "eps": 1e-8},
        [parameter(), gradient(), temp("x"), temp("u")],
        [
            kernel(0, "swan_0", *first, layout="rows"),
            LibraryPass(1, "swan_1", (Store("u", u),)),
            kernel(2, "swan_2", Phase(partials=(u_squared,))),
            kernel(3, "swan_3", Phase(stores=(Store("p", new_p),))),
        ],
    )


SHARED_TEXT = """\
optimizer Shared(lr = 0.1):
    state best: [] over group, longest: [] over all, seen: []
    state slow
    every 3:
        slow = lerp(slow, p, 0.5)
    seen = seen + max(abs(g))
    longest = max(longest, norm(g, over = all))
    best = min(best, min(p, over = group))
    p -= lr * clamp(g, -seen, seen) / (1 + longest) + 1e-3 * best
"""


def shared() -> Plan:
    """Two variants; maxima and minima; states per group, run and tensor in small passes."""
    s = Sketch("Shared", SHARED_TEXT)
    p, g = s.load("p"), s.load("g")
    high = s.at(6).reduce("g_largest", s.make("abs", g), Domain.TENSOR, "max_of")
    seen = s.make("add", s.load("seen", Domain.TENSOR), s.result("g_largest", Domain.TENSOR))
    seen.name = "seen"
    norm = s.at(7).reduce("g_squared", s.make("mul", g, g), Domain.ALL)
    length = s.make("sqrt", s.result("g_squared", Domain.ALL))
    longest = s.make("max", s.load("longest", Domain.ALL), length, name="longest")
    low = s.at(8).reduce("p_smallest", p, Domain.GROUP, "min_of")
    smallest = s.result("p_smallest", Domain.GROUP)
    best = s.make("min", s.load("best", Domain.GROUP), smallest, name="best")
    loads = [s.load(n, d) for n, d in [("seen", Domain.TENSOR), ("longest", Domain.ALL)]]
    clamped = s.at(9).make("max", s.make("neg", loads[0]), s.make("min", g, loads[0]))
    step = s.make("div", clamped, s.make("add", 1, loads[1]))
    step = s.make("mul", s.scalar(s.hyper("lr"), "lr"), step)
    step = s.make("add", step, s.make("mul", 1e-3, s.load("best", Domain.GROUP)))
    new_p = s.make("sub", p, step, name="p")
    slow = s.at(5).make("lerp", s.load("slow"), p, 0.5, name="slow")
    buffers = (
        parameter(),
        gradient(),
        state("best", Domain.GROUP),
        state("longest", Domain.ALL),
        state("seen", Domain.TENSOR),
        state("slow"),
    )

    def passes(index: int, *stores: Store) -> tuple[Pass, ...]:
        small = [("best", best, Domain.GROUP), ("longest", longest, Domain.ALL)]
        small.append(("seen", seen, Domain.TENSOR))
        return (
            kernel(0, f"shared_{index}_0", Phase(partials=(high, norm, low), stores=stores)),
            *(
                kernel(1, f"shared_{index}_1_{name}", Phase(stores=(Store(name, v),)), domain=d)
                for name, v, d in small
            ),
            kernel(2, f"shared_{index}_2", Phase(stores=(Store("p", new_p),))),
        )

    every = s.at(4).make("eq", s.make("mod", s.host("t", DType.INT), 3), 0)
    variants = tuple(
        Variant(i, ((every, i == 1),), buffers, each, tuple(s.scalars), states_of(list(buffers)))
        for i, each in enumerate([passes(0), passes(1, Store("slow", slow))])
    )
    infinity = s.builder.const(float("inf"))
    rule = s.rule({"lr": 0.1}, list(buffers), initial={"best": infinity})
    return Plan(rule, Decision(every, 1, 0), variants, dict(s.slots))


def one_map(op: str) -> Plan:
    """p = op(p, g, m), with as many operands as `op` takes."""
    s = Sketch("OneMap", "optimizer OneMap():\n    state m\n    p = ...\n")
    operands = [s.load(name) for name in ("p", "g", "m")][: OPS[op].arity]
    if op in ("and", "or", "not", "where"):
        conditions = 1 if op == "where" else len(operands)
        operands[:conditions] = [s.make("gt", each, 0) for each in operands[:conditions]]
    value = s.at(3).make(op, *operands)
    if OPS[op].result is Result.BOOL:
        value = s.make("where", value, 1, 0)
    buffers = [parameter(), gradient(), state("m")]
    return s.plan({}, buffers, [kernel(0, "onemap_0", Phase(stores=(Store("p", value),)))])


PLANS: dict[str, Callable[[], Plan]] = {
    "adamw": adamw,
    "adamw_bf16_states": lambda: adamw(Storage.BF16),
    "adamw_fp16_states": lambda: adamw(Storage.FP16),
    "adamw_param_states": lambda: adamw(Storage.PARAM),
    "adamw_float32_states": lambda: adamw(Storage.FLOAT32),
    "clipped_adamw": clipped_adamw,
    "lamb": lamb,
    "adafactor": adafactor,
    "adafactor_last": lambda: adafactor("last"),
    "swan": swan,
    "shared": shared,
}
