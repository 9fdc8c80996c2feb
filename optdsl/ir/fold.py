"""Host arithmetic: values of constants, and host values as text.

Input: ops and Python numbers, or host values. Output: Python numbers, text in the rule language.
Relies on: the `host` column of the op table. Does not do: device values.
"""

from __future__ import annotations

import math
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

LARGEST_BITS = 1023
"""Every integer of so many bits is within the range of a double."""

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

    def bounded(*args: Any) -> Any:
        """Integers stay below what a double holds: `x = x * x` in a row would not end otherwise."""
        result = function(*args)
        if isinstance(result, int) and result.bit_length() > LARGEST_BITS:
            return math.inf if result > 0 else -math.inf
        return result

    return bounded


def is_const(value: Value) -> bool:
    return value.op == "const"


def host_text(value: Value) -> str:
    """A host value as the rule language writes it, with the parentheses that it needs."""
    return _text(value, 0)


_STRENGTH = {
    **dict.fromkeys(("or",), 1),
    **dict.fromkeys(("and",), 2),
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), 4),
    **dict.fromkeys(("+", "-"), 5),
    **dict.fromkeys(("*", "/", "//", "%", "@"), 6),
    "^": 8,
}
_NOT, _COMPARE, _MINUS = 3, 4, 7


def _text(value: Value, least: int) -> str:
    """The text, in parentheses where it holds together less than `least` asks for."""
    text, strength = _operation(value)
    return f"({text})" if strength < least else text


def _operation(value: Value) -> tuple[str, int]:
    if value.op in _INFIX:
        sign = _INFIX[value.op]
        strength = _STRENGTH[sign]
        # `^` groups to the right, comparisons do not group, all else to the left.
        left = strength + (sign == "^" or strength == _COMPARE)
        right = _MINUS if sign == "^" else strength + 1  # a^-b needs none
        space = "" if sign == "^" else " "
        parts = [_text(value.args[0], left), sign, _text(value.args[1], right)]
        return space.join(parts), strength
    if value.op == "neg":
        return f"-{_text(value.args[0], _MINUS + 1)}", _MINUS
    if value.op == "not":
        return f"not {_text(value.args[0], _NOT)}", _NOT
    if value.op == "name_matches":
        return f'name matches "{value.attr("pattern")}"', _COMPARE
    return _atom(value), 9


def _atom(value: Value) -> str:
    if value.op == "const":
        return _literal(value.attr("value"))
    if value.op in ("size", "attribute", "state", "host_state", "input", "lead_size"):
        return str(value.attr("name"))
    if value.op == "hyper":
        return str(value.attr("name")) + "".join(f"[{each}]" for each in value.attr("index"))
    if value.op == "first":
        return f"first({value.attr('name')})"
    name = "where" if value.op == "choose" else value.op
    return f"{name}({', '.join(_text(arg, 0) for arg in value.args)})" if value.args else name


def _literal(constant: Any) -> str:
    if isinstance(constant, bool):
        return "true" if constant else "false"
    return f'"{constant}"' if isinstance(constant, str) else repr(constant)
