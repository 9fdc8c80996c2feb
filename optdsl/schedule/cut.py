"""cheapest_loads: what a pass loads, as a minimum vertex cut.

Input: what a pass must compute, and what lies in memory with the bytes that loading it costs.
Output: the values to load, so that all else is recomputed from them, and their bytes; None where
something needed is neither in memory nor computable. Of several cuts that cost the same it is that
nearest to memory, so that ties recompute. Graphs have tens of vertices; augmenting paths are
enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from optdsl.ir.nodes import Value

INFINITE = float("inf")
SOURCE, SINK = -1, -2
Capacity = dict[int, dict[int, float]]
"""What may still flow from node to node. A value in memory is the nodes 2 * id and 2 * id + 1, and
the edge between them is as wide as loading it costs; all other edges have no bound."""


def cheapest_loads(
    wanted: Iterable[Value],
    cone: Iterable[Value],
    resident: dict[Value, float],
    operands: Callable[[Value], tuple[Value, ...]],
) -> tuple[frozenset[Value], float] | None:
    """`cone` has `wanted` and all that it is worked out from, operands first; `resident` gives the
    bytes of loading each value of it that is in memory; `operands` what a value is computed from
    (nothing for what is always at hand)."""
    capacity: Capacity = {SOURCE: {}, SINK: {}}

    def edge(a: int, b: int, bytes_: float = INFINITE) -> None:
        capacity.setdefault(a, {})[b] = bytes_
        capacity.setdefault(b, {}).setdefault(a, 0.0)

    # What lies in memory, as nodes, nearest below each value. What does not is no node of its own:
    # a graph has a fifth of the vertices then.
    nearest: dict[Value, frozenset[int]] = {}
    for value in cone:
        if is_at_hand(value):
            nearest[value] = frozenset()
            continue
        args = operands(value)
        below = frozenset().union(*(nearest[arg] for arg in args)) if args else {SOURCE}
        nearest[value] = frozenset(below)
        if value in resident:
            nearest[value] = frozenset([2 * value.id + 1])
            edge(2 * value.id, 2 * value.id + 1, resident[value])
            for node in below:
                edge(node, 2 * value.id)
    for value in wanted:
        for node in nearest[value]:
            edge(node, SINK)
    total = 0.0
    while SINK in (parent := _flowing(capacity)):
        path, here = [], SINK
        while here != SOURCE:
            path.append((parent[here], here))
            here = parent[here]
        width = min(capacity[a][b] for a, b in path)
        if width == INFINITE:
            return None
        for a, b in path:
            capacity[a][b] -= width
            capacity[b][a] += width
        total += width
    split = (v for v in resident if 2 * v.id in parent and 2 * v.id + 1 not in parent)
    return frozenset(split), total


def is_at_hand(value: Value) -> bool:
    """In every pass: numbers and finished reductions."""
    return not value.type.on_device or value.op in ("result", "scalar", "size", "const")


def _flowing(capacity: Capacity) -> dict[int, int]:
    """The nodes that more can flow to, until that is the sink, with the one before each."""
    parent = {SOURCE: SOURCE}
    queue = deque([SOURCE])
    while queue and SINK not in parent:
        node = queue.popleft()
        for after, left in capacity[node].items():
            if left > 0 and after not in parent:
                parent[after] = node
                queue.append(after)
    return parent
