"""What generated C loads and stores, counted in its text, is what `explain` says that it moves."""

from __future__ import annotations

import re

import pytest

from optdsl.codegen.cpu import c_source
from optdsl.schedule.plan import Domain, KernelPass, Plan
from tests.saying import Counted, said
from tests.triton.sources import RULES, SHOWN, ZOO, plan_of

SIZES = {"real": 4, "float": 4, "param": 4, "bf16": 2, "fp16": 2}
"""Bytes, for float32 parameters."""
POINTER = re.compile(r"(\w+) \*(?:restrict )?(\w+)_at = (?:\(.*?\))?pointers\[(\d+)\]")
ACCESS = re.compile(r"\b(\w+)_at\[[^]]*\]( [-+*/]?= )?")


def counted(plan: Plan) -> dict[str, Counted]:
    """By pass: each buffer of p's size, whose elements a loop reads or writes."""
    text = c_source(plan)
    types = dict(re.findall(r"#define (\w+_stored) (\w+)", text))
    found = {}
    for variant in plan.variants:
        for each in variant.passes:
            if isinstance(each, KernelPass):
                (body,) = re.findall(rf"^void {each.name}\(.*?^}}", text, re.DOTALL | re.MULTILINE)
                moved: Counted = {"load": {}, "store": {}}
                pointers = {name: (kind, int(at)) for kind, name, at in POINTER.findall(body)}
                for name, assigned in ACCESS.findall(body):
                    kind, column = pointers.get(name, ("", -1))
                    if column < 0 or variant.buffers[column].domain is not Domain.FULL:
                        continue
                    size = SIZES[types.get(kind, kind)]
                    if assigned != " = ":
                        moved["load"][variant.buffers[column].text] = size
                    if assigned:
                        moved["store"][variant.buffers[column].text] = size
                found[each.name] = moved
    return found


SLOW = [pytest.param(each, marks=pytest.mark.slow) for each in (*ZOO, *RULES) if each not in SHOWN]


@pytest.mark.parametrize("source", [*SHOWN, *SLOW])
def test_every_pass_moves_the_bytes_that_explain_says(source: str) -> None:
    plan = plan_of(source)
    found, wanted = counted(plan), said(plan)
    assert {name: wanted[name] for name in found} == found
