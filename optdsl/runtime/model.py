"""The model, as `loss(q)` and `grad(q)` of a rule see it: a closure, run with parameters elsewhere.

Input: the closure that `step` was given, and parameters. Output: losses and gradients. While the
closure runs the parameters are at the points; they come back bit for bit, and so do their
gradients, whatever the closure does to them. Relies on: torch. Does not do: where points come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Model:
    """`closure` gives the loss, with gradients in the parameters where it runs backward. `params`
    are all of the optimizer's; `sign` is -1 where the step goes uphill. `own` is what the caller's
    own evaluation gave, `first` what the first one did."""

    def __init__(self, rule: str, closure: Callable[[], Any]) -> None:
        self.rule, self.closure = rule, closure
        self.params: Sequence[Tensor] = ()
        self.sign = 1.0
        self.own: Any = None
        self.first: Any = None

    def begin(self) -> Any:
        """The caller's own evaluation, with the parameters and gradients as they are."""
        with torch.enable_grad():
            self.own = self.closure()
        self.first = self.own
        return self.own

    def loss(self, points: Sequence[Tensor | None] | None) -> Tensor:
        """The loss with each parameter at its point (None: where it is); without points the
        caller's own. A tensor of no axes."""
        if points is None:
            return self._number(self.own)
        with self._at(points):
            return self._number(self._run())

    def grad(self, points: Sequence[Tensor | None]) -> list[Tensor]:
        """The gradient of each parameter with all at their points: zero where the loss does not
        depend on it."""
        with self._at(points):
            self._run()
            found = [p.grad for p in self.params]
        if all(each is None for each in found):
            raise ValueError(f"{self.rule}: the closure leaves no gradients; it runs backward()")
        pairs = zip(self.params, found, strict=True)
        with torch.no_grad():
            return [torch.zeros_like(p) if g is None else g.detach() * self.sign for p, g in pairs]

    def among(self, indices: Sequence[int]) -> Part:
        """The model as a function of some of its parameters."""
        return Part(self, indices)

    def _run(self) -> Any:
        with torch.enable_grad():
            loss = self.closure()
        self.first = loss if self.first is None else self.first
        return loss

    def _number(self, loss: Any) -> Tensor:
        if loss is None:
            raise ValueError(f"{self.rule}: the closure returns no loss")
        return torch.as_tensor(loss).detach().reshape(()) * self.sign

    @contextmanager
    def _at(self, points: Sequence[Tensor | None]) -> Iterator[None]:
        moved = [(p, q) for p, q in zip(self.params, points, strict=True) if q is not None]
        kept = [p.detach().clone() for p, _ in moved]
        grads = [p.grad for p in self.params]
        try:
            with torch.no_grad():
                for p, q in moved:
                    p.copy_(q.reshape(p.shape))
            for p in self.params:
                p.grad = None
            yield
        finally:
            with torch.no_grad():
                for (p, _), own in zip(moved, kept, strict=True):
                    p.copy_(own)
            for p, g in zip(self.params, grads, strict=True):
                p.grad = g


class Part:
    """A model of which only the parameters at `indices` move."""

    def __init__(self, model: Model, indices: Sequence[int]) -> None:
        self.model, self.indices = model, indices

    def loss(self, points: Sequence[Tensor] | None) -> Tensor:
        return self.model.loss(None if points is None else self._all(points))

    def grad(self, points: Sequence[Tensor]) -> list[Tensor]:
        found = self.model.grad(self._all(points))
        return [found[index] for index in self.indices]

    def _all(self, points: Sequence[Tensor]) -> list[Tensor | None]:
        every: list[Tensor | None] = [None] * len(self.model.params)
        for index, point in zip(self.indices, points, strict=True):
            every[index] = point
        return every
