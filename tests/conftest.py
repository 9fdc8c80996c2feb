"""Options of the whole test run."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Triton decides when it is imported whether it interprets; only `-m gpu` has a GPU to use."""
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
