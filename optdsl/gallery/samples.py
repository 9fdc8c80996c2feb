"""What rules are given in the pictures besides gradients: those of samples, and their losses.

Input: the inputs that a rule declares. Output: `step(inputs=...)` of what each sample says. Relies
on: torch. Does not do: what only one kind of model has (a layer's inputs, a Hessian), or only
quantised training; rules that need that have no pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from optdsl.runtime.program import Input

SIZES = ("rows", "cols", "numel")


def _of_gradients(each: Input) -> bool:
    """[samples, *p], the axis by whatever name."""
    return each.shape[0] not in SIZES and each.shape[1:] in (("rows", "cols"), ("numel", 1))


def _of_losses(each: Input) -> bool:
    """[samples] over all."""
    return each.shape[0] not in SIZES and each.shape[1:] == (1, 1) and each.over == "all"


def is_of_samples(inputs: Sequence[Input]) -> bool:
    """Whether all are gradients or losses of samples."""
    return all(_of_gradients(each) or _of_losses(each) for each in inputs)


def supplied(inputs: Sequence[Input], grads: Sequence[Tensor], losses: Tensor) -> dict[str, Any]:
    """What `step` takes: for each parameter [samples, *its shape], and [samples]."""
    return {each.name: losses if _of_losses(each) else list(grads) for each in inputs}
