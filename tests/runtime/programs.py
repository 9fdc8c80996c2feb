"""Programs written by hand, with their C, for tests of the runtime alone.

They are the smallest rules that need a part of it: a count, births and branches, a sum over
all, states of a group and of the run, factored states of batches, library passes, host functions
of names and attributes.
"""

from __future__ import annotations

from optdsl.runtime.optimizer import Optimizer
from optdsl.runtime.program import (
    TABLE_VERSION,
    Kernel,
    Library,
    Program,
    Reduction,
    State,
    Temp,
    Variant,
)

C_HEAD = """
typedef long long i64;
#if defined PARAM_float64
typedef double param; typedef double real;
static real in(param x) { return x; }
static param out(real x) { return x; }
#elif defined PARAM_float32
typedef float param; typedef float real;
static real in(param x) { return x; }
static param out(real x) { return x; }
#elif defined PARAM_bfloat16
typedef unsigned short param; typedef float real;
static real in(param x) { union { unsigned u; float f; } v = {(unsigned)x << 16}; return v.f; }
static param out(real x)
{
    union { float f; unsigned u; } v = {x};
    return (v.u + 0x7fff + (v.u >> 16 & 1)) >> 16;
}
#else
typedef _Float16 param; typedef float real;
static real in(param x) { return x; }
static param out(real x) { return x; }
#endif
#define KERNEL(name) void name(const i64 *task, void *const *b, const i64 *shape, \\
    const double *s, double *partials, const double *results)
#define EACH for (i64 i = task[1]; i < task[2]; i++)
"""


def never(name, h, e):
    raise AssertionError(f"{name} has no first value of its own")


def make(name, variants, source, **more):
    """A program with the usual answers where `more` gives none."""
    usual = {
        "version": TABLE_VERSION,
        "view": "rows",
        "hypers": (("lr", 0.1),),
        "static_hypers": (),
        "attributes": (),
        "inputs": (),
        "states": (),
        "slots": (),
        "reads": frozenset(),
        "decide": lambda h, e: 0,
        "check": positive_lr,
        "fill": lambda name, h, e: 0.0,
        "dims": lambda h, e: {},
        "c_source": C_HEAD + source,
    }
    return Program(name=name, variants=variants, **{**usual, **more})


def positive_lr(h):
    if not h["lr"] >= 0:
        raise ValueError(f"lr >= 0 does not hold: lr is {h['lr']}")


def full(name, key=None, storage="compute", fill=True, birth=None):
    return State(name, key or name, "full", ("rows", "cols"), storage, fill, birth or name)


# ---------------------------------------------------------------- a state and a count

ADAM = make(
    "Adam",
    (
        Variant(
            ("p", "g", "m", "v"),
            (Kernel(0, "adam", "full", "flat", ("p", "g", "m", "v"), ("p", "m", "v")),),
            (),
            lambda h, e: (
                h["lr"] / (1 - h["betas"][0] ** e.t),
                h["betas"][0],
                h["betas"][1],
                (1 - h["betas"][1] ** e.t) ** 0.5,
                h["eps"],
                e.g_scale,
            ),
            ("m", "v"),
        ),
    ),
    """
KERNEL(adam)
{
    param *p = b[0]; const param *g = b[1]; real *m = b[2], *v = b[3];
    EACH {
        real x = in(g[i]) * (real)s[5];
        m[i] += (real)(1 - s[1]) * (x - m[i]);
        v[i] += (real)(1 - s[2]) * (x * x - v[i]);
        p[i] = out(in(p[i]) - (real)s[0] * m[i] / (__builtin_sqrt(v[i]) / (real)s[3] + (real)s[4]));
    }
}
""",
    # The rule has no decay; torch wants to find the entry in a checkpoint.
    hypers=(("lr", 1e-3), ("betas", (0.9, 0.999)), ("eps", 1e-8), ("weight_decay", 0)),
    states=(full("m", "exp_avg"), full("v", "exp_avg_sq", birth="m")),
    reads=frozenset({"t"}),
)


class Adam(Optimizer):
    program = ADAM

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, **options):
        hypers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0}
        super().__init__(params, hypers, **options)


# ---------------------------------------------------------------- births and branches

SGD = make(
    "SGD",
    (
        Variant(
            ("p", "g"),
            (Kernel(0, "plain", "full", "flat", ("p", "g"), ("p",)),),
            (),
            lambda h, e: (h["lr"],),
            (),
        ),
        Variant(
            ("p", "g", "buf"),
            (Kernel(0, "begin", "full", "flat", ("p", "g"), ("p", "buf")),),
            (),
            lambda h, e: (h["lr"],),
            ("buf",),
        ),
        Variant(
            ("p", "g", "buf"),
            (Kernel(0, "go_on", "full", "flat", ("p", "g", "buf"), ("p", "buf")),),
            (),
            lambda h, e: (h["lr"], h["momentum"]),
            ("buf",),
        ),
    ),
    """
KERNEL(plain)
{
    param *p = b[0]; const param *g = b[1];
    EACH p[i] = out(in(p[i]) - (real)s[0] * in(g[i]));
}
KERNEL(begin)
{
    param *p = b[0]; const param *g = b[1]; real *buf = b[2];
    EACH { buf[i] = in(g[i]); p[i] = out(in(p[i]) - (real)s[0] * buf[i]); }
}
KERNEL(go_on)
{
    param *p = b[0]; const param *g = b[1]; real *buf = b[2];
    EACH { buf[i] = (real)s[1] * buf[i] + in(g[i]); p[i] = out(in(p[i]) - (real)s[0] * buf[i]); }
}
""",
    hypers=(("lr", 0.1), ("momentum", 0.0), ("dampening", 0), ("weight_decay", 0)),
    states=(full("buf", "momentum_buffer", fill=False),),
    reads=frozenset({"first"}),
    decide=lambda h, e: 0 if h["momentum"] == 0 else 1 if e.first("buf") else 2,
    fill=never,
)

LOOKAHEAD = make(
    "Lookahead",
    tuple(
        Variant(
            ("p", "g", "slow"),
            (Kernel(0, name, "full", "flat", ("p", "g", "slow"), ("p", "slow")),),
            (),
            lambda h, e: (h["lr"], h["alpha"]),
            ("slow",),
        )
        for name in ("begin", "fast", "slow", "begin_slow")
    ),
    """
KERNEL(fast)
{
    param *p = b[0]; const param *g = b[1];
    EACH p[i] = out(in(p[i]) - (real)s[0] * in(g[i]));
}
KERNEL(begin)
{
    param *p = b[0]; real *slow = b[2];
    EACH slow[i] = in(p[i]);
    fast(task, b, shape, s, partials, results);
}
KERNEL(slow)
{
    param *p = b[0]; const param *g = b[1]; real *slow = b[2];
    EACH {
        slow[i] += (real)s[1] * (in(p[i]) - (real)s[0] * in(g[i]) - slow[i]);
        p[i] = out(slow[i]);
    }
}
KERNEL(begin_slow)
{
    param *p = b[0]; real *x = b[2];
    EACH x[i] = in(p[i]);
    slow(task, b, shape, s, partials, results);
}
""",
    hypers=(("lr", 0.1), ("k", 3), ("alpha", 0.5)),
    states=(full("slow", fill=False),),
    reads=frozenset({"first", "t"}),
    decide=lambda h, e: (
        (3 if e.t % h["k"] == 0 else 0) if e.first("slow") else (2 if e.t % h["k"] == 0 else 1)
    ),
    fill=never,
)

# ---------------------------------------------------------------- numbers over parameters

CLIP = make(
    "Clip",
    (
        Variant(
            ("p", "g"),
            (
                Kernel(
                    *(0, "square", "full", "flat", ("g",), ()),
                    (Reduction("sq", "sum", "all"),),
                ),
                Kernel(1, "clipped", "full", "flat", ("p", "g"), ("p",)),
            ),
            (),
            lambda h, e: (h["lr"], h["max_norm"], e.g_scale),
            (),
        ),
    ),
    """
KERNEL(square)
{
    const param *g = b[1]; double sum = 0;
    EACH sum += (double)in(g[i]) * in(g[i]);
    partials[task[3]] = sum;
}
KERNEL(clipped)
{
    param *p = b[0]; const param *g = b[1];
    double factor = s[1] / (__builtin_sqrt(results[0]) * __builtin_fabs(s[2]) + 1e-6);
    real step = s[0] * (factor < 1 ? factor : 1) * s[2];
    EACH p[i] = out(in(p[i]) - step * in(g[i]));
}
""",
    hypers=(("lr", 0.1), ("max_norm", 1.0)),
    slots=(("sq", "all"),),
)

DISTANCE = make(
    "Distance",
    (
        Variant(
            ("p", "g", "travelled", "best"),
            (
                Kernel(
                    *(0, "measure", "full", "flat", ("g",), ()),
                    (Reduction("sq", "sum", "all"), Reduction("top", "max_of", "group")),
                ),
                Kernel(1, "go", "full", "flat", ("p", "g", "travelled", "best"), ("p",)),
                Kernel(2, "travel", "all", "flat", ("travelled",), ("travelled",)),
                Kernel(2, "improve", "group", "flat", ("best",), ("best",)),
            ),
            (),
            lambda h, e: (h["lr"],),
            ("travelled", "best"),
        ),
    ),
    """
KERNEL(measure)
{
    const param *g = b[1]; double sum = 0, top = -1e300;
    EACH { real x = in(g[i]); sum += (double)x * x; top = x > top || x != x ? x : top; }
    partials[task[3]] = sum; partials[task[3] + 1] = top;
}
static real farther(const real *travelled, double sq) { return *travelled + __builtin_sqrt(sq); }
static real larger(const real *best, real top) { return top > *best || top != top ? top : *best; }
KERNEL(travel) { real *travelled = b[2]; *travelled = farther(travelled, results[0]); }
KERNEL(improve) { real *best = b[3]; *best = larger(best, results[shape[6]]); }
KERNEL(go)
{
    param *p = b[0]; const param *g = b[1];
    const real length = farther(b[2], results[0]) + larger(b[3], results[shape[6]]);
    EACH p[i] = out(in(p[i]) - (real)s[0] * in(g[i]) / length);
}
""",
    states=(
        State("travelled", "travelled", "all", (), "compute", True, "travelled"),
        State("best", "best", "group", (), "compute", True, "best"),
    ),
    slots=(("top", "group"), ("sq", "all")),
    fill=lambda name, h, e: 0.5 if name == "best" else 0.0,
)

# Two variants that read and update one state, in different numbers of stages.
UNEVEN = make(
    "Uneven",
    (
        Variant(
            ("p", "g", "total"),
            (
                Kernel(
                    *(0, "short_square", "full", "flat", ("g",), ()),
                    (Reduction("sq", "sum", "all"),),
                ),
                Kernel(1, "short_go", "full", "flat", ("p", "g", "total"), ("p",)),
                Kernel(2, "short_total", "all", "flat", ("total",), ("total",)),
            ),
            (),
            lambda h, e: (h["lr"],),
            ("total",),
        ),
        Variant(
            ("p", "g", "total", "x"),
            (
                Kernel(
                    *(0, "long_square", "full", "flat", ("g",), ()),
                    (Reduction("sq", "sum", "all"),),
                ),
                Kernel(1, "long_copy", "full", "flat", ("g",), ("x",)),
                Kernel(2, "long_double", "full", "flat", ("x",), ("x",)),
                Kernel(3, "long_go", "full", "flat", ("p", "x", "total"), ("p",)),
                Kernel(4, "long_total", "all", "flat", ("total",), ("total",)),
            ),
            (),
            lambda h, e: (h["lr"],),
            ("total",),
            (Temp("x", "full", ("rows", "cols")),),
        ),
    ),
    """
KERNEL(short_square)
{
    const param *g = b[1]; double sum = 0;
    EACH sum += (double)in(g[i]) * in(g[i]);
    partials[task[3]] = sum;
}
KERNEL(long_square) { short_square(task, b, shape, s, partials, results); }
KERNEL(short_go)
{
    param *p = b[0]; const param *g = b[1]; const real *total = b[2];
    EACH p[i] = out(in(p[i]) - (real)s[0] * in(g[i]) / (1 + *total + (real)results[0]));
}
KERNEL(short_total) { real *total = b[2]; *total += results[0]; }
KERNEL(long_total) { short_total(task, b, shape, s, partials, results); }
KERNEL(long_copy) { const param *g = b[1]; real *x = b[3]; EACH x[i] = in(g[i]); }
KERNEL(long_double) { real *x = b[3]; EACH x[i] *= 2; }
KERNEL(long_go)
{
    param *p = b[0]; const real *total = b[2], *x = b[3];
    EACH p[i] = out(in(p[i]) - (real)s[0] * x[i] / (1 + *total + (real)results[0]));
}
""",
    attributes=(("long", 0),),
    states=(State("total", "total", "all", (), "compute", True, "total"),),
    slots=(("sq", "all"),),
    reads=frozenset({"attributes"}),
    decide=lambda h, e: e.attributes["long"],
)

# ---------------------------------------------------------------- rows and columns of batches

FACTORED = make(
    "Factored",
    (
        Variant(
            ("p", "g", "row", "col"),
            (
                Kernel(
                    *(0, "sums", "full", "rows", ("g", "row"), ("row",)),
                    (
                        Reduction("top", "max_of", "tensor"),
                        Reduction("columns", "sum", "col"),
                        Reduction("rows_sum", "sum", "matrix"),
                    ),
                ),
                Kernel(1, "columns", "col", "flat", ("col",), ("col",)),
                Kernel(2, "update", "full", "rows", ("p", "g", "row", "col"), ("p",)),
            ),
            (),
            lambda h, e: (h["lr"], h["decay"]),
            ("row", "col"),
        ),
    ),
    """
KERNEL(sums)
{
    const param *g = b[1]; real *row = b[2]; const i64 cols = shape[2];
    double *out_ = partials + task[3], top = -1e300, total = 0;
    for (i64 c = 0; c < cols; c++) out_[1 + c] = 0;
    for (i64 r = task[1]; r < task[2]; r++) {
        double sum = 0;
        for (i64 c = 0; c < cols; c++) {
            double x = in(g[r * cols + c]);
            top = x > top ? x : top; sum += x * x; out_[1 + c] += x * x;
        }
        row[r] += s[1] * (sum / cols - row[r]);
        total += row[r];
    }
    out_[0] = top; out_[1 + cols] = total;
}
KERNEL(columns)
{
    real *col = b[3];
    EACH col[i] += s[1] * (results[shape[7] + shape[3] + i] / shape[1] - col[i]);
}
KERNEL(update)
{
    param *p = b[0]; const param *g = b[1]; const real *row = b[2], *col = b[3];
    const i64 rows = shape[1], cols = shape[2], m = task[1] / rows;
    const double mean = results[shape[7] + m] / rows, top = results[shape[5]];
    for (i64 r = task[1]; r < task[2]; r++)
        for (i64 c = 0; c < cols; c++) {
            i64 i = r * cols + c;
            p[i] = out(in(p[i]) - (real)(s[0] * in(g[i]) / __builtin_sqrt(
                row[r] * col[m * cols + c] / mean) * top));
        }
}
""",
    view="last",
    hypers=(("lr", 0.1), ("decay", 0.25)),
    states=(
        State("row", "row_var", "row", ("batch", "rows", 1), "compute", True, "row"),
        State("col", "col_var", "col", ("batch", 1, "cols"), "compute", True, "row"),
    ),
    slots=(("top", "tensor"), ("columns", "col"), ("rows_sum", "matrix")),
    fill=lambda name, h, e: 0.125,
)

# ---------------------------------------------------------------- library passes


def gram(inputs, scalars, results, sizes):
    """x x^T x / rows, the mean of x added, and its trace."""
    x = inputs["x"]
    assert sizes["rows"] == x.shape[-2] and sizes["cols"] == x.shape[-1]
    y = x @ x.mT @ x * scalars[0] + results["total"] / sizes["numel"]
    return y, y.square().sum((-2, -1), keepdim=True)


GRAM = make(
    "Gram",
    (
        Variant(
            ("p", "g", "x", "y", "size"),
            (
                Kernel(
                    *(0, "double_", "full", "flat", ("g",), ("x",)),
                    (Reduction("total", "sum", "tensor"),),
                ),
                Kernel(1, "apply", "full", "flat", ("p", "y", "size"), ("p",)),
            ),
            (Library(0, "gram", gram, ("x",), ("y", "size")),),
            lambda h, e: (1 / e.rows, h["lr"]),
            (),
            (
                Temp("x", "full", ("rows", "cols")),
                Temp("y", "full", ("rows", "cols")),
                Temp("size", "tensor", ()),
            ),
        ),
    ),
    """
KERNEL(double_)
{
    const param *g = b[1]; real *x = b[2]; double sum = 0;
    EACH { x[i] = 2 * in(g[i]); sum += x[i]; }
    partials[task[3]] = sum;
}
KERNEL(apply)
{
    param *p = b[0]; const real *y = b[3], *size = b[4];
    EACH p[i] = out(in(p[i]) - (real)s[1] * y[i] / (1 + *size));
}
""",
    slots=(("total", "tensor"),),
    reads=frozenset({"rows"}),
)


def whole(inputs, scalars, results, sizes):
    """Reads p, g and a state as they lie, writes p and the state."""
    p, g, m = inputs["p"], inputs["g"], inputs["m"]
    m = m + g @ g.mT @ g
    return p - scalars[0] * m, m


WHOLE = make(
    "Whole",
    (
        Variant(
            ("p", "g", "m"),
            (),
            (Library(0, "whole", whole, ("p", "g", "m"), ("p", "m")),),
            lambda h, e: (h["lr"],),
            ("m",),
        ),
    ),
    "",
    states=(full("m"),),
)

# ---------------------------------------------------------------- what host functions read

HOSTED = make(
    "Hosted",
    (
        Variant(
            ("p",),
            (Kernel(0, "shrink", "full", "flat", ("p",), ("p",)),),
            (),
            lambda h, e: (h["lr"] * h["decay"] ** e.attributes["depth"] / e.steps,),
            (),
        ),
        Variant(
            ("p",),
            (Kernel(0, "shrink", "full", "flat", ("p",), ("p",)),),
            (),
            lambda h, e: (-h["lr"] * e.cols,),
            (),
        ),
    ),
    """
KERNEL(shrink) { param *p = b[0]; EACH p[i] = out(in(p[i]) - (real)s[0] * in(p[i])); }
""",
    hypers=(("lr", 0.1), ("decay", 0.5), ("grow", "bias")),
    static_hypers=("grow",),
    attributes=(("depth", 0),),
    reads=frozenset({"attributes", "steps", "name", "cols"}),
    decide=lambda h, e: int(e.matches(h["grow"])),
    reads_gradient=False,
)


def optimizer_class(program):
    """The class that a generated module would have, with all hyperparameters as keywords."""

    class Made(Optimizer):
        def __init__(self, params, **options):
            own = dict(program.hypers)
            hypers = {name: options.pop(name, default) for name, default in own.items()}
            super().__init__(params, hypers, **options)

    Made.program = program
    Made.__name__ = Made.__qualname__ = program.name
    return Made
