"""add_evaluation: the value for evaluation as variants of their own, behind `evaluating`.

Input: a rule and its split. Output: the split with further variants, which give p that value and
change no state; the host takes them where a program is asked to evaluate, in no step.
Relies on: ir/evaluation.py. Does not do: decide when.
"""

from __future__ import annotations

from optdsl.ir.evaluation import evaluation_of
from optdsl.ir.nodes import Rule
from optdsl.passes.variants import Branch, Split, split_variants
from optdsl.types import SCALAR, DType, Instances, Place, Type


def add_evaluation(rule: Rule, split: Split) -> None:
    """Adds the variants to `split`."""
    shown = evaluation_of(rule)
    if shown is None:
        return
    type_ = Type(Instances.RUN, SCALAR, Place.HOST, DType.BOOL)
    evaluating = rule.builder.make("evaluating", (), type_)
    found, first = split_variants(shown, "eval_"), len(split.variants)
    for variant in found.variants:
        variant.path = ((evaluating, True), *variant.path)
    split.variants += found.variants
    split.sites |= found.sites
    split.tree = Branch(evaluating, _later(found.tree, first), split.tree)


def _later(tree: Branch | int, by: int) -> Branch | int:
    """The tree with variants counted from `by` on."""
    if isinstance(tree, int):
        return tree + by
    return Branch(tree.condition, _later(tree.then, by), _later(tree.otherwise, by))
