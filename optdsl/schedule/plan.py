"""The plan: ordered passes over memory, for each straight-line variant of a rule.

A variant is the rule with every host condition decided; `Decision` chooses one on the host.
A step runs the passes of all classes of parameters stage by stage: a pass of stage k sees what
all passes of the stages before it, of every variant, have written and reduced.

Values in passes are those of `ir.nodes` over four plan leaves: `load` (an element of a buffer),
`scalar` (a number from this step's scalar table), `result` (a finished reduction) and
`row_result` (a row reduction that an earlier phase closed), besides `const` and `size`.

Domains, and what indexes a buffer of that domain (`view last` makes `batch` matrices of one
parameter; R is a row of all of them, b = R // rows):

    FULL    R * cols + c        ROW     R               COL   b * cols + c
    MATRIX  b                   TENSOR  one a parameter GROUP one a group     ALL  one a run
    SHAPED  anything else: seen by library passes alone

Does not do: text of any target.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from optdsl.ir.coupling import EVALUATIONS, couples
from optdsl.ir.fold import host_text, is_const
from optdsl.ir.nodes import Rule, Value, reachable
from optdsl.types import BATCH, Dim, DType, Instances, Storage, Type


class Domain(StrEnum):
    FULL = "full"
    ROW = "row"
    COL = "col"
    MATRIX = "matrix"
    TENSOR = "tensor"
    GROUP = "group"
    ALL = "all"
    SHAPED = "shaped"


@cache
def domain_of(type: Type, view: str) -> Domain:
    """Where a device value of `type` lives. `view` is the rule's view of p."""
    if type.instances < Instances.PARAM:
        shared = Domain.ALL if type.instances <= Instances.RUN else Domain.GROUP
        return shared if type.shape.is_scalar else Domain.SHAPED
    shape = type.shape
    if shape.is_scalar:
        return Domain.TENSOR
    if shape.lead != ((BATCH,) if view == "last" else ()):
        return Domain.SHAPED
    full = ("numel", 1) if view == "flat" else ("rows", "cols")
    domains: dict[tuple[Dim, Dim], Domain] = {
        full: Domain.FULL,
        (full[0], 1): Domain.ROW if view != "flat" else Domain.FULL,
        (1, full[1]): Domain.COL if view != "flat" else Domain.TENSOR,
        (1, 1): Domain.MATRIX,
    }
    return domains.get((shape.rows, shape.cols), Domain.SHAPED)


def is_gradient(value: Value) -> bool:
    """Whether `value` is the gradient as the rule sees it: what lies in memory, times `g_scale`."""
    return (
        value.op == "mul"
        and value.name == "g"
        and [arg.op for arg in value.args] == ["load", "scalar"]
        and value.args[0].attr("buffer") == "g"
    )


def are_apart(one: Value, other: Value) -> bool:
    """Whether two numbers of entries of a state are known to be different ones."""
    return is_const(one) and is_const(other) and one.attr("value") != other.attr("value")


COUNTING = frozenset({"add", "sub", "mul", "neg", "const", "t", "steps"})


def is_known(number: Value, size: Dim) -> bool:
    """Whether an axis of `size` has an entry of that number in every step: that of a literal, or
    what counts steps, modulo no more than there are."""
    if not isinstance(size, int):
        return False
    if is_const(number):
        return 0 <= int(number.attr("value")) < size
    if number.op != "mod" or not is_const(number.args[1]):
        return False
    counts = reachable(number.args[:1])
    whole = all(v.op in COUNTING and v.type.dtype is DType.INT for v in counts)
    return whole and 0 < number.args[1].attr("value") <= size


@dataclass(frozen=True)
class Entry:
    """Which entry of the first axis of `state`, by its `number`: a literal, or what stands in the
    scalar table at `scalar`."""

    state: str
    number: Value
    scalar: int | None

    @property
    def text(self) -> str:
        """As a rule writes it."""
        return f"{self.state}[{host_text(self.number)}]"


@dataclass(frozen=True)
class Buffer:
    """Memory of a parameter. `role` is param, grad, state, plane, input or temp. A temp that a
    library pass reads or writes lies in a batch of its shape. A plane is a part of a state, its
    `entry`. `storage` is how an element is stored."""

    name: str
    role: str
    domain: Domain
    storage: Storage
    shape: tuple[int | str, ...] = ()
    entry: Entry | None = None

    @property
    def text(self) -> str:
        """Its name, of a plane as a rule writes it."""
        return self.entry.text if self.entry else self.name


@dataclass(frozen=True)
class Store:
    """`value` is written to `buffer`, rounded to its storage."""

    buffer: str
    value: Value


@dataclass(frozen=True)
class Reduction:
    """`op` (sum, max_of, min_of) over `value`, for each element of `domain`; read back as
    `result` with this slot, in later stages, or as `row_result`, in later phases, where domain
    is ROW and the value is FULL."""

    slot: str
    op: str
    value: Value
    domain: Domain


@dataclass(frozen=True)
class Phase:
    """One visit of a tile. `rows` close at the end of each row, before the next phase."""

    rows: tuple[Reduction, ...] = ()
    partials: tuple[Reduction, ...] = ()
    stores: tuple[Store, ...] = ()


@dataclass(frozen=True)
class KernelPass:
    """One fused visit of all elements of `domain`. `layout` is "flat", or "rows" where the
    pass needs to know rows from columns; then a tile holds whole rows and has all `phases`."""

    stage: int
    name: str
    domain: Domain
    layout: str
    phases: tuple[Phase, ...]

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """Those that leave partials, in the order of their columns in the partial table."""
        return tuple(each for phase in self.phases for each in phase.partials)

    @property
    def stores(self) -> tuple[Store, ...]:
        return tuple(each for phase in self.phases for each in phase.stores)

    @property
    def draws(self) -> int:
        """How many random numbers it draws for each element."""
        return sum(value.op == "draw_key" for value in reachable(self.roots))

    @property
    def roots(self) -> list[Value]:
        """All that it works out."""
        reduced = [each.value for p in self.phases for each in (*p.rows, *p.partials)]
        return [*(each.value for each in self.stores), *reduced]


@dataclass(frozen=True)
class LibraryPass:
    """Matrix work through torch's batched routines: `outputs` computed from buffers, results and
    scalars, for all parameters of one shape together."""

    stage: int
    name: str
    outputs: tuple[Store, ...]

    @property
    def asks(self) -> tuple[str, ...]:
        """The ops by which loops in it tie parameters together: then all of them run it in
        lockstep."""
        values = reachable(each.value for each in self.outputs)
        return tuple(sorted({value.op for value in values if couples(value)}))

    @property
    def alone(self) -> bool:
        """Whether each parameter runs it by itself, since a number of its own decides how often."""
        loops = [v for v in reachable(each.value for each in self.outputs) if v.op == "loop"]
        deciding = (each for loop in loops for each in (loop.args[0], loop.attr("body").until))
        own = (v for v in deciding if v is not None and v.type.on_device)
        return any(value.type.instances is Instances.PARAM for value in own)


@dataclass(frozen=True)
class ModelPass:
    """An evaluation of the model behind everything else of `stage`, with each parameter of the
    variant at what lies in the buffer `point` (None: where it is). `op` is loss_at or grad_at; what
    it gives lies in the temp `slot`. One with stage -1 is the caller's own."""

    stage: int
    op: str
    slot: str
    point: str | None


@dataclass(frozen=True)
class Join:
    """A reduction over parameters whose result has axes of its own, behind everything else of
    `stage`: `op` (sum, max_of, min_of) over what lies in the buffer `part` of each parameter of all
    or of the group, as `over` says, or the `k`-th smallest (kth_of) of all elements there. Every
    parameter finds it in the temp `slot`."""

    stage: int
    op: str
    slot: str
    part: str
    over: str
    k: Dim | None = None


Pass = KernelPass | LibraryPass


@dataclass(frozen=True)
class Variant:
    """The passes of one straight-line variant, by stage. Its rows are those of p's matrix view, or
    where `blocks` says so so many consecutive elements each. `scalars` are the host values of its
    scalar table, in order; `states` those that exist when it runs. `notes` say why a pass
    boundary stands."""

    index: int
    path: tuple[tuple[Value, bool], ...]
    buffers: tuple[Buffer, ...]
    passes: tuple[Pass, ...]
    scalars: tuple[Value, ...]
    states: tuple[str, ...]
    models: tuple[ModelPass, ...] = ()
    joins: tuple[Join, ...] = ()
    notes: tuple[str, ...] = ()
    blocks: Dim | None = None

    @property
    def planes(self) -> list[tuple[str, Entry]]:
        """The buffers that are entries of states."""
        return [(each.name, each.entry) for each in self.buffers if each.entry is not None]

    def overlapping(self, kernel: KernelPass) -> frozenset[str]:
        """The planes that `kernel` touches which may lie where another one does, one of which it
        writes: whatever it reads of an element, it reads before."""
        written = {each.buffer for each in kernel.stores}
        loads = {v.attr("buffer") for v in reachable(kernel.roots) if v.op == "load"}
        planes = [(name, entry) for name, entry in self.planes if name in written | loads]
        return frozenset(
            one
            for one, its in planes
            for other, entry in planes
            if one != other and its.state == entry.state
            if not are_apart(its.number, entry.number) and not written.isdisjoint((one, other))
        )

    @property
    def evaluates(self) -> bool:
        """Whether the model is evaluated."""
        libraries = (each for each in self.passes if isinstance(each, LibraryPass))
        return bool(self.models) or any(EVALUATIONS & {*each.asks} for each in libraries)

    @property
    def draws(self) -> bool:
        """Whether kernels draw, from what the table of pointers then has of each parameter."""
        return any(isinstance(each, KernelPass) and each.draws > 0 for each in self.passes)

    @property
    def stream(self) -> int:
        """The column of the table of pointers that kernels draw from, where they draw: behind
        those of the buffers and of what lies beside them."""
        return len(self.buffers) + len(self.stored)

    @property
    def columns(self) -> int:
        """How many the table of pointers has."""
        return self.stream + self.draws

    @property
    def stored(self) -> tuple[str, ...]:
        """The buffers of which a step decides how they lie in memory: p and states of its size."""
        return tuple(
            each.name
            for each in self.buffers
            if each.role == "param" or (each.role == "state" and each.domain is Domain.FULL)
        )


@dataclass(frozen=True)
class Decision:
    """A host condition; each side is a decision or the index of a variant."""

    condition: Value
    then: Decision | int
    otherwise: Decision | int


@dataclass
class Plan:
    """`slots` gives the result domain of each reduction that crosses a stage."""

    rule: Rule
    decision: Decision | int
    variants: tuple[Variant, ...]
    slots: dict[str, Domain] = field(default_factory=dict)
