"""Runs library passes: matrix work on all parameters of one shape together.

A generated function has the signature

    function(inputs, scalars, results, sizes) -> (output, ...)          one for each of `writes`

    inputs    buffer name -> tensor in the dtype that values are computed in; for n parameters of
              one shape [n, rows, cols], with `view last` [n, batch, rows, cols]; a buffer of
              another domain has size 1 where its domain has none: ROW [n, rows, 1], TENSOR
              [n, 1, 1];
              a state of a shape of its own is [n, *shape]; a shared state is not batched
    scalars   the scalar row of these parameters: floats
    results   slot -> tensor of finished reductions, shaped as inputs are; GROUP and ALL 0-d
    sizes     text -> number: rows, cols, short, long, numel, batch, ndim and what `dims` gives

and, where it draws random numbers, a fifth argument

    draw(kind, shape, site, at) -> [n, *shape]      what each parameter draws at this place

A function whose loops ask something of all parameters is a generator with the same return value
(see lockstep.py). Outputs have the same shapes. Temps lie in one strided buffer per shape, so that
a batch is a view of them; p, g and states are stacked. Scratch is capped by calls on parts of a
batch.

Relies on: torch, program.py, tables.py. Does not do: where temps lie (plan.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optdsl.draws import draw
from optdsl.runtime.program import Library

SCRATCH_BYTES = 256 * 2**20
"""What one call may hold of inputs; matrix functions hold a few times as much."""


@dataclass(eq=False)
class Batch:
    """One shape's parameters in one library pass.

    `inputs` give the buffers' tensors when asked, of members [lo, hi); `results` where in the flat
    results each slot's numbers stand, [n, ...]; `outputs` take what was computed for [lo, hi).
    `values` is the row of the scalar table. `bytes` is what one parameter's inputs take. `keys` are
    each member's seed and number, which tell its random draws from others'. All are of one `group`.
    """

    library: Library
    count: int
    inputs: Mapping[str, Callable[[int, int], Tensor]]
    outputs: Sequence[Callable[[int, int, Tensor], None]]
    results: Mapping[str, Tensor]
    values: Callable[[], Sequence[float]]
    sizes: Mapping[str, int]
    dtype: torch.dtype
    bytes: int
    keys: Sequence[tuple[int, int]] = ()
    group: int = 0

    def run(self, results: Tensor) -> None:
        """Calls the function on parts of the batch; `results` is the flat table of this step."""
        with torch.no_grad():
            for lo, hi in self.parts():
                self.write(lo, hi, self.call(lo, hi, results))

    def parts(self) -> list[tuple[int, int]]:
        """The members that the function takes at a time."""
        part = 1 if self.library.alone else max(1, SCRATCH_BYTES // max(1, self.bytes))
        return [(lo, min(lo + part, self.count)) for lo in range(0, self.count, part)]

    def call(self, lo: int, hi: int, results: Tensor) -> Any:
        """What the function gives for members [lo, hi)."""
        inputs = {name: read(lo, hi).to(self.dtype) for name, read in self.inputs.items()}
        finished = _Finished(self.results, results, slice(lo, hi), self.dtype)
        function = self.library.function
        if self.library.draws:
            function = functools.partial(
                function, draw=functools.partial(self._draw, lo, hi, results)
            )
        return function(inputs, self.values(), finished, self.sizes)

    def write(self, lo: int, hi: int, made: Sequence[Tensor]) -> None:
        """Puts what the function made where it belongs."""
        for write, value in zip(self.outputs, made, strict=True):
            write(lo, hi, value)

    def _draw(
        self,
        lo: int,
        hi: int,
        results: Tensor,
        kind: str,
        shape: tuple[int, ...],
        site: int,
        at: float,
    ) -> Tensor:
        """What the members [lo, hi) draw: the numbers that the interpreter draws."""
        drawn = [
            draw(
                kind,
                shape,
                seed=seed,
                site=site,
                at=int(at),
                parameter=index,
                device=results.device,
            )
            for seed, index in self.keys[lo:hi]
        ]
        return torch.stack(drawn).to(self.dtype)


class _Finished(dict[str, Tensor]):
    """The results of some members, gathered when they are asked for: most passes read few."""

    def __init__(
        self, places: Mapping[str, Tensor], table: Tensor, part: slice, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._places, self._table, self._part, self._dtype = places, table, part, dtype

    def __missing__(self, slot: str) -> Tensor:
        places = self._places[slot]
        chosen = places[self._part] if places.dim() else places
        self[slot] = found = self._table[chosen].to(self._dtype)
        return found
