"""Python literals in lines that fit: numbers, strings, calls and tuples of them.

Input: values. Output: text, laid out as a formatter would. Does not do: statements.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LINE_LENGTH = 100


@dataclass(frozen=True)
class Call:
    """`name(items)`; with the name "" a tuple. An item is a text or another call, with what stands
    before it (`keyword=`, `key: `) or ""."""

    name: str
    items: Sequence[tuple[str, str | Call]]
    brackets: str = "()"


def call(function: str, /, **items: str | Call) -> Call:
    """A call with keywords only."""
    return Call(function, [(f"{key}=", item) for key, item in items.items()])


def tuple_of(items: Sequence[str | Call]) -> Call:
    return Call("", [("", each) for each in items])


def dict_of(items: Iterable[tuple[str, str]]) -> Call:
    return Call("", [(f"{key}: ", item) for key, item in items], "{}")


def data(value: object) -> str | Call:
    """A literal whose tuples may be laid out over several lines."""
    return tuple_of([data(each) for each in value]) if isinstance(value, tuple) else literal(value)


def layout(node: str | Call, before: int, indent: str = "") -> str:
    """The text of `node`, where its first line has `before` columns already: in one line if that
    fits, with its comma, else one item a line; a long string as several."""
    flat = _flat(node)
    if before + len(flat) < LINE_LENGTH:
        return flat
    if isinstance(node, str):
        return _broken(node, LINE_LENGTH - before - 3, indent) if node.startswith('"') else node
    inner = f"{indent}    "
    lines = [f"{node.name}{node.brackets[0]}"]
    for key, item in node.items:
        lines.append(f"{inner}{key}{layout(item, len(inner) + len(key), inner)},")
    return "\n".join([*lines, f"{indent}{node.brackets[1]}"])


def _broken(string: str, width: int, indent: str) -> str:
    """A literal string as several of at most `width` characters, which Python joins."""
    parts = textwrap.wrap(
        string[1:-1], width, drop_whitespace=False, break_long_words=False, break_on_hyphens=False
    )
    return f"\n{indent}".join(f'"{part}"' for part in parts)


def _flat(node: str | Call) -> str:
    if isinstance(node, str):
        return node
    items = [f"{key}{_flat(item)}" for key, item in node.items]
    comma = "," if not node.name and len(items) == 1 and node.brackets == "()" else ""
    return f"{node.name}{node.brackets[0]}{', '.join(items)}{comma}{node.brackets[1]}"


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
