"""The table of diagnostic codes: one entry per code, for messages, `explain` and the docs.

E1xx syntax, E2xx names, E3xx types and shapes, E4xx state, storage and rules, E5xx limits of a
target, W6xx numerics. Input: the sections beside this file. Output: `CODES`, `explain`.
Does not do: say where an error is (`diagnostics`), detect one.
"""

from __future__ import annotations

from optdsl.codes import names, numerics, rules, syntax, targets, types
from optdsl.codes.entry import Code

__all__ = ["CODES", "Code", "explain"]

SECTIONS = (syntax, names, types, rules, targets, numerics)

CODES: dict[str, Code] = {entry.code: entry for section in SECTIONS for entry in section.CODES}


def explain(code: str) -> str:
    """The entry of `code` as Markdown that also reads well as plain text.

    Raises KeyError if the table has no such code.
    """
    entry = CODES[code]
    parts = [f"# {entry.code} {entry.name}", f"{entry.title}.", entry.text.strip()]
    for label, example in (("Wrong", entry.wrong), ("Right", entry.right)):
        lines = "\n".join(f"    {line}".rstrip() for line in example.splitlines())
        parts.append(f"{label}:\n\n{lines}")
    return "\n\n".join(parts) + "\n"
