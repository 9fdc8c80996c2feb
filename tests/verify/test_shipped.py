"""Every shipped rule on every target, as `optdsl verify --quick` does it.

An hour or more for one dtype: `pytest tests/verify/test_shipped.py -m slow --checked -k float32`
writes what passed to docs/zoo/checked.json rule by rule, and with `--missing` leaves out what is
there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optdsl.gallery.pages import VERIFIED
from optdsl.verify import DTYPES, TARGETS, trials
from tests.verify.subjects import COMPILED, QUICK, SMALL, SURROUNDED, subject
from tests.zoo import checked


@pytest.mark.slow
@pytest.mark.verifies
@pytest.mark.parametrize("dtype", DTYPES, ids=checked.title)
@pytest.mark.parametrize("name", COMPILED)
def test_all_targets_pass(name: str, dtype: torch.dtype, record_property: Any) -> None:
    shapes = SMALL if name in SURROUNDED else QUICK
    elements = 0
    for trial in trials(subject(name), TARGETS, (dtype,), shapes):
        outcome = trial.run()
        assert outcome.passed, f"{outcome.target}, {outcome.setting}: {outcome.failure}"
        elements += outcome.elements
        seen = VERIFIED + checked.title(dtype), name, trial.target, outcome.worst_ulps
        record_property("checked", seen)
    assert elements > 1000
