"""One step: loops, and what a step leaves of each parameter and state.

Input: a rule and the members that take part. Output: `Outcome`. Relies on: evaluate.
Does not do: write anything; round to storage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optdsl.interpreter.evaluate import Evaluation, Turn
from optdsl.interpreter.members import Closure, Member, Outcome, Update
from optdsl.ir.coupling import changing, couples
from optdsl.ir.evaluation import evaluation_of
from optdsl.ir.nodes import LoopBody, Rule, StateDecl, Value, scope_of
from optdsl.types import Instances


def run(
    rule: Rule,
    members: Sequence[Member],
    dtype: torch.dtype = torch.float64,
    closure: Closure | None = None,
) -> Outcome:
    """One step of `rule` for `members`, all that take part, in the order of the optimizer.

    Raises ValueError where the step lacks what the rule reads: a gradient, an input, the model.
    """
    return Run(rule, list(members), dtype, closure).outcome()


def evaluate(rule: Rule, members: Sequence[Member], dtype: torch.dtype = torch.float64) -> Outcome:
    """The p that `eval` gives each of `members` between two steps, of which t was the last.

    Raises ValueError where the rule has no such value.
    """
    shown = evaluation_of(rule)
    if shown is None:
        raise ValueError(f"{rule.name} has no value for evaluation but p")
    return run(shown, members, dtype)


def first_value(rule: Rule, name: str, member: Member, dtype: torch.dtype) -> Tensor:
    """A state's value before its first step, where the host gives it."""
    return Run(rule, [member], dtype, None).initial(name, 0)


@dataclass
class Run(Evaluation):
    def outcome(self) -> Outcome:
        updates = [
            Update(
                None if self.rule.param is None else self.like(self.tensor(self.rule.param, i), i),
                {},
            )
            for i in range(len(self.members))
        ]
        shared: dict[tuple[str, int | None], Any] = {}
        for state in self.rule.states:
            reached = [i for i in range(len(self.members)) if self.holds(state.scope, i)]
            # Of a shared state's parameters, those that assign it come first.
            for i in sorted(reached, key=lambda i: not self._changes(state, i)):
                new = self._update(state, i)
                if new is None:
                    continue
                if state.type.instances is Instances.PARAM:
                    updates[i].states[state.name] = new
                else:
                    shared.setdefault((state.name, self.owner(state, i)), new)
        for i, member in enumerate(self.members):
            for name, value in self.rule.host_updates.items():
                shared.setdefault((name, member.group_index), self.get(value, i))
        reports = {}
        if self.members:
            reports = {name: self.get(value, 0) for name, value in self.rule.reports.items()}
        return Outcome(updates, shared, reports)

    def _update(self, state: StateDecl, i: int) -> Tensor | None:
        """What member i makes of a state that exists for it; None where it stays as it is."""
        if not self._changes(state, i):
            begins = state.initial is not None and self.stored(state, i) is None
            return self.initial(state.name, i) if begins else None
        new = self.tensor(self.rule.updates[state.name], i)
        new = new.expand(self.shape(state.type.shape, i))
        own = state.type.instances is Instances.PARAM
        is_like_p = own and new.shape == self.sizes(self.members[i].p)
        return self.like(new, i) if is_like_p else new.clone()

    def _changes(self, state: StateDecl, i: int) -> bool:
        """Whether member i assigns the state in this step."""
        value = self.rule.updates.get(state.name)
        while value is not None and value.op == "choose":
            value = value.args[1 if self.get(value.args[0], i) else 2]
        return value is not None and not (value.op == "state" and value.attr("name") == state.name)

    # ------------------------------------------------------------ loops

    def _op_loop_result(self, value: Value, i: int) -> Any:
        return self.get(value.args[0], i)[value.attr("index")]

    def _op_loop(self, value: Value, i: int) -> tuple[Any, ...]:
        """The carried values after the loop, for member i. Where the body couples parameters (a
        reduction over them, the model), all that execute it pass through it in lockstep, each for
        as many passes as its own."""
        loops = self._together(value, i)
        bodies: dict[int, LoopBody] = {j: each.attr("body") for j, each in loops.items()}
        inside = frozenset[Value]().union(*map(changing, loops.values()))
        left = {j: _passes(float(self.get(each.args[0], j))) for j, each in loops.items()}
        carried = {j: [self.get(arg, j) for arg in each.args[1:]] for j, each in loops.items()}
        for number in itertools.count():
            taking = frozenset(j for j in loops if left[j] > number)
            if not taking:
                break
            self.loops.append(Turn(inside, {}, taking))
            for j in taking:
                self._enter(bodies[j], carried[j], number, j)
            carried |= {j: [self.get(each, j) for each in bodies[j].results] for j in taking}
            for j in taking:
                until = bodies[j].until
                if until is not None and bool(self.get(until, j)):
                    left[j] = 0
            self.loops.pop()
        for j, each in loops.items():
            self.memo_of(each)[(each, self.key(each, j))] = tuple(carried[j])
        return tuple(carried[i])

    def _enter(self, body: LoopBody, carried: Sequence[Any], number: int, i: int) -> None:
        """What member i brings into a pass."""
        memo = self.loops[-1].memo
        for arg, each in zip(body.args, carried, strict=True):
            memo[(arg, self.key(arg, i))] = each
        if body.index is not None:
            memo[(body.index, self.key(body.index, i))] = number

    def _together(self, loop: Value, i: int) -> dict[int, Value]:
        """Who passes through the loop with member i, each with its own twin of it."""
        inside = changing(loop)
        found = {i}
        for each in filter(couples, inside):
            outer = tuple((c, side) for c, side in scope_of(each) if c not in inside)
            found.update(j for j in range(len(self.members)) if self.holds(outer, j))
        turns = [turn.members for turn in self.loops if loop in turn.inside]
        taking = (j for j in sorted(found) if all(j in each for each in turns))
        twins = ((j, self.twin(loop, j)) for j in taking)
        return {j: twin for j, twin in twins if twin is not None}


def _passes(count: float) -> int:
    """How often a loop of `count` runs: rounded down; not at all where that is no number."""
    if math.isinf(count):
        raise ValueError(f"a loop of {count} passes")
    return 0 if math.isnan(count) else math.floor(count)
