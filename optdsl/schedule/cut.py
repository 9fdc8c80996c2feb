"""cheapest_loads: what a pass loads, as a minimum vertex cut.

Input: what a pass must compute, and what lies in memory with the bytes that loading it costs.
Output: the values to load, so that all else is recomputed from them, and their bytes; None where
something needed is neither in memory nor computable. Graphs have tens of vertices; augmenting
paths are enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from optdsl.ir.nodes import Value

INFINITE = float("inf")
Node = tuple[int, int] | str


def cheapest_loads(
    sinks: Iterable[Value],
    resident: dict[Value, float],
    operands: Callable[[Value], tuple[Value, ...]],
) -> tuple[frozenset[Value], float] | None:
    """`resident` gives the bytes of loading each value that is in memory; `operands` what a value
    is computed from (nothing for what is always at hand)."""
    capacity: dict[Node, dict[Node, float]] = {}

    def edge(a: Node, b: Node, bytes_: float) -> None:
        capacity.setdefault(a, {})[b] = bytes_
        capacity.setdefault(b, {}).setdefault(a, 0.0)

    by_id: dict[int, Value] = {}
    stack = list(sinks)
    for sink in stack:
        edge((sink.id, 1), "sink", INFINITE)
    while stack:
        value = stack.pop()
        if value.id in by_id:
            continue
        by_id[value.id] = value
        edge((value.id, 0), (value.id, 1), resident.get(value, INFINITE))
        below = operands(value)
        if not below and not _free(value):
            edge("source", (value.id, 0), INFINITE)
        for arg in below:
            edge((arg.id, 1), (value.id, 0), INFINITE)
            stack.append(arg)
    total = 0.0
    while (path := _augmenting(capacity)) is not None:
        width = min(capacity[a][b] for a, b in path)
        if width == INFINITE:
            return None
        for a, b in path:
            capacity[a][b] -= width
            capacity[b][a] += width
        total += width
    reached = _reached(capacity)
    loads = frozenset(
        value for key, value in by_id.items() if (key, 0) in reached and (key, 1) not in reached
    )
    return loads, total


def _free(value: Value) -> bool:
    """At hand in every pass: numbers and finished reductions."""
    return not value.type.on_device or value.op in ("result", "scalar", "size", "const")


def _augmenting(capacity: dict[Node, dict[Node, float]]) -> list[tuple[Node, Node]] | None:
    parent: dict[Node, Node] = {"source": "source"}
    queue: deque[Node] = deque(["source"])
    while queue:
        node = queue.popleft()
        for after, left in capacity.get(node, {}).items():
            if left > 0 and after not in parent:
                parent[after] = node
                if after == "sink":
                    path: list[tuple[Node, Node]] = []
                    here: Node = after
                    while here != "source":
                        path.append((parent[here], here))
                        here = parent[here]
                    return path[::-1]
                queue.append(after)
    return None


def _reached(capacity: dict[Node, dict[Node, float]]) -> set[Node]:
    reached: set[Node] = {"source"}
    queue: deque[Node] = deque(["source"])
    while queue:
        for after, left in capacity.get(queue.popleft(), {}).items():
            if left > 0 and after not in reached:
                reached.add(after)
                queue.append(after)
    return reached
