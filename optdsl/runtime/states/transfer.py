"""A saved state as its new owner stores it: copied where both store alike, else decoded, encoded.

Input: an entry of a checkpoint. Output: new tensors, by key. What belongs to a parameter's own
rounding (a master, a compensation) is taken over by the same way of rounding, and else left out:
the parameter itself stands for it.

Relies on: holdings.py, storage/. Does not do: which states there must be (checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.parameters.cohorts import Environment, Member
from optdsl.runtime.parameters.pairs import as_real
from optdsl.runtime.parameters.shards import local
from optdsl.runtime.program import State
from optdsl.runtime.states.holdings import Holdings, describe
from optdsl.runtime.storage.choice import BLOCKS
from optdsl.runtime.storage.stored import SCALE, BlockCodec

TRAIN = "p.train"
"""Where a parameter's value in training lies while it is in evaluation."""

OF_ROUNDING = frozenset(("p.master", "p.compensation", "p.low"))
OF_PARAMETERS = OF_ROUNDING | {TRAIN}
"""What may lie beside a parameter."""


def main_keys(entry: Mapping[str, Any], own: Collection[str]) -> list[str]:
    """The keys of the states of which there is something in `entry`; `own` are those known."""
    keys = [key for key in entry if key not in OF_PARAMETERS]
    return list(dict.fromkeys(k if k in own else k.removesuffix(SCALE) for k in keys))


def parameter_parts(
    holdings: Holdings, member: Member, entry: Mapping[str, Any]
) -> dict[str, Tensor]:
    """What lies beside the parameter, where it is to be kept so here.

    Raises ValueError for another shape or dtype.
    """
    layout = holdings.choice.of_parameter(member.p.dtype).layout(tuple(member.p.shape))
    found = {}
    for part in layout[1:]:
        if entry.get(part.beside) is not None:
            value = entry[part.beside]
            _expect(member, part.beside, value, part.shape, part.dtype)
            found[part.beside] = value.detach().to(member.p.device, copy=True).contiguous()
    if entry.get(TRAIN) is not None and "evaluating" in holdings.program.reads:
        value = entry[TRAIN]
        _expect(member, TRAIN, value, tuple(member.own.shape), member.own.dtype)
        found[TRAIN] = value.detach().to(member.p.device, copy=True)
    return found


def fitted(
    holdings: Holdings,
    state: State,
    member: Member,
    h: Mapping[str, Any],
    e: Environment,
    entry: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Copies of the tensors of `state` in `entry`, with the dtypes and on the device that they have
    here.

    Raises ValueError for what has another shape, or a scale that does not fit its codes.
    """
    entry = {key: local(each) if isinstance(each, Tensor) else each for key, each in entry.items()}
    shape, value = holdings.shape(state, member, h, e), entry[state.key]
    try:
        codec = saved_as(state, shape, entry)
    except ValueError as error:
        raise ValueError(f"the checkpoint of {describe(member)}: {error}") from None
    if codec is None:
        paired = member.own.is_complex() and state.domain == "full"
        if paired and isinstance(value, Tensor) and value.is_complex():
            _expect(member, state.key, value, tuple(local(member.own).shape), None)
            value = as_real(value.detach().resolve_conj().resolve_neg().contiguous())
        _expect(member, state.key, value, shape, None)
        if not value.is_floating_point():
            raise ValueError(
                f"the checkpoint's {state.key!r} of {describe(member)} is {value.dtype}, which no "
                "state of it is"
            )
        return holdings.packed(state, member, value.detach().to(member.p.device), h, e)
    parts = []
    for part in codec.layout(shape):
        tensor = entry[f"{state.key}{part.beside}"]
        _expect(member, f"{state.key}{part.beside}", tensor, part.shape, part.dtype)
        parts.append(tensor.detach().to(member.p.device, copy=True).contiguous())
    if holdings.codec(state, member) == codec:
        return dict(zip((state.key, f"{state.key}{SCALE}"), parts, strict=True))
    return holdings.packed(state, member, codec.load(parts, shape), h, e)


def saved_as(state: State, shape: tuple[int, ...], entry: Mapping[str, Any]) -> BlockCodec | None:
    """The codec of the codes of `state` in `entry`, told by their dtype and shape, whose values
    have `shape`; None for numbers. Raises ValueError for codes or scales that are not whole."""
    value, key = entry[state.key], f"{state.key}{SCALE}"
    codes = [each for (_, signed), each in BLOCKS.items() if signed is not state.nonnegative]
    if not isinstance(value, Tensor) or value.dtype not in {each.dtype for each in codes}:
        if entry.get(key) is not None:
            raise ValueError(f"there is {key!r}, but {state.key!r} has no codes")
        return None
    if entry.get(key) is None:
        raise ValueError(f"{key!r} is missing")
    for codec in codes:
        kept = codec.layout(shape)[0]
        if (kept.dtype, kept.shape) == (value.dtype, tuple(value.shape)):
            return codec
    found = f"{value.dtype} {list(value.shape)}"
    raise ValueError(f"{state.key!r} is {found}, which are no codes of {list(shape)}")


def loaded(
    state: State, shape: tuple[int, ...], entry: Mapping[str, Any]
) -> tuple[Tensor, BlockCodec | None]:
    """The values of `state` in `entry`, of a parameter of `shape`, and the codec of codes."""
    codec = saved_as(state, shape, entry)
    if codec is None:
        return entry[state.key], None
    return codec.load([entry[state.key], entry[f"{state.key}{SCALE}"]], shape), codec


def _expect(
    member: Member, key: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype | None
) -> None:
    if isinstance(value, Tensor) and tuple(value.shape) == shape and dtype in (None, value.dtype):
        return
    what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if isinstance(value, Tensor) and dtype is not None:
        what = f"{value.dtype} {what}"
    needed = list(shape) if dtype is None else f"{dtype} {list(shape)}"
    raise ValueError(f"the checkpoint's {key!r} of {describe(member)} is {what}, not {needed}")
