"""Options of the whole test run."""

from __future__ import annotations

import os

import pytest

from tests.contract.report import Report
from tests.zoo.checked import Checked


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the generated sources that tests compare with; review them as a diff",
    )
    parser.addoption(
        "--contract",
        action="store_true",
        help="write docs/contract.md from the outcomes of the tests that are marked so",
    )
    parser.addoption(
        "--missing",
        action="store_true",
        help="of the tests that write a page, run those of which the page does not know",
    )
    parser.addoption(
        "--checked",
        action="store_true",
        help="write docs/zoo/checked.json from what rules were held to in the tests that run",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Triton decides when it is imported whether it interprets; only `-m gpu` has a GPU to use."""
    config.pluginmanager.register(Report(config))
    config.pluginmanager.register(Checked(config))
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
