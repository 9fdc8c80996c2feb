"""Host values are printed with the parentheses that they need, and no others."""

from __future__ import annotations

import pytest

from optdsl.diagnostics import Sink
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import make_scope
from optdsl.ir.fold import host_text
from optdsl.source import Source


@pytest.mark.parametrize(
    "text",
    [
        "a - (b - c)",
        "a - b - c",
        "a + b * c",
        "(a + b) * c",
        "a / (b * c)",
        "a / b / c",
        "-a^2",
        "(-a)^2",
        "a^b^c",
        "(a^b)^c",
        "a^-b",
        "1 - a^t",
        "-(a + b)",
        "t % 3 == 0",
        "a < b and (b < c or not a == c)",
        "not (a < b and b < c)",
        "a // (b % c)",
        "min(a, b + c) * sqrt(a)",
    ],
)
def test_text_is_as_short_as_written(text: str) -> None:
    condition = any(word in text for word in (" < ", "=="))
    shown = f"where({text}, 1, 0)" if condition else text
    sink = Sink()
    rule = f"optimizer A(a = 0.5, b = 0.25, c = 2.0):\n    p -= ({shown}) * g\n"
    lowered = lower_rule("A", make_scope(Source("a.opt", rule), sink), sink)
    sink.check()
    assert lowered is not None and lowered.param is not None
    assert host_text(lowered.param.args[1].args[0]) == shown
