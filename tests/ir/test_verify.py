"""What is illegal in a typed rule is found, and nothing that the compiler makes is illegal."""

from __future__ import annotations

import re

import pytest

from optdsl.diagnostics import InternalError
from optdsl.ir.nodes import Rule
from optdsl.ir.reading import read_rule
from optdsl.ir.text import rule_text
from optdsl.ir.verify import verify_rule, verify_values
from optdsl.schedule.make import make_plan
from optdsl.schedule.planes import seen_by
from optdsl.source import Source
from tests.ir.test_text import LOOPS, lowered, shipped

STRAIGHT = (
    *("split_variants", "lay_blocks", "lay_planes", "one_update", "pull_factors"),
    "hoist_scalars",
)

PLAIN = """\
optimizer Plain(lr = 0.1, betas = (0.9, 0.99), decay = 0):
    require lr > 0
    state m, row: [rows, 1]
    m = lerp(m, g, 1 - betas[0])
    row = max(row, sum(g, axis = 1))
    q = g @ g.T
    p -= lr * where(m > 0, m, row) + 0 * q @ p
    every 3:
        p = 0.5 * p
    m = -m
"""

# pattern in the rule's text, what stands there instead ({row} is a number per row), the fault
BREAKS = {
    "a type that the operands do not give": (
        r"(= transpose %1 : param) \[cols, rows\]",
        r"\1 [rows, cols]",
        "shape [rows, cols], not [cols, rows]",
    ),
    "a product that does not fit": (r"matmul %1 %\d+", "matmul %1 %1", "operands do not fit"),
    "a hyperparameter that is not there": ("hyper lr", "hyper rate", "lr is not declared"),
    "an item that is not there": (r"index=\[0\]", "index=[2]", "betas has no item 2"),
    "a state that is not there": ("update m ", "update n ", "new n: is no state"),
    "a gradient that is read": ("reads_gradient=true", "reads_gradient=false", "is False"),
    "a view that is not there": ("view=rows", "view=back", "view back"),
    "an unknown dimension": (r"(state row : param) \[rows", r"\1 [half", "['half']"),
    "a key used twice": ('key="row"', 'key="m"', "shares the key m"),
    "a birth without a state": ("birth=row", "birth=col", "born with col, which is no state"),
    "a condition on tensors": (r"require %\d+", "require %1", "%1 is no host condition"),
    "an attribute that is missing": ("axis=1 over=null", "over=null", "attributes"),
    "another axis": ("axis=1 over=null", "axis=0 over=null", "[rows, 1], not [1, cols]"),
    "an operation that is not there": ("= max %", "= larger %", "no operation"),
    "an operation of plans": ("= grad :", '= load buffer="g" :', "no operation of a rule"),
    "an operand that is missing": (r"= neg %(\d+)", r"= sub %\1", "1 operands, not 2"),
    "a p of another shape": (r"\np %\d+", r"\np %{row}", "p: has not p's shape"),
    "a device value as a size": (r"\nstate m", r'\ndim "n" %0\nstate m', "not on the host"),
    "a choice by tensors": (r"choose %\d+", "choose %{bits}", "is no host condition"),
    "a float called whole": (r"(= sub %\d+ %\d+ : host group \[\]) real", r"\1 int", "an int of"),
}


def plain() -> Rule:
    (rule,) = lowered(Source("plain.opt", PLAIN))
    return rule


def broken(pattern: str, instead: str) -> Rule:
    """The rule with one change in its text."""
    text = rule_text(plain())
    rows = {
        "row": re.findall(r"^%(\d+) = max", text, re.M)[0],
        "bits": re.findall(r"^%(\d+) = gt %\d+ %\d+ : param", text, re.M)[0],
    }
    changed, count = re.subn(pattern, instead.format(**rows), text, count=1)
    assert count == 1, "the pattern does not occur"
    return read_rule(changed)


@pytest.mark.parametrize(("pattern", "instead", "fault"), BREAKS.values(), ids=BREAKS.keys())
def test_a_fault_is_found(pattern: str, instead: str, fault: str) -> None:
    verify_rule(plain(), "lower")
    with pytest.raises(InternalError, match="internal error in a stage: Plain") as caught:
        verify_rule(broken(pattern, instead), "a stage")
    assert fault in str(caught.value)


def test_a_loop_value_outside_its_loop_is_found() -> None:
    (rule,) = lowered(Source("l.opt", LOOPS))
    verify_rule(rule, "lower")
    rule.reports["inside"] = next(v for v in rule.builder.table.values() if v.op == "loop_arg")
    with pytest.raises(InternalError, match="outside its loop"):
        verify_rule(rule, "lower")


def test_a_value_of_another_rule_is_found() -> None:
    rule, other = plain(), plain()
    rule.param = other.param
    with pytest.raises(InternalError, match="not of this rule's builder"):
        verify_rule(rule, "lower")


def test_a_choice_is_none_of_a_straight_variant() -> None:
    rule = plain()
    with pytest.raises(InternalError, match="stands in a straight variant"):
        verify_values(rule, [value for _, value in rule.outputs()], "split_variants")


@pytest.mark.parametrize("rule", shipped(), ids=lambda rule: rule.name)
def test_shipped_rules_are_legal_in_every_stage(rule: Rule) -> None:
    seen = []

    def observe(name: str, result: object) -> None:
        if name in STRAIGHT:
            seen.append(name)
            for variant in result.variants:  # type: ignore[attr-defined]
                contributed = [value for _, value in variant.contributions.values()]
                verify_values(
                    seen_by(rule, variant), [*variant.outputs.values(), *contributed], name
                )

    verify_rule(rule, "lower")
    make_plan(rule, observe)
    assert seen == list(STRAIGHT)
