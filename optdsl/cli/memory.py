"""`optdsl explain FILE --model MODEL`: the memory of a rule for a model's shapes.

Input: the command's options. Output: a table, or JSON, on stdout. Relies on: memory, models.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from optdsl.cli.rules import find_target, pick, read_storage
from optdsl.cli.terminal import Fault
from optdsl.diagnostics import Sink
from optdsl.frontend.check import check_scope
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import make_scope
from optdsl.ir.nodes import Rule
from optdsl.memory import Memory, count_memory
from optdsl.models import shapes_of


def run(options: argparse.Namespace) -> int:
    """Prints the memory of each rule that is meant. Raises CompileError, Fault."""
    try:
        shapes = shapes_of(options.model)
        storage = None if options.storage is None else read_storage(options.storage)
        hypers = dict(_setting("--set", each) for each in options.set or ())
        attributes = [_attribute(each) for each in options.attribute or ()]
        found = [
            count_memory(rule, shapes, options.dtype, storage, hypers, attributes)
            for rule in _rules(options)
        ]
    except (ValueError, OverflowError) as error:  # a size may come out infinite
        raise Fault(str(error)) from None
    if options.json:
        data = [{"model": options.model, **each.to_json()} for each in found]
        print(json.dumps(data[0] if len(data) == 1 else data, indent=2))
        return 0
    for number, memory in enumerate(found):
        print("\n" * bool(number) + "\n".join(_table(memory, options.model)))
    return 0


def _rules(options: argparse.Namespace) -> Iterator[Rule]:
    """The typed rules: a plan is not needed, nor that a target can run them."""
    target = find_target(options.subject, options.rule)
    sink = Sink()
    scope = make_scope(target.source, sink, target.folder)
    check_scope(scope, sink)
    sink.check()
    for name in pick(target, rule_names(scope)):
        rule = lower_rule(name, scope, sink)
        sink.check()
        assert rule is not None, "a rule without errors was not lowered"
        yield rule


def _setting(option: str, text: str) -> tuple[str, Any]:
    """`rank=128`: a name and its value, as Python writes it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise Fault(f"{option} {text}: not of the form NAME=VALUE")
    words = {"true": True, "false": False}
    try:
        return name, words[value] if value in words else ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _attribute(text: str) -> tuple[str, str, Any]:
    """`low_rank=false@embed|lm_head`: a value for the parameters whose names match."""
    setting, _, pattern = text.partition("@")
    try:
        re.compile(pattern)
    except re.error as error:
        raise Fault(f"--attribute {text}: {error}") from None
    return pattern, *_setting("--attribute", setting)


def _table(memory: Memory, model: str) -> Iterator[str]:
    yield f"{memory.rule} for {model}: {memory.tensors:,} tensors, {memory.numbers:,} parameters"
    rows = [
        ("parameters", memory.parameter_bytes, memory.dtype),
        ("gradients", memory.parameter_bytes, memory.dtype),
        *((state.key, state.bytes, _stored(state.stored)) for state in memory.states),
        ("states in all", memory.state_bytes, ""),
        ("total", memory.total, ""),
    ]
    width = max(len(name) for name, _, _ in rows)
    digits = max(len(f"{size:,}") for _, size, _ in rows)
    for name, size, how in rows:
        line = f"  {name:<{width}}  {size:>{digits},} bytes  {size / 2**30:>9.3f} GiB  {how}"
        yield line.rstrip()


def _stored(stored: Mapping[str, int]) -> str:
    """`int8`, or `int8 (50 tensors), float32 (98 tensors)` where small ones are kept whole."""
    if len(stored) == 1:
        return next(iter(stored))
    counts = sorted(stored.items(), key=lambda item: item[0] == "float32")
    return ", ".join(f"{name} ({count} tensors)" for name, count in counts)
