"""Kernels that work in strips on parameters that are kept in 16 bits beside something else.

Input: kernels, and with which codec each buffer of theirs is kept. Output: C to go behind that of
the kernels, a function for each. All strips have one length, so that the compiler makes one loop of
loading, the kernel and saving, mostly in registers, and one strip's divisions are under way while
the one before is rounded: AdamW with bfloat16 parameters that round at random took 0.8 of the time
for which it was called for 256 elements at a time.

Relies on: storage/halves.c. Does not do: codes (the driver loads and saves them in chunks), tasks
of rows or with sums, which see whole tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optdsl.runtime.native import runtime_text
from optdsl.runtime.program import Kernel, Variant
from optdsl.runtime.storage.stored import BlockCodec, Codec

STRIP = 64
"""Elements: of 32 the compiler makes no loop, of 128 and more it takes 1.1 to 1.2 of the time."""
SUFFIX = "_in_strips"

_ARGUMENTS = """\
const i64 *task, void *const *kept, const i64 *shape,
    const double *scalars, double *partials, const double *results"""
_FUNCTION = """
/* {kernel}, which finds {names} as float32. */
static inline void {kernel}_strip({arguments},
    i64 lo, i64 n)
{{
    const i64 part[] = {{task[0], lo, lo + n, task[3]}};
    void *pointers[] = {{{pointers}}};
{lines}
}}
__attribute__((flatten)) void {kernel}{suffix}({arguments})
{{
    i64 lo = task[1];
    for (; lo + {strip} <= task[2]; lo += {strip})
        {kernel}_strip(task, kept, shape, scalars, partials, results, lo, {strip});
    if (lo < task[2])
        {kernel}_strip(task, kept, shape, scalars, partials, results, lo, task[2] - lo);
}}
"""


def in_strips(kernel: Kernel, by_task: Mapping[str, Codec]) -> dict[str, Codec]:
    """What of `by_task`, the codecs of buffers by their names, `kernel` handles by the strip."""
    if kernel.layout == "rows" or kernel.reductions:
        return {}
    touched = {*kernel.reads, *kernel.writes}
    return {
        name: codec
        for name, codec in by_task.items()
        if name in touched and not isinstance(codec, BlockCodec)
    }


def strips_source(variant: Variant, by_task: Mapping[str, Codec]) -> str:
    """The functions of a variant's kernels, named as they are and SUFFIX; nothing where there are
    none."""
    found = [(each, in_strips(each, by_task)) for each in variant.kernels]
    functions = [_function(variant, kernel, held) for kernel, held in found if held]
    names = sorted({codec.name for _, held in found for codec in held.values()})
    return halves_source(names) + "".join(functions) if functions else ""


def halves_source(names: Iterable[str]) -> str:
    """The functions that load and save what codecs with these names keep."""
    parts = (each.partition("_") for each in names)
    made = [f"{way.upper()}({half})\n" for way, _, half in parts]
    return "".join([*map(runtime_text, ("storage/storage.c", "storage/halves.c")), *made])


def _function(variant: Variant, kernel: Kernel, held: Mapping[str, Codec]) -> str:
    before, behind = [], []
    for name, codec in held.items():
        column = variant.buffers.index(name)
        strip = f"strip_{column}"
        beside = len(variant.buffers) + variant.stored.index(name)
        place = f"kept[{column}], kept[{beside}], lo, n"
        before.append(f"float {strip}[{STRIP}] __attribute__((aligned(64)));")
        before.append(f"pointers[{column}] = {strip} - lo;")
        if name in kernel.reads:
            before.append(f"load_{codec.name}({strip}, {place});")
        if name in kernel.writes:
            behind.append(f"save_{codec.name}({strip}, {place});")
    # The last column is what a kernel draws from.
    columns = len(variant.buffers) + (len(variant.stored) + 1 if kernel.draws else 0)
    call = f"{kernel.name}(part, pointers, shape, scalars, partials, results);"
    return _FUNCTION.format(
        kernel=kernel.name,
        names=", ".join(held),
        arguments=_ARGUMENTS,
        suffix=SUFFIX,
        strip=STRIP,
        pointers=", ".join(f"kept[{column}]" for column in range(columns)),
        lines="\n".join(f"    {line}" for line in [*before, call, *behind]),
    )
