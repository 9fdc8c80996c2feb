"""A CUDA graph without a GPU: kernels and copies are written down while it is captured, and run
when it is replayed, by Triton's interpreter.

What a graph cannot hold fails: a value read by the host, memory taken, anything else computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

from optdsl.runtime import engine

HOST_READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")
HELD = ("copy_", "fill_")
"""Operations that a graph holds as they are."""
VIEWS = ("select", "detach", "slice", "view", "reshape", "as_strided", "alias", "_reshape_alias")


class Graph:
    """What was captured, in order."""

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []
        self.kernels = 0

    def replay(self) -> None:
        for each in self.work:
            each()


class _Recorder(TorchDispatchMode):
    """Writes copies down instead of running them; refuses all that is no view."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.__name__.split(".")[0]
        if name in HELD:
            self.graph.work.append(lambda: function(*args, **(kwargs or {})))
            return args[0]
        assert name in VIEWS, f"{function} while a graph is captured"
        return function(*args, **(kwargs or {}))


@contextmanager
def capture(monkeypatch: pytest.MonkeyPatch, optimizer: Any) -> Iterator[Graph]:
    """Captures the steps of `optimizer` inside."""
    graph = Graph()
    run = GridExecutor.__call__

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        graph.kernels += 1
        graph.work.append(lambda: run(self, *args, **kwargs))

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the host reads a tensor while a graph is captured")

    with monkeypatch.context() as patch:
        patch.setattr(optimizer._engine, "_on_gpu", True)
        patch.setattr(engine, "capturing", lambda: True)
        patch.setattr(GridExecutor, "__call__", record)
        for name in HOST_READS:
            patch.setattr(torch.Tensor, name, refuse)
        with _Recorder(graph):
            yield graph
