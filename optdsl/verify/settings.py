"""Hyperparameters to try a rule with: its defaults, and options that defaults leave off.

Input: a rule. Output: settings that the rule's requirements allow, with labels; the same a step
later. Relies on: hosteval. Does not do: anything on tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optdsl.hosteval import Facts, host_number
from optdsl.ir.nodes import Rule, Value

Hypers = dict[str, Any]
SOME = 0.1
"""What a number that is 0 by default is set to, so that what it scales is computed."""


@dataclass(frozen=True)
class Setting:
    """`label` names what differs from the defaults; empty for the defaults."""

    label: str
    hypers: Mapping[str, Any]


def settings(rule: Rule) -> list[Setting]:
    """The defaults; every option turned on that can be; then each option that this leaves off."""
    base = {each.name: each.default for each in rule.hypers}
    found = [Setting("", base)]
    changes = list(_changes(rule))
    every = dict(base)
    for name, value in changes:
        if allowed(rule, {**every, name: value}):
            every[name] = value
    if every != base:
        found.append(Setting(_label(base, every), every))
    numbers = [(n, v) for n, v in changes if not isinstance(v, bool | str)]
    for name, value in changes:
        if not any(each.hypers[name] == value for each in found):
            for count in range(len(numbers) + 1):
                tried = (
                    {**base, **dict(more), name: value}
                    for more in itertools.combinations(numbers, count)
                )
                legal = next((hypers for hypers in tried if allowed(rule, hypers)), None)
                if legal is not None:
                    found.append(Setting(_label(base, legal), legal))
                    break
    return found


def _changes(rule: Rule) -> Iterator[tuple[str, Any]]:
    """Each hyperparameter's other value: an option turned over, a zero made nonzero, and the
    strings that the rule compares it with."""
    for each in rule.hypers:
        if isinstance(each.default, bool):
            yield each.name, not each.default
        elif isinstance(each.default, str):
            for other in sorted(_compared(rule, each.name) - {each.default}):
                yield each.name, other
        elif isinstance(each.default, int | float) and each.default == 0:
            yield each.name, SOME


def _compared(rule: Rule, name: str) -> set[str]:
    found = set()
    for value in rule.builder.table.values():
        if value.op in ("eq", "ne"):
            names = [arg.attr("name") for arg in value.args if arg.op == "hyper"]
            texts = [arg.attr("value") for arg in value.args if _is_text(arg)]
            found.update(texts if name in names else [])
    return found


def _is_text(value: Value) -> bool:
    return value.op == "const" and isinstance(value.attr("value"), str)


def _label(base: Hypers, hypers: Hypers) -> str:
    return ", ".join(f"{name}={value}" for name, value in hypers.items() if value != base[name])


def allowed(rule: Rule, hypers: Mapping[str, Any]) -> bool:
    """Whether every `require` holds."""
    facts = Facts(hypers, {each.name: each.default for each in rule.attributes})
    return all(bool(host_number(each.condition, facts)) for each in rule.requirements)


def later(rule: Rule, hypers: Mapping[str, Any], fixed: frozenset[str], step: int) -> Hypers:
    """The hyperparameters of a later step: all real numbers a little smaller, but for those that
    are `fixed` or that the rule would refuse."""
    result = dict(hypers)
    for name, value in hypers.items():
        if name in fixed:
            continue
        trial = {**result, name: _shrunk(value, 1 - 0.03 * step)}
        if allowed(rule, trial):
            result = trial
    return result


def _shrunk(value: Any, factor: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_shrunk(each, factor) for each in value)
    return value * factor if isinstance(value, float) else value
