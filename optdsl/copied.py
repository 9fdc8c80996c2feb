"""Which states a step works on in copies: decoded before the whole of it, and encoded behind it.

Input: a plan. Output: names of states; what a pass reads. Targets load and save what is stored in
fewer bits task by task, where no pass reads again what another wrote. A plan that is made for its
storage has no such pass; that of a module which stands alone, and whose optimizer is told of its
storage when it is made, may.

Relies on: the plan; the runtime, which decides. Does not do: count bytes (explain.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from optdsl.ir.nodes import Value, reachable
from optdsl.runtime.parameters.copies import copied_whole
from optdsl.schedule.plan import Buffer, Domain, KernelPass, LibraryPass, Pass, Plan, Variant
from optdsl.schedule.storage import stored_as
from optdsl.types import Storage

HALVES = (Storage.BF16, Storage.FP16)
CODES = (Storage.FP8, Storage.INT8, Storage.INT4)


class _Touched(NamedTuple):
    stage: int
    reads: list[str]
    writes: list[str]


def copied_states(variant: Variant) -> frozenset[str]:
    """The states of p's size that passes of `variant` find as float32, in copies of them."""
    kernels = [_touched(each) for each in variant.passes if isinstance(each, KernelPass)]
    libraries = [_touched(each) for each in variant.passes if isinstance(each, LibraryPass)]
    return frozenset(
        each.name
        for each in variant.buffers
        if each.domain is Domain.FULL and each.storage in (*HALVES, *CODES)
        if copied_whole(each.name, kernels, libraries, codes=each.storage in CODES)
    )


def told(plan: Plan, storage: str | Mapping[str, str]) -> Plan:
    """`plan` as it runs in a module that stands alone, whose optimizer is told `storage` when it is
    made: the same passes, other states. Raises ValueError as `stored_as`."""
    rule = stored_as(plan.rule, storage)
    kept = {state.name: state.storage for state in rule.states}
    variants = tuple(
        replace(each, buffers=tuple(_kept(buffer, kept) for buffer in each.buffers))
        for each in plan.variants
    )
    return replace(plan, rule=rule, variants=variants)


def _kept(buffer: Buffer, kept: Mapping[str, Storage]) -> Buffer:
    return replace(buffer, storage=kept.get(buffer.name, buffer.storage))


def _touched(each: Pass) -> _Touched:
    loads = [value.attr("buffer") for value in values_of(each) if value.op == "load"]
    stores = each.outputs if isinstance(each, LibraryPass) else each.stores
    return _Touched(each.stage, loads, [store.buffer for store in stores])


def values_of(each: Pass) -> list[Value]:
    """All that a pass computes or reads."""
    if isinstance(each, LibraryPass):
        return reachable(store.value for store in each.outputs)
    roots = [store.value for store in each.stores]
    for phase in each.phases:
        roots += [reduction.value for reduction in (*phase.rows, *phase.partials)]
    return reachable(roots)
