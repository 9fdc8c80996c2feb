"""Rule files as a reader of the paper wants them: short, with their source and their ranges."""

from __future__ import annotations

import re
import statistics

import pytest

from optdsl.frontend.scope import shipped, shipped_index
from optdsl.syntax import ast

WRITTEN = {
    name: item
    for name in shipped_index()
    for item, _ in [shipped(name) or (None, None)]
    if isinstance(item, ast.Optimizer | ast.Wrapper)
}


def lines(item: ast.Optimizer | ast.Wrapper) -> int:
    """Lines of the body without the docstring and what is required of hyperparameters."""
    rule = [each for each in item.body if not isinstance(each, ast.Doc | ast.Require)]
    text = "\n".join(each.span.text for each in rule)
    return sum(bool(line.split("#")[0].strip()) for line in text.splitlines())


def test_half_of_the_rules_take_eight_lines_at_most() -> None:
    assert statistics.median(map(lines, WRITTEN.values())) <= 8


@pytest.mark.parametrize("name", WRITTEN)
def test_a_rule_names_its_paper(name: str) -> None:
    """Title (authors, year), before anything else."""
    doc = WRITTEN[name].body[0]
    assert isinstance(doc, ast.Doc)
    assert re.search(r"\([^()]+, (19|20)\d\d\)", " ".join(doc.text.split()))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_rule_says_what_its_hyperparameters_may_be(name: str) -> None:
    item = WRITTEN[name]
    if any(parameter.default is not None for parameter in item.parameters or ()):
        assert any(isinstance(each, ast.Require) for each in item.body)
