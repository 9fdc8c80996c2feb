"""The block codecs of runtime/codecs.py as C: arithmetic on codes instead of tables.

Input: which codecs a text uses. Output: their functions, for a text that has `real`, `bits` and
`number` (templates/cpu/numbers.c.j2). For a codec NAME of `C_NAMES`, on one block of n numbers:

    void decode_NAME(const unsigned char *packed, float scale, real *x, int n);
    float encode_NAME(const real *x, unsigned char *packed, int n);  // returns the scale

Both agree with the codec bit for bit; n is at most its block, and `packed` has n numbers' bytes.

A dynamic map is a straight line in each decade, and its numbers are small integers over powers of
5: entries and the boundaries between them are worked out exactly, in eight lanes, by three look-ups
in eight numbers each (AVX2's vpermps). A table of 256 entries would need a load for each number,
and the search for the nearest one eight more.

Relies on: templates/cpu/codecs. Does not do: say which states are stored so; Triton
(runtime/triton_codecs.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from optdsl.codegen.templates import render
from optdsl.runtime.codecs import CODECS, FP8_LARGEST, LEAST_SCALE, Codec, tables

C_NAMES = {each: f"{'' if each.signed else 'u'}{each.name}" for each in CODECS}
"""What a codec is called in C: int8, uint8, int4, uint4, fp8."""
DECADE = math.log10(2)


def codec_functions(used: Iterable[Codec]) -> str:
    """The C functions of the codecs `used`, in the order of CODECS; empty where there are none."""
    chosen = set(used)
    wanted = [each for each in CODECS if each in chosen]
    texts = [render("cpu/codecs/lanes.c.j2")] if wanted else []
    return "".join([*texts, *(_map(each) + _block(each) for each in wanted)])


def runtime_source() -> str:
    """The text of runtime/codecs.c: all codecs, as storage.c asks for them."""
    head = "/* Made by optdsl/codegen/codecs.py; goes with storage.c. */"
    calls = [f"BLOCKS({C_NAMES[each]}, {each.block}, {each.per_byte})" for each in CODECS]
    return "\n".join([head + codec_functions(CODECS), *calls, ""])


def _block(form: Codec) -> str:
    sign = "" if form.signed else ", numbers from 0 on"
    return render(
        "cpu/codecs/block.c.j2",
        title=f"{form.name}{sign}",
        name=C_NAMES[form],
        block=form.block,
        per_byte=form.per_byte,
        least=f"{LEAST_SCALE!r}f",
        most=_c(1 if form.decades is not None else FP8_LARGEST),
    )


def _map(form: Codec) -> str:
    name = C_NAMES[form]
    if form.decades is None:
        return render("cpu/codecs/fp8.c.j2", name=name)
    if not form.decades:
        return render("cpu/codecs/linear.c.j2", name=name, entries=len(tables(form)[0]))
    numbers = DynamicMap.of(form)
    return render(
        "cpu/codecs/dynamic.c.j2",
        name=name,
        zero=numbers.zero,
        to_count=_added(-numbers.middle),
        to_code=_added(numbers.middle),
        lowest=numbers.lowest,
        divisors=", ".join(map(_c, numbers.divisors)),
        cuts=_wrapped(map(_exact, numbers.cuts)),
        steps=", ".join(map(_c, numbers.steps)),
        tiny=hex(int(np.float32(2.0 ** -math.floor(form.decades / DECADE)).view(np.int32))),
        slope=_exact(DECADE / 2**23),
        start=_exact(form.decades + 0.3 - 127 * DECADE),
        start_exponent=numbers.start_exponent,
        size="size(x)" if form.signed else "x",
        sign="(ints)x >> 31" if form.signed else "EACH(ints, 0)",
    )


@dataclass(frozen=True)
class DynamicMap:
    """The numbers of a dynamic map's arithmetic.

    q counts the entries above 0: it is s..2s - 1 in the lowest of d decades, which has s bins (1,
    or 2 without a sign), 2s..4s - 1 in the next, and s 2^d for the entry 1: 2^floor(log2 q) is the
    number of bins in a decade. `middle` is the code of q = 0. In a decade the entry is
    (18 q - 16 bins + 9) / divisor, the boundary below it (9 q - 8 bins) / step. The look-ups have
    eight places and take an index modulo 8: `divisors` by the exponent of q, `steps` by the
    decade + 1. Where that is 0, below the lowest, or d + 1, at the entry 1, a step of a little
    more than s 2^d gives q = 0 (or less) and s 2^d.
    """

    zero: int
    middle: int
    lowest: int
    divisors: tuple[float, ...]
    cuts: tuple[float, ...]
    steps: tuple[float, ...]
    start_exponent: int

    @classmethod
    def of(cls, form: Codec) -> DynamicMap:
        """The numbers of a codec with a dynamic map."""
        d, s = form.decades or 0, 1 if form.signed else 2
        entries, middles = tables(form)
        zero = int(np.flatnonzero(entries == 0)[0])
        top = s * 2**d
        divisors, steps = [1.0] * 8, [float(top + 2)] * 8
        for i in range(d):
            divisors[(i + s - 1) % 8] = 2 * s * 10**d / 5**i
            steps[i + 1] = s * 10**d / 5**i
        divisors[(d + s - 1) % 8] = 2 * top + 9
        cuts = [float(middles[zero + s * 2**i - s]) for i in range(d + 1)]
        cuts += [2.0] * (8 - len(cuts))
        return cls(zero, zero - s + 1, s, tuple(divisors), tuple(cuts), tuple(steps), 128 + s)


def _wrapped(numbers: Iterable[str]) -> str:
    """Four to a line."""
    each = list(numbers)
    return ",\n    ".join(", ".join(each[i : i + 4]) for i in range(0, len(each), 4))


def _added(number: int) -> str:
    return f"- {-number}" if number < 0 else f"+ {number}"


def _c(number: float) -> str:
    """A whole number as a float of C."""
    return f"{number:.0f}.f"


def _exact(number: float) -> str:
    """A float of C, to the last bit."""
    mantissa, exponent = float(np.float32(number)).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"
