"""make_plan: from a typed rule to the passes of every variant.

    split_variants   one straight-line rule for each way the host conditions fall
    lay_blocks       blocks of consecutive elements as rows, where they divide a parameter
    add_evaluation   the value for evaluation as variants of their own
    lay_planes       entries of a state that the host knows by number as states of p's size
    one_update       p's updates as one subtraction, rounded once
    pull_factors     sums freed of the factors that they need not wait for
    hoist_scalars    products with host numbers gathered
    find_levels      the stage at which each value can be computed
    choose_passes    when each write and reduction happens, what is stored: by bytes
    build            the passes, over the plan's leaves

Input: a typed rule. Output: a `Plan`. Raises CompileError (E503) where a rule needs what no
target does yet. Does not do: text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from optdsl.diagnostics import CompileError, Diagnostic, Label
from optdsl.ir.coupling import EVALUATIONS, couples, in_loops
from optdsl.ir.nodes import Builder, Rule, Value, reachable, scope_of
from optdsl.ir.rewrite import rebuild
from optdsl.ops import OPS, Kind
from optdsl.passes.add_evaluation import add_evaluation
from optdsl.passes.hoist_scalars import hoist_scalars
from optdsl.passes.lay_blocks import lay_blocks
from optdsl.passes.one_update import one_update
from optdsl.passes.pull_factors import pull_factors
from optdsl.passes.variants import STATISTICS, Branch, Straight, split_variants
from optdsl.schedule.build import VariantBuilder
from optdsl.schedule.levels import Levelled, find_levels
from optdsl.schedule.plan import Decision, Domain, Plan, Variant, domain_of
from optdsl.schedule.planes import lay_planes, seen_by
from optdsl.schedule.search import choose_passes
from optdsl.types import Instances

Observer = Callable[[str, object], None]
PASSES = (
    "split_variants",
    "lay_blocks",
    "add_evaluation",
    "lay_planes",
    "one_update",
    "pull_factors",
    "hoist_scalars",
    "find_levels",
    "choose_passes",
    "build",
)
"""In order; each is named to `observe` with what it made."""


def make_plan(rule: Rule, observe: Observer = lambda name, result: None) -> Plan:
    """The plan of `rule`. `observe(name, result)` sees what each pass leaves."""
    check_supported(rule)
    split = split_variants(rule)
    observe("split_variants", split)
    lay_blocks(rule, split)
    observe("lay_blocks", split)
    add_evaluation(rule, split)
    observe("add_evaluation", split)
    lay_planes(rule, split)
    observe("lay_planes", split)
    for variant in split.variants:
        if "p" in variant.outputs:
            variant.outputs["p"] = one_update(rule.builder, variant.outputs["p"])
    observe("one_update", split)
    for name, rewriting in (("pull_factors", pull_factors), ("hoist_scalars", hoist_scalars)):
        for variant in split.variants:
            _rewrite(rule, variant, rewriting)
        observe(name, split)
    levelled = find_levels(rule.builder, split.variants, rule.view)
    observe("find_levels", levelled)
    _check_levels(rule, levelled)
    seen = [seen_by(rule, each) for each in split.variants]
    chosen = [choose_passes(own, each) for own, each in zip(seen, levelled, strict=True)]
    observe("choose_passes", [choice for _, choice in chosen])
    slots: dict[str, Domain] = {}
    variants: list[Variant] = []
    for index, (each, (needs, choice)) in enumerate(zip(levelled, chosen, strict=True)):
        prefix = _snake(rule.name) + (f"_v{index}" if len(levelled) > 1 else "")
        path = split.variants[index].path
        own, blocks = seen[index], split.variants[index].blocks
        built = VariantBuilder(own, index, prefix, each, needs, choice, path, slots).build()
        variants.append(built if blocks is None else replace(built, blocks=blocks[1]))
    plan = Plan(rule, _decision(split.tree), tuple(variants), slots)
    observe("build", plan)
    return plan


def check_supported(rule: Rule) -> None:
    """Refuse what only the interpreter runs, with the place it is written at."""
    wrong: list[tuple[str, Label]] = []
    for value in reachable(each for _, each in rule.outputs()):
        talks = OPS[value.op].kind is Kind.CLOSURE and value.op not in EVALUATIONS
        if talks or value.op in ("workers", "rank"):
            what = value.op.removesuffix("_at").replace("_", " ")
            wrong.append((f"`{what}`", _label(value, rule)))
        if value.op == "loop" and not all(a.type.on_device for a in value.attr("body").args):
            wrong.append(("a loop that works out a number of the host", _label(value, rule)))
    looping = in_loops(each for _, each in rule.outputs())
    for value in filter(couples, looping):
        if what := _not_in_loops(value, looping):
            wrong.append((what, _label(value, rule)))
    for state in rule.states:
        shared = state.type.instances < Instances.PARAM
        if shared and not state.type.shape.is_scalar and state.span is not None:
            wrong.append(("a state over parameters with axes of its own", Label(state.span)))
    if wrong:
        raise CompileError([_unsupported(what, label) for what, label in wrong])


def _not_in_loops(value: Value, looping: set[Value]) -> str:
    """What keeps `value`, which ties parameters together in each pass of a loop, from being run."""
    if any(condition in looping for condition, _ in scope_of(value)):
        return "what ties parameters together under a condition that a loop changes"
    if value.op in STATISTICS:
        return "an order statistic over parameters in a loop"
    if value.op in EVALUATIONS:
        return ""
    if value.args[0].type.instances is not Instances.PARAM:
        return "a reduction over groups in a loop"
    return "" if value.type.shape.is_scalar else "a reduction to a tensor over parameters in a loop"


def _unsupported(what: str, label: Label) -> Diagnostic:
    return Diagnostic(
        "E503",
        f"{what} is not supported yet by the targets cpu and triton",
        (label,),
        "only the interpreter runs it so far: optdsl.interpreter.run",
    )


def _check_levels(rule: Rule, levelled: list[Levelled]) -> None:
    what = "a reduction over parameters of a value with axes of its own"
    for each in levelled:
        for value in (*each.reductions.values(), *each.between.values()):
            kinds = {domain_of(one.type, rule.view) for one in (value, value.args[0])}
            joined = value.type.shape.rows == value.type.shape.cols == 1
            matched = value.op in EVALUATIONS or value.attr("axis") == ()
            if Domain.SHAPED in kinds and not matched and not joined:
                raise CompileError([_unsupported(what, _label(value, rule))])


def _label(value: Value, rule: Rule) -> Label:
    span = value.span or next(v.span for v in reachable([value]) if v.span is not None)
    assert span is not None
    return Label(span)


def _rewrite(
    rule: Rule, variant: Straight, rewriting: Callable[[Builder, list[Value]], dict[Value, Value]]
) -> None:
    shared = variant.contributions.values()
    operands = [value.args[0] for _, value in shared]
    done = rewriting(rule.builder, [*variant.outputs.values(), *operands])
    variant.outputs = {name: done[value] for name, value in variant.outputs.items()}
    # A shared reduction stays whole: other variants read its slot.
    variant.contributions = {
        slot: (op, rebuild(rule.builder, value, (done[value.args[0]],)))
        for slot, (op, value) in variant.contributions.items()
    }


def _decision(tree: Branch | int) -> Decision | int:
    if isinstance(tree, int):
        return tree
    return Decision(tree.condition, _decision(tree.then), _decision(tree.otherwise))


def _snake(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name)
    return spaced.lower()
