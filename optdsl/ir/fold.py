"""Host arithmetic: values of constants, and host values as text.

Input: ops and Python numbers, or host values. Output: Python numbers, text in the rule language.
Relies on: the `host` column of the op table. Does not do: device values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from optdsl import hostmath
from optdsl.ir.nodes import Value
from optdsl.ops import OPS

HOST_NAMES: dict[str, Any] = {
    **{name: getattr(hostmath, name) for name in dir(hostmath) if not name.startswith("_")},
    "abs": abs,
}

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "floordiv": "//",
    "mod": "%",
    "pow": "^",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
    "and": "and",
    "or": "or",
    "matmul": "@",
}


@cache
def host_function(op: str) -> Callable[..., Any]:
    """The meaning of `op` on Python numbers, from the op table."""
    names = [f"x{i}" for i in range(OPS[op].arity)]
    text = re.sub(r"\{(\d)\}", r"x\1", OPS[op].host)
    # The text is the compiler's own table, never a rule's.
    function: Callable[..., Any] = eval(f"lambda {', '.join(names)}: {text}", dict(HOST_NAMES))
    return function


def is_const(value: Value) -> bool:
    return value.op == "const"


def host_text(value: Value) -> str:
    """A host value as the rule language writes it, fully parenthesised below the top."""
    text = _text(value)
    if text.startswith("(") and text.endswith(")") and value.op in _INFIX:
        return text[1:-1]
    return text


def _text(value: Value) -> str:
    if value.op == "const":
        constant = value.attr("value")
        return (
            {True: "true", False: "false"}[constant]
            if isinstance(constant, bool)
            else (f'"{constant}"' if isinstance(constant, str) else repr(constant))
        )
    if value.op in ("size", "attribute", "state", "input", "lead_size"):
        return str(value.attr("name"))
    if value.op == "hyper":
        index = value.attr("index")
        return str(value.attr("name")) + "".join(f"[{each}]" for each in index)
    if value.op == "name_matches":
        return f'name matches "{value.attr("pattern")}"'
    args = [_text(arg) for arg in value.args]
    if value.op in _INFIX:
        return f"({args[0]} {_INFIX[value.op]} {args[1]})"
    if value.op == "neg":
        return f"(-{args[0]})"
    if value.op == "not":
        return f"(not {args[0]})"
    if value.op == "choose":
        return f"where({', '.join(args)})"
    if value.op == "first":
        return f"first({value.attr('name')})"
    return f"{value.op}({', '.join(args)})" if args else value.op
