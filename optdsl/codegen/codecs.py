"""The block codecs of runtime/storage/codecs.py as C: arithmetic on codes instead of tables.

Input: the codecs. Output: the text of runtime/storage/codecs.c, which goes behind lanes.c and
storage.c. For a codec NAME of `C_NAMES`, on one block of numbers:

    void decode_NAME(const unsigned char *packed, float scale, float *x);
    float scale_NAME(const float *x);
    void encode_NAME(const float *x, float scale, unsigned char *packed);

They agree with the codec bit for bit.

A dynamic map is a straight line in each decade, and its numbers are small integers over powers of
5: entries and the boundaries between them are worked out exactly, in vectors, by look-ups in eight
numbers (vpermps). A table of 256 entries would need a load for each number, and the search for the
nearest one eight more. Where a processor rounds down on demand (AVX-512), the code of 16 numbers is
22 instructions instead of 28, which was foreseen to take 0.79 of the time and took 0.78. To divide
16 numbers by the scale takes about as long as those 22: as a product and what is left (lanes.c) it
was foreseen to leave 0.75 of the time, and left 0.82 to 0.87. Now 0.35 ns a number to signed codes
and 0.19 from them, on a shared core.

Relies on: templates/cpu/codecs. Does not do: say which states are stored so; Triton
(runtime/triton/codecs.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from optdsl.codegen.templates import render
from optdsl.runtime.storage.codecs import CODECS, FP8_LARGEST, LEAST_SCALE, Codec, tables

C_NAMES = {each: f"{'' if each.signed else 'u'}{each.name}" for each in CODECS}
"""What a codec is called in C: int8, uint8, int4, uint4, fp8."""
SLOPE = 0.305
"""Decades for a factor of 2, about: one that leaves whole numbers for a line's start, and decades
that begin, in steps of 1, between the cut below and the cut above."""


def runtime_source() -> str:
    """The text of runtime/storage/codecs.c: all codecs, in the order of CODECS."""
    head = "/* Made by optdsl/codegen/codecs.py; goes behind lanes.c. */"
    calls = [f"BLOCKS({C_NAMES[each]}, {each.block}, {each.per_byte})" for each in CODECS]
    texts = [_map(each) + _block(each) for each in CODECS]
    return "\n".join([head + "".join(texts), *calls, ""])


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
    common = {"name": C_NAMES[form], "block": form.block}
    if form.decades is None:
        return render("cpu/codecs/fp8.c.j2", **common)
    if not form.decades:
        return render("cpu/codecs/linear.c.j2", **common, entries=len(tables(form)[0]))
    numbers = DynamicMap.of(form)
    text = render(
        "cpu/codecs/dynamic.c.j2",
        **common,
        signed=form.signed,
        top=form.decades + 1,
        middle=_exact(2**23 + numbers.middle),
        to_place=f"{0.5 - numbers.middle}f",
        shift=f"{9 * numbers.middle + 4.5}f",
        tables={name: _wrapped(map(_exact, each)) for name, each in numbers.tables()},
        slope=_exact(SLOPE / 2**23),
        start=_added(form.decades - 39),
        tiny=_exact(2.0 ** -math.floor((form.decades + 0.235) / SLOPE)),
    )
    return text + render("cpu/codecs/vectors.c.j2", **common)


@dataclass(frozen=True)
class DynamicMap:
    """The numbers of a dynamic map's arithmetic.

    q counts the entries above 0: it is s..2s - 1 in the lowest of d decades, which has s bins (1,
    or 2 without a sign), 2s..4s - 1 in the next, and s 2^d for the entry 1: 2^floor(log2 q) is the
    number of bins in a decade. `middle` is the code of q = 0; the number 0 has q = s - 1.
    In a decade the entry is (18 v - 16 bins) / divisor with v = q + 1/2, the boundary below it
    (9 q - 8 bins) / step: the code of x is the integer below (x step + 8 bins + 9 middle) / 9. That
    of -x is the one below (9 middle + 9 - x step - 8 bins) / 9; half of the 9 in `shifts` makes
    the two alike but for a sign.

    The look-ups have eight places and take an index modulo 8: `bins` (-16 bins), `upper` and
    `lower` by the exponent of v as a float has it, `cuts` by the number of the decade, 0 below the
    lowest, the others by the next one, d + 1 at the entry 1. The numbers 0 and 1, which may share a
    place, are the ends of one line there: its c is 0 and the divisor; what counts as 1/2 has the
    greatest q, what is near 0 the least.
    """

    middle: int
    bins: list[float]
    upper: list[float]
    lower: list[float]
    cuts: list[float]
    tops: list[float]
    steps: list[float]
    shifts: list[float]

    @classmethod
    def of(cls, form: Codec) -> DynamicMap:
        """The numbers of a codec with a dynamic map."""
        d, s = form.decades or 0, 1 if form.signed else 2
        entries, middles = tables(form)
        zero, one = int(np.flatnonzero(entries == 0)[0]), s * 2**d
        made = cls(zero - s + 1, *([0.0] * 8 for _ in range(7)))
        made.cuts[: d + 1] = [float(middles[zero + s * 2**i - s]) for i in range(d + 1)]
        for i in range(d):
            bins, step = s * 2**i, s * 10**d // 5**i
            made._decode_at(bins, -16 * bins, 2 * step)
            top = float(entries[zero + 2 * bins - s])
            made._encode_at(i + 1, top, step, 8 * bins)
        shift = 9 * s - 5
        for v, at in ((s - 0.5, 0), (one + 0.5, d + 1)):
            made._decode_at(v, 9 - 18 * s, 18 * (one - s + 1))
            made._encode_at(at, 0.5, 2 * (9 * one - shift), shift)
        added = -4.5 if form.signed else 9 * made.middle
        made.shifts[:] = [each + added for each in made.shifts]
        return made

    def _decode_at(self, v: float, bins: int, divisor: int) -> None:
        at = (126 + math.frexp(v)[1]) % 8
        mantissa, exponent = math.frexp(1 / divisor)
        upper = Fraction(round(mantissa * 4096), 4096) * Fraction(2) ** exponent
        self.bins[at], self.upper[at] = bins, float(upper)
        self.lower[at] = float(Fraction(1, divisor) - upper)

    def _encode_at(self, at: int, top: float, step: int, shift: int) -> None:
        self.tops[at % 8], self.steps[at % 8], self.shifts[at % 8] = top, step, shift

    def tables(self) -> Iterator[tuple[str, list[float]]]:
        """The look-ups by their names."""
        for name in ("bins", "upper", "lower", "cuts", "tops", "steps", "shifts"):
            yield name, getattr(self, name)


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
