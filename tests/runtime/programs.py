"""Programs written by hand, with their C, for tests of the runtime alone.

Each has its meaning beside it as a few lines of torch in float64. They are the smallest rules that need
a part of the runtime: a count, a sum over all, states of a group and of the run, factored
states, variants, births, library passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
            ),
            ("m", "v"),
        ),
    ),
    """
KERNEL(adam)
{
    param *p = b[0]; const param *g = b[1]; real *m = b[2], *v = b[3];
    EACH {
        real x = in(g[i]);
        m[i] += (real)(1 - s[1]) * (x - m[i]);
        v[i] += (real)(1 - s[2]) * (x * x - v[i]);
        p[i] = out(in(p[i]) - (real)s[0] * m[i] / (__builtin_sqrt(v[i]) / (real)s[3] + (real)s[4]));
    }
}
""",
    hypers=(("lr", 1e-3), ("betas", (0.9, 0.999)), ("eps", 1e-8)),
    states=(full("m", "exp_avg"), full("v", "exp_avg_sq", birth="m")),
    reads=frozenset({"t"}),
)


class Adam(Optimizer):
    program = ADAM

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, **options):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps}, **options)
