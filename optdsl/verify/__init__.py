"""`verify`: generated programs against the float64 interpreter.

Input: rules, with their plans and classes. Output: an `Outcome` for each rule, target, dtype and
setting of hyperparameters.

What is claimed where all pass: on these tensors, in each of six steps, every element of every
parameter and state that a target left is as close to the rule's exact value, computed from what
the target held before the step, as the roundings of its operations allow, each of them as large
as the op table says at most, and then rounded once where it is stored. The bounds are worst cases
for elementwise operations and sums; for products of matrices they are estimates (see `bounds`).
Where a comparison may fall either way within these roundings, both outcomes are allowed; bounds
that say little for that are counted, and are a failure where they are many. Nothing is claimed of
the drift over many steps, which is the rule's own, nor of numbers that a parameter without
elements keeps, nor of speed.

Tensors have 0 to 4 dimensions and 0 to 65,537 elements, sizes around the vector widths among
them, but for those whose states would take more than a gigabyte. Options that defaults leave off
are tried as well (see `settings`).

Inputs are random, with three entries along axes of their own. The model that a rule evaluates is a
smooth function of the parameters; where a target evaluated it is held to where it should have, and
the rest of the step to what came of that.

Relies on: trial, memory. Does not do: inputs that are one for a group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from optdsl.memory import count_memory
from optdsl.verify.judge import Outcome
from optdsl.verify.settings import Setting, settings
from optdsl.verify.trial import Subject, Trial

__all__ = ["DTYPES", "SHAPES", "TARGETS", "Outcome", "Subject", "trials"]

TARGETS = ("cpu", "triton", "reference")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LARGE = (65_537,)
ROOM = 2**30
"""The most bytes that a tensor's states may take in float64: 65,537 squared would be 34 GB."""
CODED = ((4095,), (4097,), (65, 80))
"""Besides, where states are stored in codes: those of 4,096 elements and more."""
SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (1,), (15,), (16,), (17,), (1000,), LARGE),
    *((3, 5), (64, 48), (48, 64), (8, 3, 3, 3)),
)


def trials(
    subject: Subject,
    targets: Sequence[str] = TARGETS,
    dtypes: Sequence[torch.dtype] = DTYPES,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    seed: int = 0,
) -> Iterator[Trial]:
    """All that there is to try, each to be `run`. Triton runs on a GPU if there is one, else in
    its interpreter, where the large tensor takes a minute."""
    for setting in settings(subject.rule):
        fitting = tuple(each for each in shapes if _fits(subject, setting, each))
        for target in targets:
            device = "cuda" if target == "triton" and torch.cuda.is_available() else "cpu"
            for dtype in dtypes:
                yield Trial(subject, target, dtype, setting, fitting, device, seed)


def _fits(subject: Subject, setting: Setting, shape: tuple[int, ...]) -> bool:
    needed = count_memory(subject.rule, {"p": shape}, "float64", hypers=setting.hypers)
    return needed.state_bytes <= ROOM


def interpret_triton() -> None:
    """Let Triton run on the host where there is no GPU; it decides when it is imported."""
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
