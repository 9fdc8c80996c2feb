"""Python literals in lines that fit: numbers, strings, calls and tuples of them.

Input: values. Output: text, laid out as a formatter would. Does not do: statements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LINE_LENGTH = 100


@dataclass(frozen=True)
class Call:
    """`name(items)`; with the name "" a tuple. An item is a text or another call, with a keyword
    or None."""

    name: str
    items: Sequence[tuple[str | None, str | Call]]


def call(function: str, /, **items: str | Call) -> Call:
    """A call with keywords only."""
    return Call(function, list(items.items()))


def tuple_of(items: Sequence[str | Call]) -> Call:
    return Call("", [(None, each) for each in items])


def layout(node: str | Call, before: int, indent: str = "") -> str:
    """The text of `node`, where its first line has `before` columns already: in one line if that
    fits, with its comma, else one item a line."""
    flat = _flat(node)
    if isinstance(node, str) or before + len(flat) < LINE_LENGTH:
        return flat
    inner = f"{indent}    "
    lines = [f"{node.name}("]
    for key, item in node.items:
        start = f"{inner}{key}=" if key else inner
        lines.append(f"{start}{layout(item, len(start), inner)},")
    return "\n".join([*lines, f"{indent})"])


def _flat(node: str | Call) -> str:
    if isinstance(node, str):
        return node
    items = [f"{key}={_flat(item)}" if key else _flat(item) for key, item in node.items]
    comma = "," if not node.name and len(items) == 1 else ""
    return f"{node.name}({', '.join(items)}{comma})"


def literal(value: object) -> str:
    """A Python literal: numbers (`inf` and `nan` by those names), strings in double quotes, tuples
    of such, None, True and False."""
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if value != value else "inf" if value > 0 else "-inf"
    text = repr(value)
    if isinstance(value, str) and text.startswith("'") and '"' not in text:
        return f'"{text[1:-1]}"'
    return text


def raw(text: str) -> str:
    """`text` as a raw string over several lines, so that a reader finds it as it is."""
    for quotes in ('"""', "'''"):
        if quotes not in text and not text.endswith((quotes[0], "\\")):
            return f"r{quotes}{text}{quotes}"
    return repr(text)
