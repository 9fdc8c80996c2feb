"""What programs written by hand have in common: the usual answers, the head of their C."""

from __future__ import annotations

from optdsl.runtime.optimizer import Optimizer
from optdsl.runtime.program import TABLE_VERSION, Program, State

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
