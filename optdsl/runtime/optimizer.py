"""The optimizer class: torch's interface over a compiled rule.

Input: a `Program`, as the class attribute `program`, and what a user of torch.optim passes. Output:
a torch.optim.Optimizer: groups, schedulers, hooks, closures, checkpoints, pickles, copies.

A generated class is

    class AdamW(Optimizer):
        program = PROGRAM

        def __init__(self, params, lr=0.001, betas=(0.9, 0.999), *, maximize=False, ...):
            super().__init__(params, {"lr": lr, "betas": betas}, maximize=maximize, ...)

Relies on: engine.py, groups.py, checkpoint.py. Does not do: the step itself.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch._compile import _disable_dynamo
from torch.optim.optimizer import (
    ParamsT,
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from optdsl.runtime.backends import BACKENDS
from optdsl.runtime.counters import Counters
from optdsl.runtime.engine import Engine
from optdsl.runtime.model import Model
from optdsl.runtime.parameters.groups import (
    begin_host_states,
    check_found,
    check_hypers,
    check_kinds,
    check_names,
    check_options,
    check_parameters,
    normalize_attributes,
)
from optdsl.runtime.parameters.state import plain_table
from optdsl.runtime.program import TABLE_VERSION, Program
from optdsl.runtime.reference import Interpreter
from optdsl.runtime.release import Releasing
from optdsl.runtime.residence import check_capturable
from optdsl.runtime.stages.packing import copies
from optdsl.runtime.states import checkpoint
from optdsl.runtime.states.modes import Evaluating
from optdsl.runtime.storage.choice import (
    Choice,
    check_exempt,
    check_halves,
    choose,
    choose_rounding,
)


def _of_torch(name: str) -> Callable[..., Any]:
    """A method of torch's Optimizer. torch keeps torch.compile out of some by a wrapper that
    imports it, 1.2 s at the first group or `zero_grad`; while nothing has, there is nobody to keep
    out."""
    method: Callable[..., Any] = getattr(torch.optim.Optimizer, name)
    return method if "torch._dynamo" in sys.modules else getattr(method, "__wrapped__", method)


class Replanned(Protocol):
    """Gives the program whose plans are made for a storage of states, by their names. It is there
    where the rule is; a module that stands alone has the plans that it was compiled with."""

    def __call__(self, storage: Mapping[str, str]) -> Program: ...


class Optimizer(Evaluating, Releasing, torch.optim.Optimizer):
    """A compiled optimizer.

    `params` are tensors, (name, tensor) pairs or groups, as for torch.optim. `hypers` gives the
    defaults of all hyperparameters. `maximize` steps uphill. `backend` is "auto" (Triton on a GPU,
    generated C in host memory), "cpu", "triton" or "reference" (the interpreter). `attributes`
    gives the rule's attributes: a value, or a dict from a parameter or its name; a group's own
    entry comes first. `foreach` and `fused` choose between torch's implementations and are
    accepted without effect; `differentiable` must be false. With `capturable` a step on a GPU may
    become part of a CUDA graph (see residence.py). `seed` is the key of all random draws of a rule
    that has any; a group may have its own. `storage` says how states of the parameters' size are
    stored, all or by key: float32, bf16, fp16, param, fp8, int8, int4;
    those of the parameters in `storage_exempt` (tensors or names) stay float32. Parameters of 16
    bits may lose nothing of small steps: by `rounding="stochastic"`, `master="float32"`, or
    `compensation`, "kahan" or "split". With `products="bfloat16"`, which rules with products of
    matrices have, passes that make them and keep nothing are worked out in bfloat16, as
    torch.optim.Muon's are: norms and sums in them, too; float64 parameters have theirs.

    Raises ValueError for a hyperparameter that the rule forbids, a misspelt one, and parameters
    that cannot be optimized (sparse, integer, complex where the rule knows rows and columns).
    """

    program: Program
    replanned: ClassVar[Replanned | None] = None
    interpreter: ClassVar[Interpreter | None] = None
    _engine: Engine
    _step_supports_amp_scaling = True
    """torch.amp.GradScaler then leaves the division to the step, which does it in float32 where it
    reads the gradient, and sees clips after it."""

    def __init__(
        self,
        params: ParamsT,
        hypers: Mapping[str, Any],
        *,
        maximize: bool = False,
        backend: str = "auto",
        attributes: Mapping[str, Any] | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        seed: int | None = None,
        storage: str | Mapping[str, str] | None = None,
        storage_exempt: Collection[torch.Tensor | str] = (),
        rounding: str = "nearest",
        master: str | None = None,
        compensation: str | None = None,
        products: str | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r}: it is one of {', '.join(BACKENDS)}")
        if self.program.version != TABLE_VERSION:
            raise RuntimeError(
                f"{self.program.name} was generated for tables of version {self.program.version}, "
                f"this is version {TABLE_VERSION}; compile it anew"
            )
        declared = dict(self.program.attributes)
        for name in attributes or ():
            if name not in declared:
                known = ", ".join(declared) or "none"
                raise ValueError(f"{self.program.name} has no attribute {name!r}; it has: {known}")
        check_options(self.program, {"differentiable": differentiable})
        self._backend = backend
        parameters = choose_rounding(rounding, master, compensation)
        self._choice = choose(self.program, storage, storage_exempt, parameters, products)
        self._plan_for_storage()
        self._engine = self._make_engine()
        defaults = {**hypers, **declared, **(attributes or {}), "maximize": maximize}
        if seed is not None:
            defaults["seed"] = seed
        if capturable:
            defaults["capturable"] = True
        super().__init__(params, defaults)
        check_found(self.program, attributes or {}, self.param_groups)
        check_exempt(self.program, self._choice, self.param_groups)

    def _plan_for_storage(self) -> None:
        """Takes other plans where those for float32 would work on copies of what was chosen."""
        if self.replanned is not None and copies(self.program, self._choice.states):
            self.program = self.replanned(self._choice.states)

    def _make_engine(self) -> Engine:
        return Engine(self.program, self, self._backend, type(self).interpreter, self._choice)

    @property
    def counters(self) -> Counters:
        """What the steps did so far (see `Counters`)."""
        return self._engine.counters

    @property
    def reports(self) -> dict[str, torch.Tensor]:
        """What the rule reported in the last step: tensors of no axes, by name. To read one on the
        host waits for the step; to keep it does not."""
        return dict(self._engine.reports)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch does. Raises ValueError, with nothing added, for one that does
        not fit the rule."""
        if isinstance(param_group, dict):
            check_names(self.program, param_group)
        given = set(param_group)
        _of_torch("add_param_group")(self, param_group)
        group = self.param_groups[-1]
        try:
            check_options(self.program, group)
            check_capturable(self.program, group, self._backend)
            check_parameters(self.program, group)
            check_halves(self.program, self._choice, group["params"])
            normalize_attributes(self.program, group, given)
            check_hypers(self.program, group)
            begin_host_states(self.program, group)
            self._engine.record(group)
        except BaseException:
            self.param_groups.pop()
            raise
        if self._release is not None:
            self._release.cover(group["params"])

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One step. `closure` re-evaluates the model and returns the loss, which is returned: that
        of its first run, with the parameters as they are where the rule reads gradients. A rule
        that evaluates the model itself, as loss(q) or grad(q), needs one.
        `inputs` gives what the rule declares as inputs, by name: for each parameter a mapping or a
        sequence of tensors, a tensor or number where one is meant for all.

        Raises ValueError where a static hyperparameter was changed, RuntimeError for a sparse
        gradient; parameters and states are then as they were.
        """
        if torch.compiler.is_dynamo_compiling():
            return self._opaque_step(closure, inputs)
        return self._eager_step(closure, inputs)

    def _eager_step(
        self, closure: Callable[[], Any] | None, inputs: Mapping[str, Any] | None
    ) -> Any:
        if not self._is_watched():
            return self._step(closure, inputs=inputs)
        given: dict[str, Any] = {} if inputs is None else {"inputs": inputs}
        return self._watched_step(*(() if closure is None else (closure,)), **given)

    # To torch.compile a step is one break in the graph: what it traced of the tables would be of no
    # use. The wrapper imports dynamo when it is called, which a step outside of it never does.
    _opaque_step = _disable_dynamo(_eager_step)

    # torch would wrap `step` to run hooks and to open a profiler's record, which costs 20 to 50 us
    # where there is neither; the attribute says that this is done here.
    step.hooked = True  # type: ignore[attr-defined]

    def _is_watched(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd.profiler._is_profiler_enabled
        )

    def _step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self._is_evaluating:
            raise RuntimeError(f"{self.program.name} is in evaluation: call train() before step()")
        model = None if closure is None else Model(self.program.name, closure)
        if model is not None and self.program.needs_own_evaluation:
            model.begin()
        # A gradient scaler puts its two numbers here for the time of a step, and takes them away.
        scale, found = self.__dict__.get("grad_scale"), self.__dict__.get("found_inf")
        try:
            if self._release is None:
                self._engine.step(scale, found, inputs, model)
            else:
                self._finish(self._release, inputs)
        except (TypeError, ValueError):
            for group in self.param_groups:  # one that was changed since may be the cause
                check_kinds(self.program, group)
            raise
        return None if model is None else model.first

    _watched_step = torch.optim.Optimizer.profile_hook_step(_step)

    def sync_hypers(self) -> None:
        """Writes hyperparameters that changed in `param_groups` to the device, where the steps of a
        captured CUDA graph read them. Needed between replays alone: `step` does it itself, and a
        hyperparameter that is a tensor on the device is read there. Without a graph it does
        nothing."""
        self._engine.sync_hypers()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch does it."""
        _of_torch("zero_grad")(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The checkpoint, in torch's layout and with torch's keys where torch has the rule. Its
        tensors are the optimizer's own, as torch's are; the next step changes them."""
        kept, self.state = self.state, defaultdict(dict, plain_table(self.state))
        try:
            state: dict[str, Any] = _of_torch("state_dict")(self)
            return state
        finally:
            self.state = kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a checkpoint of this rule, also of torch's own optimizer of the same name.

        Tensors are copied and keep the dtype that states have here. Where both sides have the same
        names (`model.named_parameters()`), each parameter gets the states saved under its name,
        in whatever order and groups they come; without names, or with none in common, by place.
        Where a CUDA graph was made of a step, the tensors that it holds are written, and its t.
        Raises ValueError, with nothing changed, where the checkpoint does not fit.
        """
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        loaded = checkpoint.read(self.program, self.param_groups, self._choice, state_dict)
        if not self._engine.load_in_place(loaded):
            self.param_groups = loaded.groups
            self.state = defaultdict(dict, loaded.states)
            self._engine.forget()
        self._find_mode()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """What pickles and copies hold: torch's three entries, the backend and the storage."""
        return {
            "defaults": self.defaults,
            "state": defaultdict(dict, plain_table(self.state)),
            "param_groups": self.param_groups,
            "backend": self._backend,
            "storage": self._choice,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self._backend = state.pop("backend", "auto")
        self._choice = state.pop("storage", Choice())
        super().__setstate__(state)
        self._plan_for_storage()
        self._engine = self._make_engine()
        for group in self.param_groups:
            self._engine.record(group)
        self._find_mode()
