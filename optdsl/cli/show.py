"""`optdsl show`: what a rule becomes on its way.

Input: what to show, and a rule file. Output: text on stdout. Relies on: compiler, dumps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from optdsl.cli.rules import find_target, pick
from optdsl.cli.terminal import Fault
from optdsl.codegen.cpu import c_source
from optdsl.codegen.prologue import triton_source
from optdsl.compiler import CompiledRule, compile_rule
from optdsl.diagnostics import Sink
from optdsl.dumps import dump_text
from optdsl.frontend.check import check_scope
from optdsl.frontend.rules import lower_rule, rule_names
from optdsl.frontend.scope import Scope, make_scope, standard_library

EXAMPLES = """\
what:
  ast      the tree of the file
  ir       the typed rule: functions inlined, a value a line
  plan     the passes over memory of every variant
  cpu      the C of the passes
  triton   the Triton kernels
  python   the whole generated module
  std      the standard library, which is written in the language (no FILE)

examples:
  optdsl show plan my_rule.opt
  optdsl show cpu AdamW               a shipped rule
  optdsl show std
"""

PARTS: dict[str, Callable[[CompiledRule], str]] = {
    "plan": lambda found: dump_text(found.plan),
    "cpu": lambda found: c_source(found.plan),
    "triton": lambda found: triton_source(found.plan),
    "python": lambda found: found.text,
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("ast", "ir", *PARTS, "std"), help="see below")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="a rule file, or the name of a shipped rule"
    )
    parser.add_argument(
        "--rule", action="append", metavar="NAME", help="only this rule of the file (repeatable)"
    )


def run(options: argparse.Namespace) -> int:
    if options.what == "std":
        print(standard_library().module.span.source.text, end="")
        return 0
    if options.file is None:
        raise Fault(f"`show {options.what}` needs a FILE")
    target = find_target(options.file, options.rule)
    sink = Sink()
    scope = make_scope(target.source, sink, target.folder)
    if options.what == "ast":
        sink.check()
        print(dump_text(scope.module), end="")
        return 0
    check_scope(scope, sink)
    sink.check()
    names = pick(target, rule_names(scope))
    for name in names:
        if len(names) > 1:
            print(f"==> {name} <==")
        print(_part(options.what, scope, name), end="")
    return 0


def _part(what: str, scope: Scope, name: str) -> str:
    if what == "ir":
        return dump_text(lower_rule(name, scope, Sink()))
    return PARTS[what](compile_rule(scope, name))
