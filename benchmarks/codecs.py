"""What codecs cost on one core: `python -m benchmarks.codecs` (C compiler needed).

Measures, in nanoseconds an element and on numbers that lie in the cache, loading and saving by the
C of the runtime, for int8 the same by a table and a search of eight steps, and a step of AdamW with
float32 states, with int8 states, and with bfloat16 parameters that round at random. The figure is
the least of many short runs: what the core does when nobody else has it. Writes
benchmarks/results/codecs.json, or the file that --out names.

A step in the cache leaves out what codes are for: with int8 states 16 bytes a parameter are moved,
not 28.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from optdsl.files import replace_file
from optdsl.runtime.cpu.launch import ABLE, codec_source
from optdsl.runtime.native import find_compiler, load
from optdsl.runtime.storage.codecs import INT8, UINT8, Codec, tables

RESULTS = Path(__file__).parent / "results" / "codecs.json"
NUMBERS = 2048
"""A task: 8 KiB as float32, so that all that a step touches stays in the first-level cache."""

TIMER = """
#include <time.h>
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}
/* The least of `trials` times of one call, a number. */
#define MEASURED(name, call) \\
    double time_##name(float *p, const float *g, float *m, float *v, void *mc, void *ms, \\
                       void *vc, void *vs, i64 n, int trials) \\
    { \\
        double least = 1e30; \\
        for (int trial = 0; trial < trials; trial++) { \\
            const double start = now(); \\
            call; \\
            const double taken = (now() - start) / n; \\
            least = taken < least ? taken : least; \\
        } \\
        return least; \\
    }
"""

CODEC = """
MEASURED(load_{0}, load_{0}(p, mc, ms, 0, n))
MEASURED(save_{0}, save_{0}({1}, mc, ms, 0, n))
"""

TABLE = """
static const float {0}_table[256] = {{{1}}}, {0}_middles[256] = {{{2}}};
static void decode_{0}_by_table(const unsigned char *codes, const float *scale, float *x, i64 n)
{{
    for (i64 i = 0; i < n; i++) x[i] = {0}_table[codes[i]] * scale[i / 256];
}}
static void encode_{0}_by_search(const float *x, unsigned char *codes, float *scale, i64 n)
{{
    for (i64 at = 0; at < n; at += 256) {{
        scale[at / 256] = scale_{0}(x + at);
        for (int i = 0; i < 256; i++) {{
            const float ratio = x[at + i] / scale[at / 256];
            int code = 0;
            for (int step = 128; step; step /= 2)
                code += ratio >= {0}_middles[code + step - 1] ? step : 0;
            codes[at + i] = code;
        }}
    }}
}}
MEASURED(load_{0}_by_table, decode_{0}_by_table(mc, ms, p, n))
MEASURED(save_{0}_by_search, encode_{0}_by_search({3}, mc, ms, n))
"""

STEP = """
static void step(float *p, const float *g, float *m, float *v, i64 n)
{
    #pragma omp simd
    for (i64 i = 0; i < n; i++) {
        const float first = __builtin_fmaf(g[i] - m[i], 0.1f, m[i]);
        const float second = __builtin_fmaf(g[i] * g[i] - v[i], 0.001f, v[i]);
        const float d = 1e-3f * (first / (__builtin_sqrtf(second * 1.1f) + 1e-8f));
        p[i] -= __builtin_fmaf(1e-5f, p[i], d);
        m[i] = first;
        v[i] = second;
    }
}
static void step_int8(float *p, const float *g, float *m, float *v, void *mc, void *ms, void *vc,
                      void *vs, i64 n)
{
    load_int8(m, mc, ms, 0, n);
    load_uint8(v, vc, vs, 0, n);
    step(p, g, m, v, n);
    save_int8(m, mc, ms, 0, n);
    save_uint8(v, vc, vs, 0, n);
}
static void step_stochastic(float *p, const float *g, float *m, float *v, void *mc, i64 n)
{
    load_stochastic_bf16(p, mc, 0, 0, n);
    step(p, g, m, v, n);
    save_stochastic_bf16(p, mc, 0, 0, n);
}
MEASURED(adamw_float32, step(p, g, m, v, n))
MEASURED(adamw_int8, step_int8(p, g, m, v, mc, ms, vc, vs, n))
MEASURED(adamw_stochastic_bf16, step_stochastic(p, g, m, v, mc, n))
"""


def source() -> str:
    """The C of all that is measured."""
    parts = [codec_source(), TIMER]
    parts += [CODEC.format(each, _values(each)) for each in sorted(ABLE.whole)]
    parts += [_by_table(each, name) for each, name in ((INT8, "int8"), (UINT8, "uint8"))]
    return "".join([*parts, STEP])


def _values(codec: str) -> str:
    """Those that are saved: squares where there is no sign."""
    return "v" if codec.startswith("u") else "g"


def _by_table(form: Codec, name: str) -> str:
    entries, middles = tables(form)
    texts = [", ".join(f"{float(x).hex()}f" for x in row) for row in (entries, [*middles, 2])]
    return TABLE.format(name, *texts, _values(name))


def measure(trials: int) -> dict[str, float]:
    """Nanoseconds an element, by what was done."""
    library = load(source())
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(NUMBERS, generator=generator)
    # Room for what lies beside a parameter, too.
    values = [torch.zeros(NUMBERS), g, torch.zeros(NUMBERS), g.square()]
    buffers = [*values, *(torch.zeros(NUMBERS) for _ in range(4))]
    pointers = [ctypes.c_void_p(each.data_ptr()) for each in buffers]
    names = [f"{way}_{each}" for each in sorted(ABLE.whole) for way in ("save", "load")]
    for each in ("int8", "uint8"):
        names += [f"save_{each}_by_search", f"load_{each}_by_table"]
    found = {}
    for name in [*names, "adamw_float32", "adamw_int8", "adamw_stochastic_bf16"]:
        function = getattr(library, f"time_{name}")
        function.restype = ctypes.c_double
        found[name] = round(function(*pointers, ctypes.c_longlong(NUMBERS), trials), 3)
    return found


def report(trials: int) -> dict[str, Any]:
    """The figures, and what they were measured on."""
    compiler = find_compiler()
    return {
        "command": "python -m benchmarks.codecs",
        "unit": "ns per element, one thread, in cache; the least of many runs",
        "processor": _processor(),
        "compiler": compiler.version if compiler else "none",
        "load_average": round(os.getloadavg()[0], 1),
        "figures": measure(trials),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=20_000, help="runs of each (default: 20000)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file to write")
    options = parser.parse_args()
    found = report(options.trials)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(options.out, json.dumps(found, indent=2) + "\n")
    for name, figure in found["figures"].items():
        print(f"{name:<26} {figure:7.3f} ns")


if __name__ == "__main__":
    main()
