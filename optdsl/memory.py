"""How much memory a rule needs for a model, counted from the shapes of its parameters.

Input: a typed rule, shapes by parameter name, what the user chose. Output: a `Memory`: bytes of
the parameters, the gradients and each state.

Relies on: the runtime for what a state's tensors are (its shape, its storage, which parameters are
too small for blocks); hosteval for `when` and sizes. Does not do: allocate anything, or count what
lives within a step (buffers between passes, what an allocator rounds up).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from optdsl.hosteval import Facts, host_number
from optdsl.ir.nodes import Rule, StateDecl, Value, reachable
from optdsl.runtime.parameters.cohorts import Member, matrix_view
from optdsl.runtime.parameters.state import state_shape
from optdsl.runtime.program import State
from optdsl.runtime.storage.choice import Choice, choose
from optdsl.schedule.plan import Domain, domain_of

DTYPES = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "float64": torch.float64,
}
STATIC_LEAVES = frozenset(
    ("const", "hyper", "attribute", "size", "name_matches", "lead_size", "workers", "rank")
)
"""What a condition reads that is decided when a parameter is added."""


@dataclass(frozen=True)
class StateMemory:
    """A state of all parameters that have it. `stored` counts them by how it is kept."""

    key: str
    stored: Mapping[str, int]
    numbers: int
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes of a model's parameters, of their gradients (as many), and of each state."""

    rule: str
    dtype: str
    tensors: int
    numbers: int
    parameter_bytes: int
    states: tuple[StateMemory, ...]

    @property
    def state_bytes(self) -> int:
        return sum(each.bytes for each in self.states)

    @property
    def total(self) -> int:
        """Parameters, gradients and states."""
        return 2 * self.parameter_bytes + self.state_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "rule": self.rule,
            "dtype": self.dtype,
            "tensors": self.tensors,
            "numbers": self.numbers,
            "parameter_bytes": self.parameter_bytes,
            "gradient_bytes": self.parameter_bytes,
            "state_bytes": self.state_bytes,
            "total_bytes": self.total,
            "states": {
                each.key: {
                    "bytes": each.bytes,
                    "numbers": each.numbers,
                    "tensors": sum(each.stored.values()),
                    "stored": dict(each.stored),
                }
                for each in self.states
            },
        }


def count_memory(
    rule: Rule,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str = "float32",
    storage: str | Mapping[str, str] | None = None,
    hypers: Mapping[str, Any] | None = None,
    attributes: Iterable[tuple[str, str, Any]] = (),
) -> Memory:
    """The memory of `rule` for parameters of `shapes` and `dtype`, one of DTYPES.

    `storage` is what the class of the rule takes under that name, `hypers` are hyperparameters that
    differ from their defaults, and `attributes` are of the form (pattern, name, value): the
    parameters in whose names `pattern` is found have that value. A state that is declared on some
    steps only is counted as there. Raises ValueError for a storage, a state, a hyperparameter or
    an attribute that there is not, and for a setting of the wrong kind.
    """
    settings = {each.name: each.default for each in rule.hypers}
    known = {each.name: each.default for each in rule.attributes}
    attributes = tuple(attributes)
    for name, value in (hypers or {}).items():
        _check_setting(rule, "hyperparameter", name, value, settings)
    for _, name, value in attributes:
        _check_setting(rule, "attribute", name, value, known)
    settings |= hypers or {}
    states = _States(rule.name, tuple(_state(rule, each) for each in rule.states))
    counter = _Counter(rule, settings, attributes, states, choose(states, storage, ()))
    numbers = sum(math.prod(shape) for shape in shapes.values())
    return Memory(
        rule.name,
        dtype,
        len(shapes),
        numbers,
        numbers * DTYPES[dtype].itemsize,
        tuple(counter.count(shapes, DTYPES[dtype])),
    )


def _check_setting(
    rule: Rule, kind: str, name: str, value: object, known: Mapping[str, object]
) -> None:
    if name not in known:
        has = ", ".join(known) or "none"
        raise ValueError(f"{rule.name} has no {kind} {name!r}; it has {has}")
    if _kind(value) != _kind(known[name]) and known[name] is not None:
        raise ValueError(f"{rule.name}: {name} = {value!r} is not like its default {known[name]!r}")


def _kind(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_kind, value))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "number" if is_number else type(value)


def _state(rule: Rule, state: StateDecl) -> State:
    domain = str(domain_of(state.type, rule.view))
    dims = state.type.shape.dims if domain == Domain.SHAPED else ()
    return State(
        state.name, state.key, domain, dims, str(state.storage), fill=False, birth=state.birth
    )


@dataclass(frozen=True)
class _States:
    name: str
    states: tuple[State, ...]


@dataclass
class _Counter:
    rule: Rule
    hypers: Mapping[str, Any]
    attributes: tuple[tuple[str, str, Any], ...]
    states: _States
    choice: Choice

    def count(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> Iterator[StateMemory]:
        """Each state that is there, in the order of the rule; several of one key are one."""
        stored: dict[str, Counter[str]] = {each.key: Counter() for each in self.rule.states}
        numbers, total = Counter[str](), Counter[str]()
        shared: set[str] = set()
        declared = {each.name: each for each in self.states.states}
        for index, (name, shape) in enumerate(shapes.items()):
            member = self._member(index, name, shape, dtype)
            facts = self._facts(member)
            for decl in self._present(facts):
                state = declared[decl.name]
                if state.domain in (Domain.GROUP, Domain.ALL):
                    if decl.name in shared:
                        continue
                    shared.add(decl.name)
                own = state_shape(state, member.p, self.rule.view, self._sizes(state, facts))
                codec = self.choice.of_state(state, member)
                stored[decl.key][codec.name] += 1
                numbers[decl.key] += math.prod(own)
                total[decl.key] += sum(
                    math.prod(part.shape) * part.dtype.itemsize for part in codec.layout(own)
                )
        for key, counts in stored.items():
            if counts:
                yield StateMemory(key, counts, numbers[key], total[key])

    def _member(self, index: int, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Member:
        p = torch.empty(shape, dtype=dtype, device="meta")
        attributes = {each.name: each.default for each in self.rule.attributes}
        attributes |= {
            key: value for where, key, value in self.attributes if re.search(where, name)
        }
        sizes = matrix_view(shape, self.rule.view)
        return Member(p, p, index, 0, index, name, attributes, sizes)

    def _facts(self, member: Member) -> Facts:
        sizes = member.sizes
        return Facts(
            self.hypers,
            member.attributes,
            (sizes.rows, sizes.cols),
            name=member.name or "",
            ndim=sizes.ndim,
            batch=sizes.batch,
            axes=tuple(member.p.shape),
        )

    def _present(self, facts: Facts) -> Iterator[StateDecl]:
        for state in self.rule.states:
            decided = [(value, side) for value, side in state.scope if is_static(value)]
            if all(bool(host_number(value, facts)) is side for value, side in decided):
                yield state

    def _sizes(self, state: State, facts: Facts) -> dict[str, int]:
        texts: Iterable[str] = (each for each in state.shape if isinstance(each, str))
        dims = self.rule.dims
        worked = {each: int(host_number(dims[each], facts)) for each in texts if each in dims}
        return {**facts.sizes, **worked}


def is_static(condition: Value) -> bool:
    """Whether it is decided when a parameter is added, and not by the step."""
    return all(each.args or each.op in STATIC_LEAVES for each in reachable([condition]))
