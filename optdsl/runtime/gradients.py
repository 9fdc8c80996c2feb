"""The scan of the gradients: which parameters have one, and where it lies.

Input: the parameters. Output: gradients as kernels may read them (contiguous, of the parameter's
dtype and device) with their addresses.

The usual case, where all are there and fit, costs about 0.4 us a parameter and holds no reference
to a gradient between steps, which would double the memory of gradients under `zero_grad()`.

Relies on: torch. Does not do: anything with values.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optdsl.hostmath import div
from optdsl.runtime.tables import Ints

GRADIENT = operator.attrgetter("grad")
DTYPE = operator.attrgetter("dtype")


@dataclass(eq=False, slots=True)
class Gradients:
    """By `Member.index`: gradients (None where there is none), their addresses (0), and whether
    the parameter takes part in the step."""

    tensors: Sequence[Tensor | None]
    addresses: Ints
    active: list[bool]


def no_gradients(count: int) -> Gradients:
    """What there is for `count` parameters where nothing reads a gradient."""
    return Gradients([None] * count, np.zeros(count, np.int64), [False] * count)


class Scanner:
    """Scans the gradients of `params`, which stay the same as long as the scanner lives. The first
    scan looks at each gradient closely; what later ones take for granted is said there."""

    def __init__(self, params: Sequence[Tensor], reads_gradient: bool) -> None:
        self._params = params
        self._reads = reads_gradient
        self._everyone = [True] * len(params)
        self._dtypes = list(map(DTYPE, params))
        self._filled = sum(p.numel() > 0 for p in params)
        self._plain = False
        self._last = b""

    def scan(self) -> Gradients:
        """The gradients of this step.

        Raises RuntimeError for a sparse gradient, one of another dtype or on another device.
        """
        if not self._reads:
            active = [p.requires_grad for p in self._params]
            return Gradients([None] * len(active), np.zeros(len(active), np.int64), active)
        tensors = list(map(GRADIENT, self._params))
        addresses = self._fast(tensors) if self._plain else None
        if addresses is None:
            return self._slow(tensors)
        return Gradients(tensors, addresses, self._everyone)

    def _fast(self, tensors: list[Tensor]) -> Ints | None:
        """Addresses where every gradient is there and can be read as it lies, else None."""
        try:
            # TypeError: no gradient. RuntimeError: no storage, as sparse ones have none.
            addresses = np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))
            if not all(map(Tensor.is_contiguous, tensors)):
                return None
        except (TypeError, RuntimeError):
            return None
        # A tensor at the same place as in the last step has its dtype still.
        if (places := addresses.tobytes()) != self._last:
            if list(map(DTYPE, tensors)) != self._dtypes:
                return None
            if np.count_nonzero(addresses) != self._filled:
                return None
            self._last = places
        return addresses

    def _slow(self, found: Sequence[Tensor | None]) -> Gradients:
        tensors: list[Tensor | None] = []
        self._plain = True
        for index, (p, g) in enumerate(zip(self._params, found, strict=True)):
            if g is not None:
                _check(index, p, g)
                if g.is_neg():  # a view that negates when read: made by the same graph every step
                    self._plain = False
                g = g.detach().resolve_neg().contiguous()
            tensors.append(g)
        addresses = np.array([g.data_ptr() if g is not None else 0 for g in tensors], np.int64)
        return Gradients(tensors, addresses, [g is not None for g in tensors])


def _check(index: int, p: Tensor, g: Tensor) -> None:
    if g.layout is not torch.strided:
        raise RuntimeError(
            f"the gradient of parameter {index} is sparse ({g.layout}), which is not supported; "
            "for an embedding, set sparse=False"
        )
    if g.dtype is not p.dtype or g.device != p.device or g.shape != p.shape:
        raise RuntimeError(
            f"the gradient of parameter {index} is {g.dtype} {list(g.shape)} on {g.device}, the "
            f"parameter is {p.dtype} {list(p.shape)} on {p.device}"
        )
    if g.numel() and not g.data_ptr():
        raise RuntimeError(
            f"the gradient of parameter {index}, a {type(g).__name__}, has no memory"
        )


def unscaling(scale: Tensor) -> float:
    """What a gradient scaler's `scale` makes of a gradient's factor: its reciprocal, rounded to
    float32 as `GradScaler.unscale_` rounds it; exact for powers of two."""
    return float(np.float32(div(1.0, float(scale))))
