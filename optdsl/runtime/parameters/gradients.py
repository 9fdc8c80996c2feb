"""The scan of the gradients: which parameters have one, and where it lies.

Input: the parameters. Output: gradients as kernels may read them (contiguous, of the parameter's
dtype and device) with their addresses.

The usual case, where all are there and fit, costs about 0.05 us a parameter (0.4 us where Python
must ask: see tensors.py) and holds no reference to a gradient between steps, which would double the
memory of gradients under `zero_grad()`.

Relies on: tensors.py. Does not do: anything with values.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optdsl.hostmath import div
from optdsl.runtime.arrays import Ints
from optdsl.runtime.parameters.pairs import as_real
from optdsl.runtime.parameters.shards import is_dtensor, local, locals_of, same_cut
from optdsl.runtime.parameters.tensors import Listing

GRADIENT = operator.attrgetter("grad")
DTYPE = operator.attrgetter("dtype")
VERSIONS = itertools.count(1)


@dataclass(eq=False, slots=True)
class Gradients:
    """By `Member.index`: the gradients' addresses (0 where there is none), whether the parameter
    takes part in the step, and the parameters; `found` are the gradients, once they were looked at
    one by one. Two with the same `version` have the same addresses."""

    addresses: Ints
    active: list[bool]
    params: Sequence[Tensor]
    version: int
    found: Sequence[Tensor | None] | None = None

    @property
    def tensors(self) -> Sequence[Tensor | None]:
        """The gradients, as kernels read them; None where there is none."""
        if self.found is None:
            found = map(GRADIENT, self.params)
            self.found = [None if g is None else as_real(local(g)) for g in found]
        return self.found


def no_gradients(params: Sequence[Tensor]) -> Gradients:
    """What there is for `params` where nothing reads a gradient."""
    count = len(params)
    return Gradients(np.zeros(count, np.int64), [False] * count, params, 0, [None] * count)


class Scanner:
    """Scans the gradients of the parameters in `listing`, which stay the same as long as the
    scanner lives. The first scan looks at each gradient closely."""

    def __init__(self, listing: Listing, reads_gradient: bool) -> None:
        self._params = listing.tensors.tensors
        self._listing = listing
        self._reads = reads_gradient
        self._everyone = [True] * len(self._params)
        self._dtypes = list(map(DTYPE, self._params))
        self._filled = np.count_nonzero(listing.places)
        # What autograd leaves lazy is a part of a complex number, or one, or, between two of which
        # nothing lies, the only element.
        self._lazies = [p for p in self._params if p.numel() == 1 or p.is_complex()]
        # torch gives a gradient its parameter's shape, but not the cut of a DTensor.
        cut = any(map(is_dtensor, self._params))
        self._cut = [p.numel() for p in locals_of(self._params)] if cut else []
        self._looked = False
        self._last: Ints | None = None
        self._version = 0

    def scan(self) -> Gradients:
        """The gradients of this step.

        Raises RuntimeError for a sparse gradient, one of another dtype or on another device.
        """
        if not self._reads:
            nothing = no_gradients(self._params)
            nothing.active = [p.requires_grad for p in self._params]
            return nothing
        if self._looked and not (self._lazies and self._lazy()):
            addresses, moved = self._listing.gradients()
            if addresses is None and not self._listing.asks_directly:
                addresses = self._fast()
            if addresses is not None:
                version = self._versioned(addresses, moved)
                return Gradients(addresses, self._everyone, self._params, version)
        return self._slow(list(map(GRADIENT, self._params)))

    def only(self, index: int) -> Gradients:
        """The gradient of one parameter, and none of the others. Raises RuntimeError as `scan`
        does."""
        count = len(self._params)
        found: list[Tensor | None] = [None] * count
        addresses = np.zeros(count, np.int64)
        p = self._params[index]
        if (g := p.grad) is not None:
            found[index] = g = _readable(index, p, g)
            addresses[index] = g.data_ptr()
        return Gradients(addresses, [], self._params, next(VERSIONS), found)

    def _versioned(self, addresses: Ints, moved: bool) -> int:
        """The version of what was found; `moved` says of an array that is written again and again
        whether it changed."""
        last, self._last = self._last, addresses
        if moved if last is addresses else last is None or not np.array_equal(last, addresses):
            self._version = next(VERSIONS)
        return self._version

    def _fast(self) -> Ints | None:
        """Addresses where every gradient is there and can be read as it lies, else None."""
        tensors = locals_of(list(map(GRADIENT, self._params)))
        try:
            # TypeError: no gradient. RuntimeError: no storage, as sparse ones have none.
            addresses = np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))
            if not all(map(Tensor.is_contiguous, tensors)):
                return None
        except (TypeError, RuntimeError):
            return None
        if list(map(DTYPE, tensors)) != self._dtypes:
            return None
        if self._cut and list(map(Tensor.numel, tensors)) != self._cut:
            return None
        return addresses if np.count_nonzero(addresses) == self._filled else None

    def _slow(self, found: Sequence[Tensor | None]) -> Gradients:
        pairs = enumerate(zip(self._params, found, strict=True))
        tensors = [None if g is None else _readable(index, p, g) for index, (p, g) in pairs]
        self._looked = True
        addresses = np.array([g.data_ptr() if g is not None else 0 for g in tensors], np.int64)
        active, version = [g is not None for g in tensors], self._versioned(addresses, True)
        return Gradients(addresses, active, self._params, version, tensors)

    def _lazy(self) -> bool:
        """Whether a gradient that lies as its parameter does is negated or conjugated when read."""
        found = [g for p in self._lazies if (g := p.grad) is not None]
        return any(g.is_neg() or g.is_conj() for g in found)


def _readable(index: int, p: Tensor, g: Tensor) -> Tensor:
    """The gradient as kernels read it."""
    _check(index, p, g)
    return as_real(local(g.detach()).resolve_neg().resolve_conj().contiguous())


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
    if not same_cut(p, g):
        raise RuntimeError(
            f"the gradient of parameter {index} is cut by {getattr(g, 'placements', None)}, the "
            f"parameter by {getattr(p, 'placements', None)}"
        )
    if local(g).numel() and not local(g).data_ptr():
        raise RuntimeError(
            f"the gradient of parameter {index}, a {type(g).__name__}, has no memory"
        )


def unscaling(scale: Tensor) -> float:
    """What a gradient scaler's `scale` makes of a gradient's factor: its reciprocal, rounded to
    float32 as `GradScaler.unscale_` rounds it; exact for powers of two."""
    return float(np.float32(div(1.0, float(scale))))
