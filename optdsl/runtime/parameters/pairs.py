"""Complex tensors as pairs of reals: how a step sees them, and how torch keeps them.

Input: a tensor. Output: of a complex one the reals over the same memory, with a last dimension
twice as long (a number is a vector of two), and back. Does not do: what a rule makes of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COMPLEX = {torch.complex64: torch.float32, torch.complex128: torch.float64}
"""Dtypes of complex parameters, and of their parts."""


def fits(tensor: Tensor) -> bool:
    """Whether the parts of a complex tensor are the reals of its memory, in their order."""
    dense = not tensor.ndim or tensor.shape[-1] <= 1 or tensor.stride(-1) == 1
    return dense and not tensor.is_conj() and not tensor.is_neg()


def as_real(tensor: Tensor) -> Tensor:
    """The parts of a complex tensor that `fits`; a real one is itself."""
    if not tensor.is_complex():
        return tensor
    pairs = torch.view_as_real(tensor.detach())
    return pairs.view(*tensor.shape[:-1], 2 * tensor.shape[-1]) if tensor.ndim else pairs


def as_complex(parts: Tensor, shape: Sequence[int]) -> Tensor:
    """The complex tensor of `shape` that has these parts."""
    return torch.view_as_complex(parts.view(*shape, 2))
