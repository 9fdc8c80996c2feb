"""Gradient release: each parameter steps in the backward pass, as soon as its gradient is there.

Input: an optimizer whose rule looks at one parameter at a time. Output: hooks on its parameters
that step them and free their gradients, so that the gradients of a model never exist all at once.

Relies on: engine.py (`step_alone`). Does not do: a step of parameters together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from optdsl.runtime.program import Program


class Release:
    """What `attach` returns: `remove()` ends it, as does leaving a `with` over it."""

    def __init__(self, optimizer: Releasing) -> None:
        self._optimizer = optimizer
        self._hooks: dict[Tensor, RemovableHandle] = {}
        self._taken: Counter[Tensor] = Counter()
        self._one = Lock()  # autograd has a thread for each device

    def cover(self, params: Iterable[Tensor]) -> None:
        """Hooks `params`; those that are frozen step once they are not."""
        for p in params:
            if p not in self._hooks:
                wanted = p.requires_grad
                p.requires_grad_(True)  # else torch takes no hook; one that is there it keeps
                hook: Any = p.register_post_accumulate_grad_hook
                self._hooks[p] = hook(self._step)
                p.requires_grad_(wanted)

    def finish(self) -> None:
        """The end of a step of the whole: what has a gradient still, which came without a backward
        pass, steps now. Raises RuntimeError where a parameter stepped twice since the last one."""
        taken, self._taken = self._taken, Counter()
        twice = [p for p, steps in taken.items() if steps > 1]
        if twice:
            raise RuntimeError(
                f"{self._optimizer.program.name}: {len(twice)} parameters took several steps since "
                "the last step(), one in each backward pass; while attach() holds, gradients are "
                "not accumulated"
            )
        for p in self._hooks:
            if p.grad is not None:
                self._step(p)
        self._taken.clear()

    def remove(self) -> None:
        """From now on `step()` takes the steps again."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        self._optimizer._detach(self)

    def __enter__(self) -> Release:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _step(self, p: Tensor) -> None:
        with self._one:
            if self._optimizer._step_alone(p):
                p.grad = None
                self._taken[p] += 1


class Releasing:
    """The part of an optimizer that can be attached to its parameters."""

    program: Program
    param_groups: list[dict[str, Any]]
    _engine: Any
    found_inf: Any
    _is_evaluating: bool
    _release: Release | None = None

    def attach(self) -> Release:
        """Steps each parameter in the backward pass, once its gradient is there, and frees that.

        A loop may go on to call `step()`, which then runs its closure and its hooks and counts, and
        `zero_grad()`, which finds nothing. Each backward pass is a step: gradients cannot be
        accumulated, clipped or scaled, and DistributedDataParallel, which averages them later,
        cannot be used. States, schedulers and checkpoints are as ever; copies are not attached.

        Raises ValueError for a rule with a statement that ties parameters together, and for
        `capturable=True`; RuntimeError where it is attached already.
        """
        name = self.program.name
        if self.program.coupled:
            raise ValueError(
                f"{name} cannot step in the backward pass: {'; '.join(self.program.coupled)}"
            )
        if any(group.get("capturable") for group in self.param_groups):
            raise ValueError(f"{name}: attach() with capturable=True is not supported yet")
        if self._release is not None:
            raise RuntimeError(f"{name} is attached already")
        self._engine.separate(apart=True)
        self._release = release = Release(self)
        for group in self.param_groups:
            release.cover(group["params"])
        return release

    def _detach(self, release: Release) -> None:
        if self._release is release:
            self._release = None
            self._engine.separate(apart=False)

    def _step_alone(self, p: Tensor) -> bool:
        """The step of one parameter; False for one that is not the optimizer's any more."""
        if self._is_evaluating:
            raise RuntimeError(f"{self.program.name} is in evaluation: call train() before that")
        stepped: bool = self._engine.step_alone(p)
        self._opt_called = True  # else torch's schedulers warn that they come before any step
        return stepped

    def _finish(self, release: Release, inputs: Mapping[str, Any] | None) -> None:
        """What `step()` is while parameters step alone."""
        name = self.program.name
        if self.__dict__.pop("grad_scale", None) is not None:
            del self.found_inf
            raise RuntimeError(
                f"{name}: parameters stepped in the backward pass, on gradients that were scaled; "
                "attach() cannot be used with a gradient scaler"
            )
        if inputs:
            raise ValueError(f"{name} has no inputs")
        release.finish()
