"""A rule with the storage that somebody else chose for its states.

Input: a rule; a storage for all states of p's size, or one for each by name or key. Output: the
rule as if it said so. Does not do: anything to values, which no storage changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optdsl.diagnostics import did_you_mean
from optdsl.ir.nodes import Rule, StateDecl
from optdsl.schedule.plan import Domain, domain_of
from optdsl.types import Storage

NAMES = tuple(str(each) for each in Storage if each is not Storage.COMPUTE)


def stored_as(rule: Rule, storage: str | Mapping[str, str]) -> Rule:
    """`rule` with its states stored so. Raises ValueError for a state or a storage that there is
    not, and for a state that is not of p's size."""
    full = [each for each in rule.states if is_full(rule, each)]
    if isinstance(storage, str):
        storage = {each.key: storage for each in full}
    chosen = {}
    for name, text in storage.items():
        if text not in NAMES:
            raise ValueError(f"there is no storage {text!r}; one of {', '.join(NAMES)}")
        found = [each for each in rule.states if name in (each.key, each.name)]
        if not found:
            known = [each.key for each in full]
            meant = did_you_mean(name, known)
            mend = f"did you mean {meant}?" if meant else f"it has {', '.join(known) or 'none'}"
            raise ValueError(f"{rule.name} has no state {name!r}; {mend}")
        if not all(is_full(rule, each) for each in found):
            raise ValueError(
                f"{rule.name}'s state {name!r} is not of the parameter's size: it is always stored "
                "as it is computed"
            )
        chosen.update({each.name: Storage(text) for each in found})
    states = tuple(
        replace(each, storage=chosen[each.name]) if each.name in chosen else each
        for each in rule.states
    )
    return replace(rule, states=states)


def is_full(rule: Rule, state: StateDecl) -> bool:
    """Whether the state has a number for each element of the parameter."""
    return domain_of(state.type, rule.view) is Domain.FULL
