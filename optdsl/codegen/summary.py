"""A kernel pass in one sentence: when it runs, over what, and what it leaves.

Input: a pass and its variant. Output: text for the comment above it, in every target.
Does not do: the comment's marks and lines.
"""

from __future__ import annotations

from optdsl.codegen.body import is_atom
from optdsl.ir.fold import host_text
from optdsl.schedule.plan import Domain, KernelPass, Variant

_OVER = {
    Domain.FULL: "every element",
    Domain.ROW: "one number per row",
    Domain.COL: "one number per column",
    Domain.MATRIX: "one number per matrix",
    Domain.TENSOR: "one number per parameter",
    Domain.GROUP: "one number per group",
    Domain.ALL: "one number for all",
}


def summary(variant: Variant, kernel: KernelPass) -> str:
    over = "every row" if kernel.layout == "rows" else _OVER[kernel.domain]
    left = [
        *(each.buffer for each in kernel.stores),
        *(each.slot for each in kernel.reductions),
    ]
    said = f"Stage {kernel.stage}, {over}: {', '.join(left)}."
    if not variant.path:
        return said
    sides = []
    for condition, side in variant.path:
        text = host_text(condition)
        sides.append(text if side else f"not {text if is_atom(text) else f'({text})'}")
    return f"Variant {variant.index}: {', '.join(sides)}. {said}"
