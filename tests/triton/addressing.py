"""Whether a kernel reaches elements beyond 2^31, told from its TTIR.

Input: the text of a module in Triton's own dialect. Output: what is in the way. Elements are
addressed in two steps: from the tensor's first one by 64 bits to where a task begins, then by 32
bits, which a task's own extents (`n`, `cols`) and no others may enter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

DEFINED = re.compile(r"\s*%(\w+) = ([\w.]+) (.*)$")
ACCESS = re.compile(r"tt\.(?:load|store) %(\w+)\b.*: tensor<[\dx]+!tt\.ptr<\w+>>$")
TOUCHING = re.compile(r"\btt\.(?:load|store)\b.*: tensor<[^>]*!tt")
"""Whatever reads or writes elements; a kernel that counts them alone has none."""
WITHIN = re.compile(r"(n|cols)(_\d+)?$")
"""Names of the extents of a task: the tables keep them below 2^31."""
PASSING = ("tt.splat", "tt.broadcast", "tt.expand_dims", "tt.bitcast")


Values = dict[str, tuple[str, str]]
"""By name: the operation, and the rest of its line."""


def narrow(ttir: str) -> list[str]:
    """The lines that compute an address, or a part of it, in 32 bits where 64 are needed."""
    lines = [re.sub(r" loc\(.*?\)$", "", line) for line in ttir.splitlines()]
    return list(dict.fromkeys(_faults(lines)))


def _faults(lines: list[str]) -> Iterator[str]:
    values: Values = {}  # regions beside each other have the same names
    accesses = 0
    for line in lines:
        if found := DEFINED.match(line):
            name, op, rest = found.groups()
            values[name] = op, rest
            if op == "tt.addptr":
                yield from _offset(re.findall(r"%(\w+)", rest)[1], values)
        if access := ACCESS.search(line):
            accesses += 1
            base, offsets = _address(access[1], values)
            single = base == "results" and len(offsets) == 1  # one number for all, and its lanes
            if not single and not any(each.endswith(("i64", "i64>")) for each in offsets):
                yield line.strip()
    there = [each for each in lines if TOUCHING.search(each)]
    assert accesses == len(there), "\n".join(e for e in there if not ACCESS.search(e))


def _offset(name: str, values: Values) -> Iterator[str]:
    """What is wrong with all that an offset is computed of, back to what was loaded."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop()
        op, rest = values.get(name, ("", ""))
        if name in seen or not op.startswith(("arith.", *PASSING)):
            continue
        seen.add(name)
        operands = re.findall(r"%(\w+)", rest)
        waiting += operands
        constant = any(values.get(each, ("",))[0] == "arith.constant" for each in operands)
        narrows = op == "arith.trunci" and rest.endswith(("to i32", "xi32>"))
        multiplies = op == "arith.muli" and rest.endswith(("i32", "xi32>"))
        if (narrows and not WITHIN.match(name)) or (multiplies and not constant):
            yield f"%{name} = {op} {rest}"


def _address(pointer: str, values: Values) -> tuple[str, list[str]]:
    """A tensor's first address, and the types of all that is added to it but constants."""
    offsets: list[str] = []
    while pointer in values:
        op, rest = values[pointer]
        if op == "tt.addptr":
            added = re.findall(r"%(\w+)", rest)[1]
            if values.get(added, ("",))[0] != "arith.constant":
                offsets.append(rest.rsplit(", ", 1)[1])
        elif op not in PASSING:
            break
        pointer = re.findall(r"%(\w+)", rest)[0]
    return pointer, offsets
