"""Kernels that work in strips on parameters that are kept in 16 bits beside something else.

Input: kernels, and with which codec each buffer of theirs is kept. Output: C to go behind that of
the kernels, a function for each. All strips have one length, so that the compiler makes one loop of
loading, the kernel and saving, mostly in registers, and one strip's divisions are under way while
the one before is rounded: AdamW with bfloat16 parameters that round at random took 0.8 of the time
for which it was called for 256 elements at a time.

Where all that a kernel touches is of 16 bits, its strips are in another order (storage/pairs.c), to
and from which there is half as much to do: AdamW with states in bfloat16 took 0.75 of the time.

Relies on: storage/halves.c, storage/pairs.c. Does not do: codes (the driver loads and saves them in
chunks), tasks of rows or with sums, which see whole tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from optdsl.runtime.native import runtime_text
from optdsl.runtime.program import Kernel, Variant
from optdsl.runtime.storage.stored import BlockCodec, Codec

STRIP = 64
"""Elements: of 32 the compiler makes no loop, of 128 and more it takes 1.1 to 1.2 of the time."""
SUFFIX = "_in_strips"
PAIRED = frozenset({"bf16", "stochastic_bf16"})
"""Codecs of pairs.c."""
PAIRED_FLAGS = ("-Dahead(at, bytes)=",)
"""How kernels of pairs are built: they ask for nothing ahead, since all they find is a strip."""

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


def in_pairs(kernel: Kernel, kept: Mapping[str, str]) -> dict[str, str]:
    """The codecs of what `kernel` touches where it can be handed all of it in the order of pairs.c,
    else nothing. `kept` names the codec of p, of its gradient and of each state of its size."""
    touched = dict.fromkeys((*kernel.reads, *kernel.writes))
    whole = kernel.layout == "rows" or kernel.reductions or kernel.domain != "full"
    if whole or kernel.draws or sys.byteorder != "little":
        return {}
    found = {name: kept.get(name, "") for name in touched}
    return found if PAIRED.issuperset(found.values()) else {}


def strips_source(variant: Variant, by_task: Mapping[str, Codec]) -> str:
    """The functions of a variant's kernels, named as they are and SUFFIX; nothing where there are
    none."""
    held = {each: in_strips(each, by_task) for each in variant.kernels}
    names = {each: {name: codec.name for name, codec in held[each].items()} for each in held}
    used = sorted({codec for each in names.values() for codec in each.values()})
    functions = [_function(variant, *each) for each in names.items() if each[1]]
    return halves_source(used) + "".join(functions) if functions else ""


def pairs_source(variant: Variant, kept: Mapping[str, str]) -> str:
    """The same for kernels `in_pairs`, which are built as for float32 and with PAIRED_FLAGS."""
    held = {each: in_pairs(each, kept) for each in variant.kernels}
    functions = [
        _function(variant, each, {name: f"pairs_{codec}" for name, codec in names.items()})
        for each, names in held.items()
        if names
    ]
    return "".join([halves_source([]), runtime_text("storage/pairs.c"), *functions])


def halves_source(names: Iterable[str]) -> str:
    """The functions that load and save what codecs with these names keep."""
    parts = (each.partition("_") for each in names)
    made = [f"{way.upper()}({half})\n" for way, _, half in parts]
    return "".join([*map(runtime_text, ("storage/storage.c", "storage/halves.c")), *made])


def _function(variant: Variant, kernel: Kernel, held: Mapping[str, str]) -> str:
    """The function of a kernel; `held` gives the codecs, as C names them, of its strips."""
    before, behind = [], []
    for name, codec in held.items():
        column = variant.buffers.index(name)
        strip = f"strip_{column}"
        beside = "0"  # nothing is, of a gradient
        if name in variant.stored:
            beside = f"kept[{len(variant.buffers) + variant.stored.index(name)}]"
        place = f"kept[{column}], {beside}, lo, n"
        before.append(f"float {strip}[{STRIP}] __attribute__((aligned(64)));")
        before.append(f"pointers[{column}] = {strip} - lo;")
        if name in kernel.reads:
            before.append(f"load_{codec}({strip}, {place});")
        if name in kernel.writes:
            behind.append(f"save_{codec}({strip}, {place});")
    # The last column is what a kernel draws from.
    columns = len(variant.buffers) + (len(variant.stored) + 1 if kernel.draws else 0)
    call = f"{kernel.name}(part, pointers, shape, scalars, partials, results);"
    behind.reverse()  # p is waited for longest: 1.03 times as fast
    return _FUNCTION.format(
        kernel=kernel.name,
        names=", ".join(held),
        arguments=_ARGUMENTS,
        suffix=SUFFIX,
        strip=STRIP,
        pointers=", ".join(f"kept[{column}]" for column in range(columns)),
        lines="\n".join(f"    {line}" for line in [*before, call, *behind]),
    )
