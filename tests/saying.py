"""What `explain` says that a pass moves, in the form in which tests count it in generated code."""

from __future__ import annotations

from optdsl.explain import explain_plan
from optdsl.schedule.plan import Plan

Counted = dict[str, dict[str, float]]
"""Bytes an element by buffer, under "load" and "store"."""


def said(plan: Plan) -> dict[str, Counted]:
    """By pass; numbers of rows, columns and parameters are in no such count."""
    reports = [each for variant in explain_plan(plan).variants for each in variant.passes]
    return {
        each.name: {
            "load": {moved.name: moved.bytes for moved in each.reads if moved.bytes},
            "store": {moved.name: moved.bytes for moved in each.writes if moved.bytes},
        }
        for each in reports
    }
