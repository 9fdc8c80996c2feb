"""What a generated module says of itself: data, host functions, and the tables of a step.

Input: written by codegen, as a literal in the generated module. Relies on: nothing but the
standard library. Does not do: the step (engine.py), any target's call (cpu/, triton/).

Tables of a class (a variant x device x dtypes x alignment), int64 unless said otherwise:

    pointers  [tensors, K+C] address of each of the variant's buffers, in the order of
                             `Variant.buffers`, of a plane that of its state; then, in the order
                             of `Variant.stored`, of what lies beside a buffer's elements (see
                             storage/), 0 where nothing does; in one column more, where kernels
                             draw, what from (randomness.stream)
    shapes    [tensors, 8]   numel, rows, cols, batch, scalar row, offset of the tensor's TENSOR
                             results, of its GROUP results, of its MATRIX and COL results
    tasks     [tasks, 4]     tensor, lo, hi, offset into partials
                             (lo, hi: elements of the pass's domain; rows in layout "rows". There
                             and in ROW and COL domains a task never crosses from one matrix of a
                             batch to the next)
    scalars   [rows, S]      float64, one row per distinct (group, t, attributes, ...)
    partials  flat float64   per task, one number per reduction of the pass, in its order; a COL
                             reduction has `cols` of them
    results   flat float64   of finished reductions. The k-th slot of a domain, in the order of
                             `Program.slots`, stands at
                                 ALL     k
                                 GROUP   shape[6] + k
                                 TENSOR  shape[5] + k
                                 MATRIX  shape[7] + k * batch + b
                                 COL     shape[7] + M * batch + (k * batch + b) * cols + c
                             (M: the number of MATRIX slots; in a GROUP or ALL pass numel, rows,
                             cols and batch are 1, and TENSOR, MATRIX and COL results are not read)
    finish    [n, 6]         op (0 sum, 1 max, 2 min), source, stride, count, target, width:
                             results[target + j] = op over i < count of
                             source[source + i * stride + j], for j < width; the source is
                             `partials` in the first level and `results` in the second (over =
                             group | all)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

TABLE_VERSION = 3
"""Changes with the layout of the tables; generated code and runtime must agree."""

EVALUATIONS = ("loss_at", "grad_at")
"""What is asked of the model."""
STORAGES = ("float32", "bf16", "fp16", "param", "fp8", "int8", "int4")
"""What a state may be stored as, by the names of the language; storage/ knows how."""


@dataclass(frozen=True)
class State:
    """`shape` holds the texts of its dimensions, () for one number; `domain` as in a plan.
    `storage` is what the rule says: compute, param, float32, bf16, ...; `fill` says that
    `Program.fill` gives its first value, else the variant in which `first(name)` holds writes it;
    `nonnegative` that it never is below zero."""

    name: str
    key: str
    domain: str
    shape: tuple[int | str, ...]
    storage: str
    fill: bool
    birth: str
    nonnegative: bool = False


@dataclass(frozen=True)
class Input:
    """What the caller supplies with a step. `shape` as for a state, with named axes first; `over`
    is "", "group" or "all". A number of the host has the domain "host", and is an int, a real or a
    bool, as `number` says."""

    name: str
    domain: str
    shape: tuple[int | str, ...]
    over: str = ""
    number: str = ""


@dataclass(frozen=True)
class Temp:
    """Memory that lives within a step. `shape` as for a state."""

    name: str
    domain: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Reduction:
    """`op` is sum, max_of or min_of; `domain` that of the result."""

    slot: str
    op: str
    domain: str


@dataclass(frozen=True)
class Kernel:
    """`name` is that of the C function and of the Triton kernel; `draws` is how many random
    numbers it draws for each element."""

    stage: int
    name: str
    domain: str
    layout: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    reductions: tuple[Reduction, ...] = ()
    draws: int = 0


@dataclass(frozen=True)
class Library:
    """`function(inputs, scalars, results, sizes)` gives the outputs, batched: see library.py.
    Where it draws random numbers it takes `draw` besides. Where loops in it ask something of all
    parameters, `asks` names what, and the function is a generator (lockstep.py). `alone` says that
    each parameter runs it by itself, since a loop ends when that parameter is done, `products` that
    matrix products decide what it costs and nothing in it keeps it from being done in 16 bits."""

    stage: int
    name: str
    function: Callable[..., tuple[Any, ...]]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    draws: bool = False
    alone: bool = False
    asks: tuple[str, ...] = ()
    products: bool = False


@dataclass(frozen=True)
class Prologue:
    """What works out a variant's scalar rows on the device, where t is. `kernel` names the Triton
    kernel; `inputs(h, e)` gives the numbers it reads; `hypers` says which of them are
    hyperparameters: (position, name, which items of a tuple)."""

    kernel: str
    inputs: Callable[[Any, Any], tuple[float, ...]]
    hypers: tuple[tuple[int, str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Evaluation:
    """One of the model, behind everything else of `stage` (-1: the caller's own), with each
    parameter at the values of the buffer `point` (None: where it is). `op` is loss_at or grad_at;
    what it gives is written to the temp `slot`."""

    stage: int
    op: str
    slot: str
    point: str | None


@dataclass(frozen=True)
class Join:
    """A reduction over parameters behind everything else of `stage`: `op` as for a reduction, over
    the temp `part` of each of the group's or of all, as `over` says; what it gives is written to
    the temp `slot` of each. Of kth_of, the `k`-th smallest of all elements, k may be a size."""

    stage: int
    op: str
    slot: str
    part: str
    over: str
    k: int | str | None = None


@dataclass(frozen=True)
class Plane:
    """The buffer `name` is an entry of the first axis of `state`: that whose number stands in the
    scalar row at `scalar`, or where that is None `entry`. Where `known`, there always is one."""

    name: str
    state: str
    entry: int
    scalar: int | None
    known: bool

    def of(self, row: Sequence[float]) -> float:
        """The number of the entry, by the scalar row."""
        return self.entry if self.scalar is None else row[self.scalar]


@dataclass(frozen=True)
class Variant:
    """`scalars(h, e)` gives the scalar row of a group `h` and an environment `e`. One of its
    numbers is `e.g_scale`, by which kernels multiply each gradient that they load. `stored` names
    the buffers whose storage a class may choose: p and the states of its size. Rows are those of a
    parameter's matrix view, or where `blocks` gives a size so many consecutive elements each.
    `planes` are the buffers that are a part of a state, whose address stands in their columns."""

    buffers: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    libraries: tuple[Library, ...]
    scalars: Callable[[Any, Any], tuple[float, ...]]
    states: tuple[str, ...]
    temps: tuple[Temp, ...] = ()
    models: tuple[Evaluation, ...] = ()
    joins: tuple[Join, ...] = ()
    stored: tuple[str, ...] = ()
    prologue: Prologue | None = None
    blocks: int | str | None = None
    planes: tuple[Plane, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether kernels draw random numbers."""
        return any(each.draws > 0 for each in self.kernels)

    @property
    def evaluates(self) -> bool:
        """Whether it needs the model."""
        asked = {op for library in self.libraries for op in library.asks}
        return bool(self.models) or not asked.isdisjoint(EVALUATIONS)


def always(name: str, h: Any, e: Any) -> bool:
    """No two states have one key."""
    return True


def unchanged(h: Any, e: Any) -> dict[str, float]:
    """Nothing is kept on the host."""
    return {}


@dataclass(frozen=True)
class Program:
    """A compiled rule. `decide(h, e)` gives the index of the variant that runs now; `check(h)`
    raises ValueError where a `require` fails; `fill(name, h, e)` is a state's first value;
    `belongs(name, h, e)` tells which of several states with one key a parameter can have.
    `host_states` are numbers of a group, (name, key in its entry); `advance(h, e)` gives those that
    a step changes.

    `reads` names what host functions read of `e` besides h: some of t, steps, rows, cols, short,
    long, numel, ndim, batch, name, first, attributes; parameters that differ in one of them have
    scalar rows of their own. `slots` gives the result layout: (slot, domain) of every reduction
    that crosses a stage. `reports` are numbers to be read after a step, each in the temp
    `report_NAME`. `hosted` says for which statements, if any, the host must know t in each
    step; then no variant has a prologue. `coupled` says which statements, if any, need more than
    one parameter and its gradient. `unpaired` names one, if any, that makes no sense of a complex
    parameter as pairs of reals.
    """

    name: str
    version: int
    view: str
    hypers: tuple[tuple[str, Any], ...]
    static_hypers: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]
    inputs: tuple[Input, ...]
    states: tuple[State, ...]
    slots: tuple[tuple[str, str], ...]
    reads: frozenset[str]
    variants: tuple[Variant, ...]
    decide: Callable[[Any, Any], int]
    check: Callable[[Any], None]
    fill: Callable[[str, Any, Any], float]
    dims: Callable[[Any, Any], dict[str, int]]
    reads_gradient: bool = True
    belongs: Callable[[str, Any, Any], bool] = always
    hosted: tuple[str, ...] = ()
    coupled: tuple[str, ...] = ()
    unpaired: str = ""
    whole: str = ""
    host_states: tuple[tuple[str, str], ...] = ()
    advance: Callable[[Any, Any], dict[str, float]] = unchanged
    reports: tuple[str, ...] = ()
    c_source: str = ""
    triton_source: str = ""
    source_hash: str = ""

    def entries(self) -> tuple[str, ...]:
        """The entries of a group that host functions read as numbers."""
        kept = (key for _, key in self.host_states)
        return (*(name for name, _ in self.hypers), *kept)

    @cached_property
    def tests_entries(self) -> bool:
        """Whether a step may go to an entry of a state that there is not."""
        return any(not plane.known for variant in self.variants for plane in variant.planes)

    @property
    def needs_own_evaluation(self) -> bool:
        """Whether a closure is run with the parameters as they are, before the step: always, but
        for rules that evaluate the model elsewhere and read neither its gradient nor loss(p)."""
        models = [each for variant in self.variants for each in variant.models]
        own = any(each.op == "loss_at" and each.point is None for each in models)
        evaluates = any(variant.evaluates for variant in self.variants)
        return not evaluates or self.reads_gradient or own


def require(holds: bool, text: str, **given: Any) -> None:
    """Raises ValueError, with the hyperparameters `given`, unless `holds`; NaN holds nothing."""
    if not holds:
        shown = ", ".join(f"{name} = {value!r}" for name, value in given.items())
        raise ValueError(f"{text}; got {shown}")
