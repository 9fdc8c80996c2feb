"""`OptimizerInfo` entries for the shipped rules, as torch's own optimizer tests have them.

Input: a case. Output: an entry of torch.testing's database for its class: the options to try, the
schedulers to pair it with. A rule that torch.optim has takes torch's own. Relies on:
torch.testing._internal (which needs `expecttest`). Does not do: tests.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch.testing._internal.common_optimizers import OptimizerInfo, OptimizerInput, optim_db

from tests.contract.cases import IN_TORCH, Case

PEERS: dict[str, OptimizerInfo] = {info.optim_cls.__name__: info for info in optim_db}


def info_of(case: Case) -> OptimizerInfo:
    """The entry of the case's class."""
    peer = PEERS[case.rule] if case.rule in IN_TORCH else None
    given: dict[str, Any] = {} if peer is None else {"scheduler_inputs": peer.scheduler_inputs}
    return OptimizerInfo(
        case.optimizer,
        optim_inputs_func=lambda device, dtype=None: inputs_of(case),
        supported_impls=(),
        supports_sparse=False,
        has_capturable_arg=False,
        **given,
    )


def inputs_of(case: Case) -> list[OptimizerInput]:
    """The options that torch tries on its class of this name; else the usual ones the rule has."""
    if case.rule in IN_TORCH:
        taken = inspect.signature(case.optimizer).parameters
        return [
            each
            for each in PEERS[case.rule].optim_inputs_func(device="cpu")
            if each.kwargs.keys() <= taken.keys()
        ]
    known = dict(case.optimizer.program.hypers)
    usual = [{}, {"weight_decay": 0.1}, {"maximize": True}]
    return [
        OptimizerInput(params=None, kwargs=each, desc=", ".join(each) or "default")
        for each in usual
        if each.keys() <= {*known, "maximize"}
    ]
