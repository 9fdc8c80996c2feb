"""What a kernel moves of buffers, counted on what the compiler makes of its text (TTIR).

Input: TTIR, a tile's elements. Output: bytes an element that are loaded and stored, by the column
of the table of pointers in which the address stands. A buffer that several phases read is counted
once, as it is there once; of several accesses, a whole block's and a tail's, the largest counts.
"""

from __future__ import annotations

import math
import re

BITS = {"f64": 64, "i64": 64, "f32": 32, "i32": 32, "f16": 16, "bf16": 16, "i16": 16, "i8": 8}
THROUGH = ("tt.addptr", "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.reshape")
_DEFINED = re.compile(r"\s*(%\w+)(?::\d+)? = ([\w.]+) ?(.*)")
_ACCESS = re.compile(r"(?:tt\.(load)|tt\.(store)) (%\w+).* : tensor<([\dx]+)x!tt\.ptr<(\w+)>>")


def moved(text: str, elements: int) -> dict[str, float]:
    """Bytes an element, by "load 3", "store 3" for column 3."""
    defined: dict[str, tuple[str, str]] = {}  # a number without a name may be given anew
    found: dict[str, float] = {}
    for line in text.splitlines():
        if definition := _DEFINED.match(line):
            name, op, rest = definition.groups()
            defined[name] = op, rest
        if access := _ACCESS.search(line):
            load, store, pointer, shape, kind = access.groups()
            column = _column(defined, pointer)
            if column is not None:
                numbers = math.prod(map(int, shape.split("x")))
                key = f"{load or store} {column}"
                found[key] = max(found.get(key, 0.0), numbers * BITS[kind] / 8 / elements)
    return found


def _column(defined: dict[str, tuple[str, str]], name: str) -> int | None:
    """The column of the address that a pointer starts from; None for what is in no such table."""
    while name in defined and defined[name][0] in THROUGH:
        name = _operands(defined[name][1])[0]
    op, rest = defined.get(name, ("", ""))
    if op != "tt.int_to_ptr":
        return None
    op, rest = defined[_operands(rest)[0]]
    assert op == "tt.load", op
    op, rest = defined[_operands(rest)[0]]
    assert op == "tt.addptr", op
    op, rest = defined[_operands(rest)[1]]
    return int(rest.split()[0]) if op == "arith.constant" else 0


def _operands(rest: str) -> list[str]:
    return re.findall(r"%\w+", rest)
