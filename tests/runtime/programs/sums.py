"""Reducing: numbers over parameters, rows and columns of batches."""

from __future__ import annotations

from optdsl.runtime.program import Kernel, Reduction, State, Temp, Variant
from tests.runtime.programs.making import make

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
