"""`optdsl compile`: rules as Python modules.

Input: rule files. Output: a module for each rule. Relies on: compiler; dumps for --dump-after.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from optdsl.cli.rules import Target, find_target, pick, snake, storage
from optdsl.cli.terminal import Fault, color_wanted, write_file
from optdsl.codegen.module import TARGETS
from optdsl.codegen.standalone import standalone_module
from optdsl.compiler import PASSES, CompiledRule, Observer, Stored, compile_source, ignore
from optdsl.diagnostics import CompileError, Diagnostic, Sink, did_you_mean, render_text
from optdsl.dumps import dump_text
from optdsl.frontend.rules import rule_names
from optdsl.frontend.scope import make_scope
from optdsl.version import VERSION

MARK = ", compiled from "
"""What the first line of a generated module says; any other file is the user's own."""

EXAMPLES = f"""\
A module needs optdsl's runtime where it is used. Its text depends on the rule alone.

passes, for --dump-after:
  {", ".join(PASSES)}

examples:
  optdsl compile my_rule.opt                     my_rule.py in this folder
  optdsl compile rules/*.opt -o out/             a module for each rule of each file
  optdsl compile my_rule.opt --standalone        one file that works without optdsl
  optdsl compile my_rule.opt --dump-after=build  the plan, on stdout; writes nothing
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a rule file, or the name of a shipped rule"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="a folder, or for one rule a file NAME.py"
    )
    parser.add_argument(
        "--rule", action="append", metavar="NAME", help="only this rule of the file (repeatable)"
    )
    parser.add_argument(
        "--target",
        type=_targets,
        default=TARGETS,
        metavar="T,..",
        help=f"whose kernels to put in: {', '.join(TARGETS)} (default: all)",
    )
    parser.add_argument(
        "--storage",
        type=storage,
        metavar="[KEY=]S,..",
        help="how states are stored, such as int8 or exp_avg_sq=int8 (default: as the rule says)",
    )
    parser.add_argument(
        "--dump-after", metavar="PASS", help="print what a pass leaves, instead of writing modules"
    )
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="put the runtime into the file: it then needs torch and triton alone",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are not generated")


def _targets(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in TARGETS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(TARGETS)}")
    return names


def run(options: argparse.Namespace) -> int:
    dumped = options.dump_after
    if dumped is not None and dumped not in PASSES:
        meant = did_you_mean(dumped, PASSES)
        mend = f"did you mean {meant}? " if meant else ""
        raise Fault(f"there is no pass {dumped}; {mend}the passes are {', '.join(PASSES)}")
    observe = ignore if dumped is None else _printer(dumped)
    rules: list[CompiledRule] = []
    faults: list[Diagnostic] = []
    for typed in options.files:
        try:
            target = find_target(typed, options.rule)
            rules += _compile(target, observe, options.target, options.storage)
        except CompileError as error:
            faults += error.diagnostics
    if faults:
        raise CompileError(faults)
    if dumped is None:
        _write(rules, options.output, options.force, options.standalone)
    return 0


def _printer(wanted: str) -> Observer:
    def observe(stage: str, rule: str, result: object) -> None:
        if stage == wanted:
            print(f"# after {stage}{f', {rule}' if rule else ''}")
            print(dump_text(result), end="")

    return observe


def _compile(
    target: Target, observe: Observer, targets: tuple[str, ...], stored: Stored
) -> tuple[CompiledRule, ...]:
    sink = Sink()
    known = rule_names(make_scope(target.source, sink, target.folder))
    names = None if sink.has_errors else pick(target, known)
    command = f"optdsl compile {Path(target.source.name).name}"
    try:
        found = compile_source(
            target.source, target.folder, names, command, observe, targets, stored
        )
    except ValueError as error:
        raise Fault(str(error)) from None
    if found.warnings:
        print(render_text(found.warnings, color_wanted(sys.stderr)), file=sys.stderr)
    return found.rules


def _write(rules: list[CompiledRule], output: str | None, force: bool, standalone: bool) -> None:
    """Write all modules, or none where one of them may not be written."""
    paths = _paths(rules, Path(output or "."))
    for path in paths:
        if not force and path.exists() and not _is_generated(path):
            raise Fault(f"{path}: exists and was not generated; --force replaces it")
    for path, rule in paths.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Fault(f"{path.parent}: cannot be made: {error.strerror or error}") from None
        text = standalone_module(rule.text, version=VERSION) if standalone else rule.text
        write_file(path, text)
        print(f"{path}: written")


def _paths(rules: list[CompiledRule], output: Path) -> dict[Path, CompiledRule]:
    if output.suffix == ".py" and not output.is_dir():
        if len(rules) != 1:
            names = ", ".join(rule.name for rule in rules)
            raise Fault(f"{output} can hold one rule, not {names}; give a folder, or --rule NAME")
        return {output: rules[0]}
    paths: dict[Path, CompiledRule] = {}
    for rule in rules:
        path = output / f"{snake(rule.name)}.py"
        if path in paths:
            raise Fault(f"{paths[path].name} and {rule.name} would both be {path}")
        paths[path] = rule
    return paths


def _is_generated(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return MARK in file.readline()
    except (OSError, UnicodeDecodeError):
        return False
