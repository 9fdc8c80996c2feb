"""Library passes: between kernels, and alone."""

from __future__ import annotations

from optdsl.runtime.program import Kernel, Library, Reduction, Temp, Variant
from tests.runtime.programs.making import full, make

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
