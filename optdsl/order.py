"""Order statistics and gathers along an axis, with an answer for every input.

Positions count from 0 and are whole numbers in the dtype of the values, as a rule's tensors are:
exact up to 2^24 in float32. `dim` is -2 for rows, -1 for columns; the axes before them are a batch.
Relies on: torch. Used by the interpreter and by generated code alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def argsort(x: Tensor, dim: int, first: int | None = None) -> Tensor:
    """The positions that sort x along `dim`, ascending and stable, NaN last; the first of them."""
    found = torch.argsort(x, dim=dim, stable=True)
    return (found if first is None else found.narrow(dim, 0, first)).to(x.dtype)


def take(x: Tensor, i: Tensor, dim: int) -> Tensor:
    """The entries i of x along `dim`, in the order of i; NaN where there is no such entry."""
    places, there = _places(i, x.shape[dim])
    shape = (*x.shape[:-2], *_along(places, x, dim))
    if not x.shape[dim]:
        return x.new_full(shape, torch.nan)
    found = x.gather(dim, _fit(places, dim).expand(shape))
    return torch.where(_fit(there, dim), found, torch.nan)


def put(x: Tensor, i: Tensor, into: Tensor, dim: int) -> Tensor:
    """`into` with its entries i along `dim` replaced by those of x, in order; what is none of its
    entries is left out. Of an entry that i names twice it is not said which one stays."""
    places, there = _places(i, into.shape[dim])
    shape = (*into.shape[:-2], *_along(places, into, dim))
    spare = into.narrow(dim, 0, min(1, into.shape[dim]))  # where places that are not there go
    room = torch.cat([into, torch.zeros_like(spare)], dim)
    places = torch.where(there, places, into.shape[dim])
    filled = room.scatter(dim, _fit(places, dim).expand(shape), x.expand(shape))
    return filled.narrow(dim, 0, into.shape[dim])


def kth_smallest(x: Tensor, k: float | Tensor, dims: tuple[int, ...]) -> Tensor:
    """The k-th smallest, from 1, of the elements of x along `dims`, which stay with size 1; the
    nearest there is where k is out of range, NaN where any element is, or there is none."""
    kept = [1 if i - x.dim() in dims else size for i, size in enumerate(x.shape)]
    ends = list(range(-len(dims), 0))
    flat = x.movedim(dims, ends).flatten(ends[0])
    count = flat.shape[-1]
    if count == 0:
        return x.new_full(kept, torch.nan)
    values = flat.sort(dim=-1).values
    if isinstance(k, Tensor):
        place = k.nan_to_num(1.0).floor().clamp(1, count).to(torch.int64) - 1
        place = place.expand(kept).movedim(dims, ends).flatten(ends[0])
        found = values.gather(-1, place)
    else:
        number = min(max(math.floor(k), 1), count) if math.isfinite(k) else count if k > 0 else 1
        found = values.narrow(-1, number - 1, 1)
    return found.masked_fill(values[..., -1:].isnan(), torch.nan).reshape(kept)


def reshape(x: Tensor, n: int, m: int, fill: float | None = None) -> Tensor:
    """The elements of each matrix, row by row, as [n, m]: what is too many is left out, what is
    missing is `fill`, by default NaN."""
    flat = x.flatten(-2)
    missing = n * m - flat.shape[-1]
    if missing > 0:
        ends = torch.nan if fill is None else fill
        flat = torch.cat([flat, flat.new_full((*flat.shape[:-1], missing), ends)], -1)
    return flat.narrow(-1, 0, n * m).reshape(*flat.shape[:-1], n, m)


def unfold(x: Tensor, n: int, m: int) -> Tensor:
    """The matrix [m, k] of an axis of m entries by all others: n are those before it."""
    whole = x.reshape(*x.shape[:-2], n, m, x.shape[-2] * x.shape[-1] // max(1, n * m))
    return whole.movedim(-2, -3).flatten(-2)


def fold(x: Tensor, n: int, m: int, rows: int, cols: int) -> Tensor:
    """What `unfold` made, as it was: [rows, cols]."""
    whole = x.reshape(*x.shape[:-2], m, n, x.shape[-1] // max(1, n))
    return whole.movedim(-3, -2).reshape(*x.shape[:-2], rows, cols)


def _places(i: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The places that i names, as a column of int64, 0 where there is none; and where there is."""
    column = i.flatten(-2).unsqueeze(-1)
    there = (column >= 0) & (column < size)
    return torch.where(there, column, 0.0).to(torch.int64), there


def _fit(column: Tensor, dim: int) -> Tensor:
    return column if dim == -2 else column.mT


def _along(places: Tensor, x: Tensor, dim: int) -> tuple[int, int]:
    """The matrix that entries of x along `dim` make."""
    count = places.shape[-2]
    return (count, x.shape[-1]) if dim == -2 else (x.shape[-2], count)
