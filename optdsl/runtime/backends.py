"""Which target runs the parameters of a device.

Input: the name that the user gave and a device. Output: a `Backend`, or None for the reference.

Relies on: cpu/, and triton/ where triton is installed. Does not do: launching.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from optdsl.runtime.counters import Counters
from optdsl.runtime.cpu import launch as cpu
from optdsl.runtime.native import NativeError
from optdsl.runtime.program import Program
from optdsl.runtime.stages.packing import Able
from optdsl.runtime.stages.plan import DevicePlan, Runner
from optdsl.runtime.stages.tables import Cutting

BACKENDS = ("auto", "cpu", "triton", "reference")
GPUS = ("cuda", "xpu")
"""Device types that Triton compiles for; torch calls AMD's `cuda`, too."""


@dataclass(frozen=True)
class Backend:
    """A target: how it wants passes cut, whether classes are split by 16-byte alignment, the codecs
    with which it loads and saves buffers itself, what makes the runner of a plan, and whether plans
    may reside on the device (see residence.py)."""

    name: str
    cutting: Cutting
    splits_by_alignment: bool
    able: Able
    runner: Callable[[Program, DevicePlan, Counters], Runner]
    resident: bool = False


def choose_backend(name: str, device: torch.device, *, fallback: bool) -> Backend | None:
    """The target for tensors on `device`; None is the reference.

    `auto` takes Triton on a GPU, generated C in host memory, and with one warning the reference
    where the tool is missing and `fallback` says that there is an interpreter. Raises RuntimeError
    where the chosen target cannot run there.
    """
    if name == "reference":
        return None
    if name == "triton" or (name == "auto" and device.type in GPUS):
        return _triton(name, device, fallback)
    if device.type != "cpu":
        if name == "auto" and fallback:
            _warn(f"there is no target for {device.type} tensors")
            return None
        raise RuntimeError(f"the {name} backend cannot run on {device.type} tensors")
    try:
        cpu.driver()
    except NativeError as error:
        if name == "auto" and fallback:
            _warn(str(error))
            return None
        raise
    return Backend("cpu", cpu.CUTTING, cpu.SPLITS_BY_ALIGNMENT, cpu.ABLE, cpu.CpuRunner)


def check_compiled(program: Program, backend: Backend | None) -> None:
    """Raises RuntimeError where the module of `program` was made without the target's kernels."""
    if backend is None:
        return
    source = program.c_source if backend.name == "cpu" else program.triton_source
    if not source:
        raise RuntimeError(
            f"{program.name} was compiled without kernels for the {backend.name} backend"
        )


def _triton(name: str, device: torch.device, fallback: bool) -> Backend | None:
    try:
        # Not at the top: triton is not there on every system, and takes 0.3 s to import.
        triton = importlib.import_module(".triton.launch", __package__)
    except ImportError as error:
        if name == "auto" and fallback:
            _warn(str(error))
            return None
        raise RuntimeError(f"the triton backend needs triton: {error}") from None
    return Backend(
        "triton",
        triton.CUTTING,
        triton.SPLITS_BY_ALIGNMENT,
        triton.ABLE,
        triton.TritonRunner,
        resident=True,
    )


def _warn(reason: str) -> None:
    warnings.warn(f"the reference interpreter runs this optimizer, slowly: {reason}", stacklevel=2)
