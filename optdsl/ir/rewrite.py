"""One bottom-up rewriter: a function on a value whose operands are rewritten already.

Input: values, a function. Output: the values that stand for them. Loops' bodies are rewritten too.
Does not do: any rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from optdsl.ir.nodes import Builder, LoopBody, Value, reachable

Step = Callable[[Value], Value]


def rebuild(builder: Builder, value: Value, args: tuple[Value, ...]) -> Value:
    """`value` over other operands, itself where they are its own; keeps name and span."""
    if args == value.args:
        return value
    new = builder.make(value.op, args, value.type, value.span, **dict(value.attrs))
    if new.name is None:
        new.name = value.name
    return new


def rewrite(
    builder: Builder, roots: Iterable[Value], step: Step, given: Mapping[Value, Value] | None = None
) -> dict[Value, Value]:
    """What each value under `roots` becomes. `step` sees a value over rewritten operands; what is
    `given` is not looked into."""
    done: dict[Value, Value] = dict(given or {})
    for value in reachable(roots, beyond=tuple(done)):
        args = tuple(done[arg] for arg in value.args)
        if value.op == "loop":
            done[value] = _loop(builder, value, args, done)
            continue
        new = step(rebuild(builder, value, args))
        if new.name is None and new.op not in ("const", "param", "grad"):
            new.name = value.name
        done[value] = new
    return done


def _loop(
    builder: Builder, value: Value, args: tuple[Value, ...], done: dict[Value, Value]
) -> Value:
    body: LoopBody = value.attr("body")
    results = tuple(done[each] for each in body.results)
    until = None if body.until is None else done[body.until]
    if args == value.args and results == body.results and until is body.until:
        return value
    info = replace(body, results=results, until=until)
    return builder.make("loop", args, value.type, value.span, body=info)
