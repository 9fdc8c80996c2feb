"""Which rules a command is about: a rule file, or the name of a shipped rule.

Input: what was typed. Output: a source, its folder and the names of rules in it.
Does not do: compile.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from optdsl.cli.terminal import Fault, read_file
from optdsl.diagnostics import did_you_mean
from optdsl.frontend.scope import shipped_index
from optdsl.source import Source


@dataclass(frozen=True)
class Target:
    """`names`: the rules that are meant; None for all of the file."""

    source: Source
    folder: Path
    names: tuple[str, ...] | None


def snake(name: str) -> str:
    """MyRule as a file's name, my_rule; AdamW is adamw, SGDSaI is sgd_sai."""
    border = r"(?<=[a-z0-9])(?=[A-Z][A-Za-z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return re.sub(border, "_", name).lower()


def find_target(typed: str, rules: list[str] | None) -> Target:
    """The file at a path, else the shipped file that has a rule of that name."""
    names = tuple(rules) if rules else None
    index = shipped_index()
    if typed in index and not Path(typed).exists():
        path = index[typed]
        source = Source(path.name, path.read_text("utf-8"))
        return Target(source, path.parent, names or (typed,))
    if "/" not in typed and "." not in typed and not Path(typed).exists():
        meant = did_you_mean(typed, index)
        mend = f"; did you mean {meant}?" if meant else ""
        raise Fault(f"{typed}: no such file, and no shipped rule{mend}")
    return Target(read_file(typed), Path(typed).parent, names)


def pick(target: Target, known: list[str]) -> tuple[str, ...]:
    """The rules that are meant, of those that the file has. Raises Fault for one it has not."""
    for name in target.names or ():
        if name not in known:
            meant = did_you_mean(name, known)
            has = f"did you mean {meant}?" if meant else f"it has {', '.join(known) or 'none'}"
            raise Fault(f"{target.source.name} has no rule {name}; {has}")
    if not known:
        raise Fault(
            f"{target.source.name} has no rule that becomes an optimizer; a wrapper does when it "
            "is given one: optimizer NAME = WRAPPER(AdamW)"
        )
    return tuple(known) if target.names is None else target.names


def storage(text: str) -> str | dict[str, str]:
    """The option --storage: `int8`, or `exp_avg=int8,exp_avg_sq=bf16`."""
    try:
        return read_storage(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def read_storage(text: str) -> str | dict[str, str]:
    """`int8`, or `exp_avg=int8,exp_avg_sq=bf16`, as a command takes it. Raises ValueError."""
    pairs = [each.strip().partition("=") for each in text.split(",")]
    if len(pairs) == 1 and not pairs[0][1]:
        return pairs[0][0]
    for key, equals, _ in pairs:
        if not equals:
            raise ValueError(f"storage {key!r} is of no state: write KEY={key},…")
    return {key.strip(): storage.strip() for key, _, storage in pairs}
