"""What was measured, and the file that keeps it.

Input and output: JSON, written whole or not at all. A run that was stopped goes on where it was:
what is in the file is not measured again. Does not do: measure, show.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from optdsl.files import replace_file

PACKAGES = ("torch", "triton", "pytorch-optimizer", "heavyball", "torchao", "bitsandbytes")
"""Whose versions decide figures."""
LIMIT = "limit"
"""The name under which the loop of the same shape stands among the contenders."""


@dataclass(frozen=True)
class Record:
    """One contender in one race: milliseconds of a step, `median` and `least` of `rounds`; `moved`
    the bytes that ours counts for the case; `first` seconds from nothing to the first step done
    (0: not measured). One without rounds did not come so far: in `first` seconds it had not taken a
    step, or with 0 it failed."""

    contest: str
    case: str
    threads: int
    contender: str
    median: float
    least: float
    rounds: int
    moved: float
    first: float = 0.0

    @property
    def race(self) -> tuple[str, str, int]:
        return self.contest, self.case, self.threads


@dataclass
class Records:
    """All records of one machine, and what it is."""

    machine: dict[str, Any]
    records: list[Record] = field(default_factory=list)

    def has(self, race: tuple[str, str, int]) -> bool:
        return any(each.race == race for each in self.records)

    def put(self, race: tuple[str, str, int], found: Sequence[Record]) -> None:
        """What a race gave, at the place of what it gave before, else behind all."""
        by_race = {each: list(self.of(each).values()) for each in self.races()}
        by_race[race] = list(found)
        self.records = [each for records in by_race.values() for each in records]

    def races(self) -> list[tuple[str, str, int]]:
        return list(dict.fromkeys(each.race for each in self.records))

    def of(self, race: tuple[str, str, int]) -> dict[str, Record]:
        """A race's records by contender, in the order in which they ran."""
        return {each.contender: each for each in self.records if each.race == race}


def this_machine(device: str) -> dict[str, Any]:
    """What figures depend on; no name of a host, no path."""
    name = torch.cuda.get_device_name() if device != "cpu" else _processor()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES if find_spec(name.replace("-", "_"))},
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def read(path: Path) -> Records | None:
    """The file's records; None where there is none. Raises ValueError where it is damaged."""
    try:
        data = json.loads(path.read_text("utf-8"))
        return Records(data["machine"], [Record(**each) for each in data["records"]])
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no results of optdsl bench: {error}") from None


def write(path: Path, records: Records) -> None:
    """Replaces the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: Sequence[str] = [json.dumps(asdict(each)) for each in records.records]
    body = ",\n  ".join(lines)
    text = f'{{"machine": {json.dumps(records.machine)},\n "records": [\n  {body}\n ]}}\n'
    replace_file(path, text)
