"""`optdsl verify`: generated code against the float64 interpreter.

Input: a rule file, or the name of a shipped rule. Output: a line for each target and dtype.
Relies on: verify, compiler, loading.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Iterator
from functools import partial

import torch

from optdsl.cli.rules import find_target, pick, storage
from optdsl.cli.terminal import Fault
from optdsl.compiler import Observer, compile_rule
from optdsl.diagnostics import Sink
from optdsl.frontend.check import check_scope
from optdsl.frontend.rules import rule_names
from optdsl.frontend.scope import make_scope
from optdsl.loading import load_source
from optdsl.passes.variants import Split
from optdsl.runtime.native import NativeError
from optdsl.schedule.storage import stored_as
from optdsl.verify import (
    CODED,
    DTYPES,
    LARGE,
    SHAPES,
    TARGETS,
    Outcome,
    Subject,
    interpret_triton,
    trials,
)

EXAMPLES = """\
Six steps on random tensors of many shapes; hyperparameters change between them, and the state is
saved and loaded in the middle. Every element must be within the bound that the roundings of its
operations imply: `of bound` is the largest error as a share of that, `ulps` in units of the last
place of what is stored.

examples:
  optdsl verify my_rule.opt
  optdsl verify AdamW --target cpu --dtype float32,bfloat16
  optdsl verify AdamW --storage int8         the same with all states in codes
  optdsl verify LAMB --quick                 no large tensor; Triton interpreted takes the most
"""

NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a rule file, or the name of a shipped rule")
    parser.add_argument(
        "--rule", action="append", metavar="NAME", help="only this rule of the file (repeatable)"
    )
    parser.add_argument(
        "--target", type=_targets, default=TARGETS, metavar="T,..", help=", ".join(TARGETS)
    )
    parser.add_argument(
        "--dtype", type=_dtypes, default=DTYPES, metavar="D,..", help=", ".join(NAMES)
    )
    parser.add_argument(
        "--storage",
        type=storage,
        metavar="[KEY=]S,..",
        help="how states are stored, such as int8 or exp_avg_sq=int8 (default: as the rule says)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random tensors (default: 0)")
    parser.add_argument("--quick", action="store_true", help="leave out the large tensor")


def _targets(text: str) -> tuple[str, ...]:
    return tuple(_known(text, TARGETS))


def _dtypes(text: str) -> tuple[torch.dtype, ...]:
    return tuple(NAMES[each] for each in _known(text, NAMES))


def _known(text: str, known: Collection[str]) -> Iterator[str]:
    for name in text.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        yield name


def run(options: argparse.Namespace) -> int:
    subjects = list(_subjects(options))
    if "triton" in options.target:
        interpret_triton()
    shapes = [shape for shape in SHAPES if not (options.quick and shape == LARGE)]
    if options.storage is not None:
        shapes += CODED
    failed = False
    for subject in subjects:
        print(subject.rule.name)
        for trial in trials(subject, options.target, options.dtype, shapes, options.seed):
            begin = time.perf_counter()
            try:
                outcome = trial.run()
            except NativeError as error:
                raise Fault(str(error)) from None
            print(_line(outcome, time.perf_counter() - begin))
            sys.stdout.flush()
            failed |= not outcome.passed
    return 1 if failed else 0


def _subjects(options: argparse.Namespace) -> Iterator[Subject]:
    target = find_target(options.file, options.rule)
    sink = Sink()
    scope = make_scope(target.source, sink, target.folder)
    check_scope(scope, sink)
    sink.check()
    names = pick(target, rule_names(scope))
    classes = load_source(target.source, target.folder)
    for name in names:
        splits: list[Split] = []
        compiled = compile_rule(scope, name, observe=_keep(splits))
        rule, made = compiled.rule, getattr(classes, name)
        if options.storage is not None:
            try:
                rule = stored_as(rule, options.storage)
            except ValueError as error:
                raise Fault(str(error)) from None
            made = partial(made, storage=options.storage)
        yield Subject(rule, compiled.plan, splits[-1].variants, made)


def _keep(splits: list[Split]) -> Observer:
    """An observer that keeps the variants; the last rewriting changes them in place."""

    def observe(stage: str, rule: str, result: object) -> None:
        if isinstance(result, Split):
            splits.append(result)

    return observe


def _line(outcome: Outcome, seconds: float) -> str:
    name = str(outcome.dtype).removeprefix("torch.")
    verdict = "ok  " if outcome.passed else "FAIL"
    line = (
        f"  {verdict} {outcome.target:<9} {name:<8} {outcome.worst_ulps:8.3g} ulps "
        f"{outcome.worst_share:6.1%} of bound, {outcome.elements:,} elements, {seconds:.1f} s"
    )
    if outcome.undecided:
        line += f", {outcome.undecided} of {outcome.decided:,} comparisons may fall either way"
    if outcome.loose:
        line += f", {outcome.loose:,} bounds say little"
    if outcome.setting:
        line += f"  [{outcome.setting}]"
    return line if outcome.passed else f"{line}\n       {outcome.failure}"
