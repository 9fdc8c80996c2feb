"""Element-wise: a state and a count, births and branches, what host functions read."""

from __future__ import annotations

from optdsl.runtime.optimizer import Optimizer
from optdsl.runtime.program import Kernel, Variant
from tests.runtime.programs.making import full, make, never

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
