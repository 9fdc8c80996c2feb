"""What block codecs cost on one core: `python -m benchmarks.codecs` (C compiler needed).

Measures, in nanoseconds an element and on numbers that lie in the cache, decoding and encoding by
the generated C, the same by a table and a search of eight steps, and a step of AdamW with float32
and with int8 states (both moments). The figure is the least of many short runs: what the core does
when nobody else has it. Writes benchmarks/results/codecs.json, or the file that --out names.

A step in the cache leaves out what int8 states are for: 16 bytes a parameter are moved, not 28.
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

from optdsl.codegen.codecs import C_NAMES, codec_functions
from optdsl.codegen.templates import render
from optdsl.runtime.codecs import CODECS, INT8, UINT8, Codec, tables
from optdsl.runtime.native import find_compiler, load

RESULTS = Path(__file__).parent / "results" / "codecs.json"
NUMBERS = 4096
"""16 KiB as float32: all that a step touches stays in the second-level cache."""

TIMER = """
struct timespec { long seconds, nanoseconds; };
int clock_gettime(int, struct timespec *);
static double now(void)
{
    struct timespec t;
    clock_gettime(1, &t);
    return t.seconds * 1e9 + t.nanoseconds;
}
/* The least of `trials` times of one call, a number. */
#define MEASURED(name, call) \\
    double time_##name(float *p, const float *g, float *m, float *v, unsigned char *mc, \\
                       float *ms, unsigned char *vc, float *vs, int n, int trials) \\
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
static void decode_all_{0}(const unsigned char *packed, const float *scale, float *x, int n)
{{
    for (int i = 0; i < n; i += {1}) decode_{0}(packed + i / {2}, scale[i / {1}], x + i, {1});
}}
static void encode_all_{0}(const float *x, unsigned char *packed, float *scale, int n)
{{
    for (int i = 0; i < n; i += {1}) scale[i / {1}] = encode_{0}(x + i, packed + i / {2}, {1});
}}
MEASURED(decode_{0}, decode_all_{0}(mc, ms, p, n))
MEASURED(encode_{0}, encode_all_{0}(m, mc, ms, n))
"""

TABLE = """
static const float {0}_table[256] = {{{1}}}, {0}_middles[256] = {{{2}}};
static void decode_{0}_by_table(const unsigned char *codes, const float *scale, float *x, int n)
{{
    for (int i = 0; i < n; i++) x[i] = {0}_table[codes[i]] * scale[i / 256];
}}
static void encode_{0}_by_search(const float *x, unsigned char *codes, float *scale, int n)
{{
    float ratio[256];
    for (int at = 0; at < n; at += 256) {{
        scale[at / 256] = block_ratios(x + at, 1e-12f, 1, ratio, 256);
        for (int i = 0; i < 256; i++) {{
            int code = 0;
            for (int step = 128; step; step /= 2)
                code += ratio[i] >= {0}_middles[code + step - 1] ? step : 0;
            codes[at + i] = code;
        }}
    }}
}}
MEASURED(decode_{0}_by_table, decode_{0}_by_table(mc, ms, p, n))
MEASURED(encode_{0}_by_search, encode_{0}_by_search(m, mc, ms, n))
"""

STEP = """
static void step(float *p, const float *g, float *m, float *v, int n)
{
    #pragma omp simd
    for (int i = 0; i < n; i++) {
        const float first = __builtin_fmaf(g[i] - m[i], 0.1f, m[i]);
        const float second = __builtin_fmaf(g[i] * g[i] - v[i], 0.001f, v[i]);
        const float d = 1e-3f * (first / (__builtin_sqrtf(second * 1.1f) + 1e-8f));
        p[i] -= __builtin_fmaf(1e-5f, p[i], d);
        m[i] = first;
        v[i] = second;
    }
}
static void step_int8(float *p, const float *g, unsigned char *mc, float *ms, unsigned char *vc,
                      float *vs, int n)
{
    float m[256], v[256];
    for (int i = 0; i < n; i += 256) {
        decode_int8(mc + i, ms[i / 256], m, 256);
        decode_uint8(vc + i, vs[i / 256], v, 256);
        step(p + i, g + i, m, v, 256);
        ms[i / 256] = encode_int8(m, mc + i, 256);
        vs[i / 256] = encode_uint8(v, vc + i, 256);
    }
}
MEASURED(adamw_float32, step(p, g, m, v, n))
MEASURED(adamw_int8, step_int8(p, g, mc, ms, vc, vs, n))
"""


def source() -> str:
    """The C of all that is measured."""
    parts = [render("cpu/numbers.c.j2", functions=[]), codec_functions(CODECS), TIMER]
    parts += [CODEC.format(C_NAMES[each], each.block, each.per_byte) for each in CODECS]
    parts += [_by_table(each) for each in (INT8, UINT8)]
    return "".join([*parts, STEP])


def _by_table(form: Codec) -> str:
    entries, middles = tables(form)
    texts = [", ".join(f"{float(x).hex()}f" for x in row) for row in (entries, [*middles, 2])]
    return TABLE.format(C_NAMES[form], *texts)


def measure(trials: int) -> dict[str, float]:
    """Nanoseconds an element, by what was done."""
    library = load(source())
    generator = torch.Generator().manual_seed(0)
    p, g, m = (torch.randn(NUMBERS, generator=generator) for _ in range(3))
    names = [f"{way}_{C_NAMES[each]}" for each in CODECS for way in ("decode", "encode")]
    for form in (INT8, UINT8):
        names += [f"decode_{C_NAMES[form]}_by_table", f"encode_{C_NAMES[form]}_by_search"]
    found = {}
    for name in [*names, "adamw_float32", "adamw_int8"]:
        first = m.abs() if "uint" in name else m
        moments = *INT8.encode(m), *UINT8.encode(g**2)
        # Room for scales of the smaller blocks, too.
        buffers = [p.clone(), g, first.clone(), g.square(), *(each.repeat(2) for each in moments)]
        function = getattr(library, f"time_{name}")
        function.restype = ctypes.c_double
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in buffers]
        found[name] = round(function(*pointers, NUMBERS, trials), 3)
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
    options.out.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    for name, figure in found["figures"].items():
        print(f"{name:<26} {figure:7.3f} ns")


if __name__ == "__main__":
    main()
