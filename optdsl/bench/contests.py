"""Who is measured: a compiled rule and what else does the same.

Input: parameters. Output: for each contender a function that takes a step, and the dict of states
by parameter, so that all can work on the same buffers. Packages that are not installed leave their
contenders out. Relies on: loading, zoo. Does not do: measure.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch.nn import Parameter

from optdsl.compiler import compile_source
from optdsl.explain import VariantReport, explain_plan
from optdsl.loading import compile_text
from optdsl.source import Source

Params = list[Parameter]
OURS = "optdsl"
"""The name of a compiled rule among the contenders."""


@dataclass(frozen=True)
class Contender:
    """`make(params)` gives the optimizer, `clip` what is done to the gradients before its step.
    `needs` names a package beyond torch; `patient` one whose first step takes a minute. `dtype` is
    that of its parameters where it is not the contest's."""

    name: str
    make: Callable[[Params], torch.optim.Optimizer]
    clip: Callable[[Params], Any] | None = None
    needs: str = ""
    patient: bool = False
    dtype: torch.dtype | None = None

    def prepare(self, params: Params) -> tuple[torch.optim.Optimizer, Callable[[], Any]]:
        """The optimizer over `params`, and its whole step."""
        optimizer, clip = self.make(params), self.clip
        if clip is None:
            return optimizer, optimizer.step

        def step() -> None:
            clip(params)
            optimizer.step()

        return optimizer, step

    def installed(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None


@dataclass(frozen=True)
class Contest:
    """A rule, as a text that `optdsl.compile_text` takes, its arguments, and its peers. `cases`
    are keys of `CASES`, `dtype` that of parameters where the contest is about one."""

    name: str
    text: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peers: tuple[Contender, ...] = ()
    cases: tuple[str, ...] = ("a", "b", "c", "d", "g", "h")
    matrices: bool = False
    dtype: torch.dtype | None = None

    @property
    def narrow(self) -> bool:
        """Whether ours keeps in fewer bits what others keep in 32."""
        return self.dtype is not None or "storage" in self.options

    def ours(self, backend: str = "auto") -> Contender:
        """The compiled rule."""

        def make(params: Params) -> torch.optim.Optimizer:
            rule = compile_text(self.text, f"{self.name}.opt").Mine
            optimizer: torch.optim.Optimizer = rule(params, backend=backend, **self.options)
            return optimizer

        return Contender(OURS, make)

    def contenders(self, patient: bool, backend: str = "auto") -> Iterator[Contender]:
        """Ours, and those of the peers that are installed."""
        yield self.ours(backend)
        for peer in self.peers:
            if peer.installed() and (patient or not peer.patient):
                yield peer

    def steady(self) -> VariantReport:
        """What a step in the long run reads and writes, with this contest's arguments."""
        source = Source(f"{self.name}.opt", self.text)
        (compiled,) = compile_source(source, None, storage=self.options.get("storage")).rules
        plan = compiled.plan
        hypers = tuple(
            replace(each, default=self.options.get(each.name, each.default))
            for each in plan.rule.hypers
        )
        return explain_plan(replace(plan, rule=replace(plan.rule, hypers=hypers))).steady


def _torch(name: str, **options: Any) -> tuple[Contender, ...]:
    """torch.optim's class in each of its implementations."""
    ways: dict[str, dict[str, Any]] = {"fused": {"fused": True}, "foreach": {"foreach": True}}
    ways["for-loop"] = {"foreach": False}
    return tuple(
        Contender(f"torch {way}", partial(_made, name, {**options, **how}))
        for way, how in ways.items()
    )


def _made(name: str, options: dict[str, Any], params: Params) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(params, **options)
    return optimizer


def _compiled(name: str, **options: Any) -> Contender:
    """torch.optim's for-loop, its step compiled by torch.compile."""

    def make(params: Params) -> torch.optim.Optimizer:
        optimizer = _made(name, options, params)
        setattr(optimizer, "step", torch.compile(optimizer.step))  # noqa: B010 (mypy refuses it)
        return optimizer

    return Contender("torch.compile", make, patient=True)


def _of(package: str, name: str, patient: bool = False, **options: Any) -> Contender:
    def make(params: Params) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = getattr(_module(package), name)(params, **options)
        return optimizer

    return Contender(package, make, needs=package.partition(".")[0], patient=patient)


@cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _clip(foreach: bool) -> Callable[[Params], Any]:
    return lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=foreach)


CLIPPED_ADAMW = """\
optimizer Mine = Clipped(AdamW)

wrapper Clipped(inner, max_norm = 1.0):
    g *= min(1, max_norm / (norm(g, over = all) + 1e-6))
    step inner
"""


def _rounding_at_random(name: str, **options: Any) -> Contest:
    """With bfloat16 parameters, beside torch's float32 and its bfloat16, whose states are too."""
    theirs = _torch("AdamW")[0]
    rounded = _of(
        "torchao.optim.adam", "_AdamW", patient=True, weight_decay=1e-2, bf16_stochastic_round=True
    )
    return Contest(
        name,
        "optimizer Mine = AdamW\n",
        {"rounding": "stochastic", **options},
        peers=(replace(theirs, name="torch fused, float32", dtype=torch.float32), theirs, rounded),
        cases=("a", "b", "g"),
        dtype=torch.bfloat16,
    )


GPU_CONTESTS = {
    "AdamW with int8 states": Contest(
        "AdamW with int8 states",
        "optimizer Mine = AdamW\n",
        {"storage": "int8"},
        peers=(
            *_torch("AdamW")[:1],
            _of("bitsandbytes.optim", "AdamW8bit", weight_decay=1e-2),
            _of("torchao.optim", "AdamW8bit", weight_decay=1e-2, patient=True),
        ),
        cases=("a", "b", "g"),
    )
}
"""Those for tensors that are large enough for codes."""
CONTESTS = {
    contest.name: contest
    for contest in (
        Contest(
            "AdamW",
            "optimizer Mine = AdamW\n",
            peers=(
                *_torch("AdamW"),
                _compiled("AdamW"),
                _of("pytorch_optimizer", "AdamW"),
                _of("heavyball", "AdamW", patient=True, consume_grad=False),
            ),
            cases=("a", "b", "c", "d", "d-new", "e", "f", "g", "h"),
        ),
        Contest(
            "SGD momentum",
            "optimizer Mine = SGD\n",
            {"lr": 1e-3, "momentum": 0.9},
            peers=_torch("SGD", lr=1e-3, momentum=0.9),
        ),
        Contest(
            "clip + AdamW",
            CLIPPED_ADAMW,
            peers=tuple(
                replace(each, name=f"torch clip + {each.name.removeprefix('torch ')}", clip=how)
                for each, how in zip(_torch("AdamW"), map(_clip, (True, True, False)), strict=True)
            ),
        ),
        *GPU_CONTESTS.values(),
        _rounding_at_random("AdamW rounding at random"),
        _rounding_at_random("AdamW rounding at random with half states", storage="bf16"),
        Contest(
            "Lion",
            "optimizer Mine = Lion\n",
            peers=(_of("pytorch_optimizer", "Lion", weight_decay=0.0),),
        ),
        Contest("LAMB", "optimizer Mine = LAMB\n", peers=(_of("pytorch_optimizer", "Lamb"),)),
        Contest("Adan", "optimizer Mine = Adan\n", peers=(_of("pytorch_optimizer", "Adan"),)),
        Contest(
            "Muon",
            "optimizer Mine = Muon\n",
            peers=(Contender("torch for-loop", lambda params: torch.optim.Muon(params)),),
            cases=("b",),
            matrices=True,
        ),
        Contest(
            "Muon with products in bfloat16",
            "optimizer Mine = Muon\n",
            options={"products": "bfloat16"},
            peers=(Contender("torch for-loop", lambda params: torch.optim.Muon(params)),),
            cases=("b",),
            matrices=True,
        ),
        Contest("SWAN", "optimizer Mine = SWAN\n", cases=("b",), matrices=True),
    )
}
