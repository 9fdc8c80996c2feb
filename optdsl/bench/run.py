"""Races: every contest on every case with every number of threads, one after another.

Input: what to race. Output: records, as each race ends. Relies on: cases, contests, clock,
roofline. Does not do: files, tables.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from optdsl.bench.cases import CASES, Case
from optdsl.bench.clock import race
from optdsl.bench.contests import CONTESTS, Contender, Contest
from optdsl.bench.records import LIMIT, Record
from optdsl.bench.roofline import roofline, shapes_of


@dataclass(frozen=True)
class Race:
    """`patient` takes contenders that compile for a minute, but for those in `without`; `backend`
    is that of ours."""

    contest: Contest
    case: Case
    threads: int
    seconds: float
    device: str = "cpu"
    patient: bool = False
    dtype: torch.dtype = torch.float32
    backend: str = "auto"
    without: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, str, int]:
        dtype = "" if self.dtype is torch.float32 else f", {str(self.dtype).removeprefix('torch.')}"
        return f"{self.contest.name}{dtype}", self.case.title, self.threads

    def run(self) -> list[Record]:
        """One record for each contender and for the limit."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self._records(self._samples())
        finally:
            torch.set_num_threads(before)

    def contenders(self) -> list[Contender]:
        everyone = self.contest.contenders(self.patient, self.backend)
        return [each for each in everyone if each.name not in self.without]

    def _samples(self) -> dict[str, list[float]]:
        params = self.case.parameters(self.dtype, self.device)
        sets = {self.dtype: params}
        pool: dict[Parameter, list[Tensor]] = {p: [] for p in params}
        steps: dict[str, Callable[[], Any]] = {}
        for contender in self.contenders():
            dtype = contender.dtype or self.dtype
            if dtype not in sets:
                sets[dtype] = self.case.parameters(dtype, self.device)
                pool |= {p: [] for p in sets[dtype]}
            optimizer, step = contender.prepare(sets[dtype])
            step()  # makes the states
            share(optimizer, {p: pool[p] for p in sets[dtype]})
            steps[contender.name] = step
        if self.case.sharded:
            pass  # of interest is the host's part alone
        elif self.device == "cpu" and not self.contest.narrow and self.dtype is torch.float32:
            buffers = [[p.detach(), _gradient(p), *pool[p]] for p in params]
            steps[LIMIT] = roofline(shapes_of(self.contest.steady()), buffers)
        elif self.device != "cpu":
            steps[LIMIT] = _copy(self.moved(), self.device)
        before = _renew(params) if self.case.fresh else None
        return race(steps, self.seconds, before, self.device, self.case.turn)

    def moved(self) -> float:
        """Bytes of a step; of 16 bits, parameters and gradients count half."""
        passes = self.contest.steady().passes
        moved = [each for one in passes for each in (*one.reads, *one.writes)]
        share = self.dtype.itemsize / 4
        total = sum(each.bytes * (share if each.name in "pg" else 1) for each in moved)
        return total * self.case.numel

    def _records(self, samples: Mapping[str, list[float]]) -> list[Record]:
        moved = self.moved()
        contest, case, threads = self.key
        return [
            Record(
                *(contest, case, threads, name),
                *(round(statistics.median(found), 5), round(min(found), 5)),
                *(len(found), moved),
            )
            for name, found in samples.items()
        ]


def _copy(moved: float, device: str) -> Callable[[], Any]:
    """A copy that reads and writes `moved` bytes in all, at most a GiB each way, repeated."""
    count = max(1, round(moved / 2))
    source = torch.empty(min(count, 2**30), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    whole, rest = divmod(count, source.numel())

    def copy() -> None:
        for _ in range(whole):
            target.copy_(source)
        target[:rest].copy_(source[:rest])

    return copy


def races(
    contests: Sequence[str],
    cases: Sequence[str],
    threads: Sequence[int],
    seconds: float,
    scale: float = 1.0,
    device: str = "cpu",
    patient: bool = False,
) -> Iterator[Race]:
    """All that there is to race; a contest takes part in its own cases."""
    for name in contests:
        contest = CONTESTS[name]
        for key in cases:
            if key in contest.cases:
                case = CASES[key].matrices() if contest.matrices else CASES[key]
                for count in threads:
                    dtype = contest.dtype or torch.float32
                    yield Race(contest, case.scaled(scale), count, seconds, device, patient, dtype)


def share(optimizer: torch.optim.Optimizer, pool: Mapping[Parameter, list[Tensor]]) -> None:
    """Puts the k-th full-size state of every parameter where others have theirs; `pool` grows
    where this optimizer has more."""
    for p, known in pool.items():
        state = optimizer.state[p]
        keys = [key for key, value in state.items() if _is_full(value, p)]
        for index, key in enumerate(keys):
            if index < len(known):
                state[key] = known[index]
            else:
                known.append(state[key])


def _is_full(value: object, p: Parameter) -> bool:
    return isinstance(value, Tensor) and value.shape == p.shape and value.dtype is p.dtype


def _gradient(p: Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


def _renew(params: Sequence[Parameter]) -> Callable[[], None]:
    """Gradients at other places than in the last step, in turn from two sets."""
    sets = [[_gradient(p).clone() for p in params] for _ in range(2)]

    def renew() -> None:
        sets.reverse()
        for p, gradient in zip(params, sets[0], strict=True):
            p.grad = gradient.detach()  # a new object, as backward makes one

    return renew
