"""Rules of a module's own, and one thread for torch's arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import optdsl


@pytest.fixture(scope="module")
def rules(request: pytest.FixtureRequest) -> ModuleType:
    """The classes of the text RULES of the test's module."""
    return optdsl.compile_text(request.module.RULES)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With two, a region waits 30 ms for a core that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
