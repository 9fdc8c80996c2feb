"""The axes of a tensor that are told apart, and what their sizes are called.

Relies on: nothing. Used by the compiler, which must not import torch, and by generated code alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

AXES = 5
"""Axes of a tensor that are told apart: those of a convolution in three dimensions. What follows
counts to the fifth."""
AXIS_SIZES = tuple(f"axis{number}" for number in range(1, AXES))
"""What the sizes of the axes behind the first, which is that of the rows, are called."""


def axis_sizes(shape: Sequence[int]) -> dict[str, int]:
    """The sizes of the axes behind the first by name; 1 for one that is not there."""
    sizes = [*shape[1 : AXES - 1], math.prod(shape[AXES - 1 :])]
    return dict(zip(AXIS_SIZES, [*sizes, *[1] * AXES], strict=False))
