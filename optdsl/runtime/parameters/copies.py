"""Which buffers a step works on in copies that are decoded before the whole of it.

Input: the passes of a variant. Output: whether a buffer is such. Relies on: nothing, so that what
counts bytes before anything runs need not wait for torch. Does not do: the copies (packing.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol


class Pass(Protocol):
    """What is known of a kernel or library pass here."""

    @property
    def stage(self) -> int: ...

    @property
    def reads(self) -> Collection[str]: ...

    @property
    def writes(self) -> Collection[str]: ...


def copied_whole(
    name: str, kernels: Iterable[Pass], libraries: Iterable[Pass], *, codes: bool
) -> bool:
    """Whether a buffer that is not kept as it is computed is so for the whole step: where a pass
    reads it after another has written it, or a library pass works on `codes`."""
    # A library pass runs behind the kernels of its stage.
    passes = [((each.stage, 0), each) for each in kernels]
    behind = [((each.stage, 1), each) for each in libraries]
    if codes and any(name in (*each.reads, *each.writes) for _, each in behind):
        return True
    passes += behind
    written = [at for at, each in passes if name in each.writes]
    return any(name in each.reads and at > min(written) for at, each in passes if written)
