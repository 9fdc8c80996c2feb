"""split_variants: one straight-line rule for each way its host conditions can fall.

Input: a typed rule. Output: a decision tree and its leaves, values without `choose`, in which each
reduction over parameters is a `result` leaf of a slot that all variants share. What ties parameters
together in a loop stays there, with a `rank` by which the variants find each other's; a condition
that changes from pass to pass becomes a `where`.
Relies on: conditions being host values. Does not do: evaluate any condition (the host does, each
step), simplify.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from optdsl.diagnostics import CompileError, Diagnostic, Label
from optdsl.ir.coupling import EVALUATIONS, changing, couples, in_loops
from optdsl.ir.fold import is_const
from optdsl.ir.nodes import LoopBody, Rule, StateDecl, Value, operands, reachable, scope_of
from optdsl.ir.rewrite import rebuild
from optdsl.ops import OPS, Kind
from optdsl.types import Dim

MOST = 256
"""Variants of one rule. Each costs a kernel that may never run; a rule with more is refused."""


STATISTICS = frozenset({"kth_of"})
"""Reductions over parameters that no kernel has a part in."""


@dataclass
class Straight:
    """One variant. `contributions` are the operands of the shared reductions, and the points of the
    evaluations of the model, that its parameters take part in, by slot, with the op. Where rows are
    blocks of consecutive elements, `blocks` are their number and length, and `twin_of` the variant
    that computes the same with the library (see lay_blocks.py). `planes` are entries of states that
    its values have for states of their own."""

    path: tuple[tuple[Value, bool], ...]
    outputs: dict[str, Value]
    contributions: dict[str, tuple[str, Value]]
    blocks: tuple[Dim, Dim] | None = None
    twin_of: int | None = None
    planes: tuple[StateDecl, ...] = ()


@dataclass(frozen=True)
class Branch:
    condition: Value
    then: Branch | int
    otherwise: Branch | int


@dataclass
class Split:
    tree: Branch | int
    variants: list[Straight]
    sites: dict[str, Value] = field(default_factory=dict)


class _Need(Exception):
    def __init__(self, condition: Value) -> None:
        self.condition = condition


Known = dict[Value, bool]


def split_variants(rule: Rule, prefix: str = "") -> Split:
    """All variants of `rule`; names of slots begin with `prefix`. Raises CompileError (E510) where
    there are too many."""
    outputs = dict(rule.outputs())
    sites = _sites(list(outputs.values()), prefix)
    looping = in_loops(outputs.values())
    turning = {v: rank for rank, v in enumerate(sorted(filter(couples, looping), key=_age))}
    split = Split(0, [], {slot: site for site, slot in sites.items()})
    split.tree = _grow(Splitting(rule, outputs, sites, looping, turning), {}, split)
    return split


def _sites(roots: list[Value], prefix: str) -> dict[Value, str]:
    """A slot name for each reduction over parameters and each evaluation of the model, but for
    those that each pass of a loop makes anew."""
    names: dict[Value, str] = {}
    looping = in_loops(roots)
    for value in reachable(roots):
        if value in looping:
            continue
        coupled = OPS[value.op].kind is Kind.REDUCE and value.attr("over") is not None
        if coupled or value.op in EVALUATIONS:
            base = f"{value.op.removesuffix('_of')}_{value.attr('over')}" if coupled else value.op
            base = prefix + base
            taken, name, count = set(names.values()), base, 2
            while name in taken:
                name, count = f"{base}{count}", count + 1
            names[value] = name
    return names


def _age(value: Value) -> int:
    return value.id


@dataclass(frozen=True)
class Splitting:
    """What all variants of `rule` have in common: its outputs, the slots of its sites, what is
    `looping`, and the rank of what ties parameters together there."""

    rule: Rule
    outputs: dict[str, Value]
    sites: dict[Value, str]
    looping: set[Value]
    ranks: dict[Value, int]


def _grow(given: Splitting, known: Known, split: Split) -> Branch | int:
    rule = given.rule
    try:
        straight = _resolve_all(given, known)
    except _Need as need:
        then = _grow(given, {**known, need.condition: True}, split)
        otherwise = _grow(given, {**known, need.condition: False}, split)
        return then if then == otherwise else Branch(need.condition, then, otherwise)
    for index, other in enumerate(split.variants):
        if other.outputs == straight.outputs and other.contributions == straight.contributions:
            return index
    if len(split.variants) == MOST:
        label = Label(next(s for s in (v.span for v in known) if s is not None))
        raise CompileError(
            [
                Diagnostic(
                    "E510",
                    f"`{rule.name}` has more than {MOST} variants",
                    (label,),
                    "make some conditions `where` on tensors, or split the rule",
                )
            ]
        )
    split.variants.append(straight)
    return len(split.variants) - 1


def _resolve_all(given: Splitting, known: Known) -> Straight:
    rule, done = given.rule, dict[Value, Value]()
    resolved = {name: _resolve(given, value, known, done) for name, value in given.outputs.items()}
    contributions = {}
    for site, slot in given.sites.items():
        if all(decide(condition, known) is side for condition, side in scope_of(site)):
            operand = _resolve(given, site.args[0], known, done)
            attributes = {**dict(site.attrs), "scope": ()}
            plain = rule.builder.make(site.op, (operand,), site.type, site.span, **attributes)
            contributions[slot] = (site.op, plain)
    changed = {name: value for name, value in resolved.items() if not _kept(name, value)}
    return Straight(tuple(known.items()), changed, contributions)


def _kept(name: str, value: Value) -> bool:
    """Whether an output is what it was before the step."""
    if name == "p":
        return value.op == "param"
    return value.op == "state" and value.attr("name") == name


def _resolve(given: Splitting, root: Value, known: Known, done: dict[Value, Value]) -> Value:
    """`root` with every `choose` decided, without visiting the sides not taken."""
    rule, sites = given.rule, given.sites
    stack = [root]
    while stack:
        value = stack[-1]
        if value in done:
            stack.pop()
            continue
        if value in sites:
            leaf = "evaluated" if value.op in EVALUATIONS | STATISTICS else "result"
            done[value] = rule.builder.make(leaf, (), value.type, value.span, slot=sites[value])
            done[value].name = done[value].name or value.name
            continue
        if value.op == "choose" and value.args[0] not in given.looping:
            taken = value.args[1 if decide(value.args[0], known) else 2]
            if taken in done:
                done[value] = done[taken]
            else:
                stack.append(taken)
            continue
        missing = [arg for arg in operands(value) if arg not in done]
        if missing:
            stack.extend(reversed(missing))
            continue
        done[value] = _rebuilt(given, value, done)
    return done[root]


def _rebuilt(given: Splitting, value: Value, done: dict[Value, Value]) -> Value:
    rule, args = given.rule, tuple(done[arg] for arg in value.args)
    if value.op == "choose":
        return rule.builder.make("where", args, value.type, value.span)
    if value in given.ranks:
        ranked = {**dict(value.attrs), "rank": given.ranks[value]}
        return rule.builder.make(value.op, args, value.type, value.span, **ranked)
    if value.op != "loop":
        return rebuild(rule.builder, value, args)
    body: LoopBody = value.attr("body")
    results = tuple(done[each] for each in body.results)
    until = None if body.until is None else done[body.until]
    if args == value.args and results == body.results and until is body.until:
        return value
    rank = min((given.ranks[each] for each in changing(value) & given.ranks.keys()), default=None)
    info = replace(body, results=results, until=until, rank=rank)
    return rule.builder.make("loop", args, value.type, value.span, body=info)


def decide(condition: Value, known: Known) -> bool:
    """The condition under what is known. Raises _Need with a part that is not."""
    if is_const(condition):
        return bool(condition.attr("value"))
    if condition in known:
        return known[condition]
    if condition.op == "not":
        return not decide(condition.args[0], known)
    if condition.op in ("and", "or"):
        short = condition.op == "or"
        first = decide(condition.args[0], known)
        return first if first is short else decide(condition.args[1], known)
    if condition.op == "eq" and _excluded(condition, known):
        return False
    raise _Need(condition)


def _excluded(condition: Value, known: Known) -> bool:
    """x == a is false where x == b is known to hold for another literal b."""
    subject, literal = condition.args
    return is_const(literal) and any(
        holds
        and other.op == "eq"
        and other.args[0] is subject
        and is_const(other.args[1])
        and other.args[1].attr("value") != literal.attr("value")
        for other, holds in known.items()
    )
