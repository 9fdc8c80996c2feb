"""DTensors: the part of a parameter that lies in this process, and states sharded as it is.

Input: a tensor. Output: of a DTensor the memory that a step works on; a DTensor over new memory. A
rule that goes element by element takes the steps of all parts at once, without a word between
processes; where a parameter is cut, no other rule is taken.

Relies on: torch.distributed.tensor, where the caller has imported it. Does not do: communication.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from optdsl.runtime.program import Program


def dtensor() -> Any:
    """The class, or None as long as nothing has imported it: then there is no DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", None)


def is_dtensor(tensor: Tensor) -> bool:
    """Whether it is a DTensor."""
    kind = dtensor()
    return kind is not None and isinstance(tensor, kind)


def locals_of(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """What of `tensors` lies here. `to_local` would make a tensor anew, at 10 us each."""
    kind = dtensor()
    if kind is None:
        return tensors
    return [each._local_tensor if isinstance(each, kind) else each for each in tensors]


def local(tensor: Tensor) -> Tensor:
    """What of `tensor` lies here."""
    return locals_of([tensor])[0]


def alike(own: Tensor, values: Tensor) -> Tensor:
    """`values`, which have the shape of the part of `own`, as a tensor that is cut as `own` is."""
    if not is_dtensor(own):
        return values
    made: Any = own
    found: Tensor = dtensor().from_local(
        *(values, made.device_mesh, made.placements),
        run_check=False,
        shape=made.shape,
        stride=made.stride(),
    )
    return found


def same_cut(own: Tensor, other: Tensor) -> bool:
    """Whether `other` is cut as `own` is; two that are no DTensors are."""
    if not is_dtensor(own) or not is_dtensor(other):
        return is_dtensor(own) is is_dtensor(other)
    one: Any = own
    two: Any = other
    return bool(one.device_mesh == two.device_mesh and one.placements == two.placements)


def check_cut(program: Program, what: str, p: Tensor) -> None:
    """Raises ValueError for a DTensor that the rule cannot step part by part."""
    if not is_dtensor(p):
        return
    cut: Any = p
    if any(placement.is_partial() for placement in cut.placements):
        raise ValueError(f"{program.name}: {what} is a DTensor of partial sums, {cut.placements}")
    if program.whole and tuple(local(p).shape) != tuple(p.shape):
        raise ValueError(
            f"{program.name}: {what} is cut by {cut.placements}, and the rule needs it whole: "
            f"{program.whole}"
        )
