"""What rules ask for besides gradients, and who answers in the pictures.

Input: the inputs that a rule declares, and something that answers: a point of a function
(paths.py), a model at a batch (batches.py). Output: `step(inputs=...)`. Relies on: nothing. Does
not do: work out an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optdsl.runtime.program import Input

SIZES = ("rows", "cols", "numel", 1)
LIKE_P = (("rows", "cols"), ("numel", 1))
NAMED = {
    "hessian": "diagonal",
    "sampled": "sampled",
    "inner": "inner",
    "outer": "outer",
    "scale": "scale",
}
"""Inputs whose shape says nothing of what they are."""


def question(each: Input) -> str:
    """What an input asks, the name of a method of what answers; "" where nothing does. Each method
    gives a list with one tensor for each parameter, `losses` one tensor.

    - gradients, losses: of each sample, [samples, *p] and [samples]
    - given: what the layer of p is given, [samples, 1, cols]
    - hessian: the block of the Hessian that belongs to p, [numel, numel]
    - diagonal: an estimate of the Hessian's diagonal, *p
    - sampled: the gradient where the model draws the labels, *p
    - inner, outer: mean squares of what p's layer is given, and of the gradients of what it gives,
      each scaled to [0, 1]; [1, cols] and [rows, 1]
    - scale: what a row of quantised numbers is to be multiplied by, [rows, 1]
    """
    first, *rest = each.shape
    if first in SIZES:
        whole = each.shape == ("numel", "numel")
        return "hessian" if whole else NAMED.get(each.name, "")
    if tuple(rest) in LIKE_P:
        return "gradients"
    if rest == [1, 1] and each.over == "all":
        return "losses"
    return "given" if rest == [1, "cols"] else ""


def answered(inputs: Sequence[Input], who: Any) -> dict[str, Any]:
    """What `step` takes, from the methods that `question` names."""
    return {each.name: getattr(who, question(each))() for each in inputs}
