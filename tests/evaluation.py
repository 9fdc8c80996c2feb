"""What a plan's variant computes, worked out in float64 by torch: the oracle of generated kernels.

A parameter's buffers are tensors [batch, rows, cols], with 1 where their domain has one number;
GROUP and ALL buffers are tensors shared by the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optdsl import draws, randomness
from optdsl.ir.nodes import LoopBody, Value, reachable
from optdsl.ops import OPS, Kind
from optdsl.schedule.plan import Domain, KernelPass, LibraryPass, Plan, Reduction, Variant

REDUCED = {Domain.ROW: (2,), Domain.COL: (1,), Domain.MATRIX: (1, 2)}


@dataclass
class Parameter:
    """Buffers by name (float64), the scalar row, and results by slot once they are finished."""

    buffers: dict[str, Tensor]
    scalars: Sequence[float]
    group: int
    results: dict[str, Tensor]

    @property
    def sizes(self) -> dict[str, int]:
        return sizes_of(*self.buffers["p"].shape)


def sizes_of(batch: int, rows: int, cols: int) -> dict[str, int]:
    """Every size of a parameter of `batch` matrices."""
    return {
        "batch": batch,
        "rows": rows,
        "cols": cols,
        "numel": batch * rows * cols,
        "short": min(rows, cols),
        "long": max(rows, cols),
        "ndim": 3 if batch > 1 else 2 if cols > 1 else 1,
    }


def run_step(plan: Plan, variant: Variant, parameters: Sequence[Parameter]) -> None:
    """Runs all passes; changes the parameters' buffers and fills in their results."""
    for stage in sorted({each.stage for each in variant.passes}):
        passes = [each for each in variant.passes if each.stage == stage]
        kernels = [each for each in passes if isinstance(each, KernelPass)]
        partials: dict[Reduction, list[tuple[int, Tensor]]] = {}
        writes: list[tuple[Parameter, str, Tensor]] = []
        for kernel in kernels:
            for index in owners(kernel.domain, [each.group for each in parameters]):
                run_kernel(kernel, parameters[index], index, partials, writes)
        for parameter, name, value in writes:
            buffer = parameter.buffers[name]
            buffer.copy_(value.expand_as(buffer))
        finish(partials, parameters)
        for library in passes:
            if isinstance(library, LibraryPass):
                for parameter in parameters:
                    memo: dict[Value, Any] = {}
                    made = [(s.buffer, evaluate(s.value, parameter, memo)) for s in library.outputs]
                    for name, value in made:
                        parameter.buffers[name].copy_(value)


def begins(variant: Variant, memory: dict[str, Tensor], scalars: Sequence[float]) -> list[int]:
    """The addresses for the table of pointers; of a plane, whose memory is its own here, that of a
    state in which it would lie there."""
    found = []
    for each in variant.buffers:
        own, number = memory[each.name], 0
        if each.entry is not None:
            literal = each.entry.scalar is None
            number = each.entry.number.attr("value") if literal else scalars[each.entry.scalar]
        found.append(own.data_ptr() - int(number) * own.nbytes)
    return found


def owners(domain: Domain, groups: Sequence[int]) -> list[int]:
    """The parameters over which a pass of `domain` runs: the first of each group, or of all."""
    if domain is Domain.ALL:
        return [0]
    if domain is Domain.GROUP:
        return [groups.index(group) for group in sorted(set(groups))]
    return list(range(len(groups)))


def run_kernel(
    kernel: KernelPass,
    parameter: Parameter,
    index: int,
    partials: dict[Reduction, list[tuple[int, Tensor]]],
    writes: list[tuple[Parameter, str, Tensor]],
) -> None:
    memo: dict[Value, Any] = {}
    for phase in kernel.phases:
        for each in phase.rows:
            value = evaluate(each.value, parameter, memo)
            parameter.results[each.slot] = reduce(each, value)
        for each in phase.partials:
            value = evaluate(each.value, parameter, memo)
            partials.setdefault(each, []).append((index, reduce(each, value)))
        for store in phase.stores:
            writes.append((parameter, store.buffer, evaluate(store.value, parameter, memo)))


def reduce(reduction: Reduction, value: Tensor) -> Tensor:
    function = {"sum": torch.sum, "max_of": torch.amax, "min_of": torch.amin}[reduction.op]
    axes = REDUCED.get(reduction.domain, (0, 1, 2))
    return function(value, dim=axes, keepdim=True)


def finish(
    partials: dict[Reduction, list[tuple[int, Tensor]]], parameters: Sequence[Parameter]
) -> None:
    for reduction, parts in partials.items():
        for index, parameter in enumerate(parameters):
            if reduction.domain is Domain.ALL:
                own = [part for _, part in parts]
            elif reduction.domain is Domain.GROUP:
                own = [part for i, part in parts if parameters[i].group == parameter.group]
            else:
                own = [part for i, part in parts if i == index]
            if own:
                parameter.results[reduction.slot] = reduce_all(reduction.op, own)


def reduce_all(op: str, parts: list[Tensor]) -> Tensor:
    function = {"sum": torch.sum, "max_of": torch.amax, "min_of": torch.amin}[op]
    return function(torch.stack(parts), dim=0)


def evaluate(root: Value, parameter: Parameter, memo: dict[Value, Any]) -> Tensor:
    """`root` in float64; conditions as bool tensors."""
    for value in reachable([root], into_loops=False):
        if value not in memo:
            memo[value] = _evaluate(value, parameter, memo)
    result: Tensor = memo[root]
    return result


def _evaluate(value: Value, parameter: Parameter, memo: dict[Value, Any]) -> Any:
    """A tensor; for a loop, the list of what it carries."""
    match value.op:
        case "const":
            return torch.tensor(value.attr("value"), dtype=torch.float64)
        case "load":
            return parameter.buffers[value.attr("buffer")].clone()
        case "scalar":
            return torch.tensor(parameter.scalars[value.attr("index")], dtype=torch.float64)
        case "result" | "row_result":
            return parameter.results[value.attr("slot")]
        case "size":
            return torch.tensor(parameter.sizes[value.attr("name")], dtype=torch.float64)
        case "full":
            return memo[value.args[0]]
        case "eye":
            n, m = (parameter.sizes.get(d, d) for d in (value.attr("n"), value.attr("m")))
            return torch.eye(int(n), int(m), dtype=torch.float64)
        case "draw_key" | "element":
            return value
        case "loop":
            return _loop(value, parameter, memo)
        case "loop_result":
            return memo[value.args[0]][value.attr("index")]
    op = OPS[value.op]
    if op.kind is Kind.REDUCE:
        domain = {0: Domain.COL, 1: Domain.ROW, None: Domain.TENSOR}[value.attr("axis")]
        return reduce(Reduction("", value.op, value, domain), memo[value.args[0]])
    if op.kind is Kind.RANDOM:
        return _drawn(value, parameter, memo)
    assert op.kind in (Kind.MAP, Kind.MATRIX), value.op
    names = {f"x{i}": memo[arg] for i, arg in enumerate(value.args)}
    text = op.torch
    for i in range(len(value.args)):
        text = text.replace(f"{{{i}}}", f"x{i}")
    return eval(text, {"torch": torch, **names, **parameter.sizes})


STREAM = randomness.stream(0, 0)
"""What all parameters draw from."""


def _drawn(value: Value, parameter: Parameter, memo: dict[Value, Any]) -> Tensor:
    """A draw of a kernel, from its key, or of the library."""
    origin, *_ = value.args
    if origin.op == "draw_key":
        at, shape = parameter.scalars[origin.attr("at")], tuple(parameter.buffers["p"].shape)
    else:
        at, shape = memo[origin], tuple(parameter.sizes.get(d, d) for d in value.type.shape.dims)
    given = {"seed": 0, "site": value.attr("site"), "at": int(at), "parameter": 0}
    return draws.draw(value.op, shape, **given).double()


def _loop(loop: Value, parameter: Parameter, outside: dict[Value, Any]) -> list[Tensor]:
    body: LoopBody = loop.attr("body")
    count, *carried = (outside[arg] for arg in loop.args)
    for _ in range(int(count)):
        memo = {**outside, **dict(zip(body.args, carried, strict=True))}
        carried = [evaluate(each, parameter, memo) for each in body.results]
    return carried
