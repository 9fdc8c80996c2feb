"""`optdsl new`: a rule file to start from.

Input: a name. Output: a commented rule that compiles as it is.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from optdsl.cli.rules import snake
from optdsl.cli.terminal import Fault, write_file
from optdsl.diagnostics import CompileError
from optdsl.source import Source
from optdsl.syntax.layout import format_module

EXAMPLES = """\
examples:
  optdsl new MyRule                 my_rule.opt in this folder
  optdsl new MyRule -o rules/       rules/my_rule.opt
  optdsl new MyRule -o -            to the terminal
"""

RULE = '''\
# A rule says how one parameter changes in a step. `optdsl check {file}` reports mistakes,
# `optdsl explain {file}` what a step costs, and in Python
#     optdsl.load("{file}").{name}(model.parameters(), lr=1e-3)
# is a torch.optim.Optimizer.

# Hyperparameters with their defaults; each may differ between groups and change between steps.
optimizer {name}(lr = 1e-3, beta = 0.9, weight_decay = 0):
    """What it does, and where it is from (Authors, year)."""
    require lr >= 0, 0 <= beta < 1, weight_decay >= 0

    # A state is kept from step to step: of p's shape and zero at first, unless said otherwise:
    #     state row: [rows, 1], first = p, norms: [] over all
    state m named "exp_avg"

    # p is the parameter, g its gradient, t the number of this update, from 1. Statements run in
    # order; all of this becomes one pass over memory.
    m = lerp(m, g, 1 - beta)       # m + (1 - beta) * (g - m)
    u = debias(m, beta)            # m / (1 - beta^t)

    # Reductions are over the parameter, over its rows or columns (axis = 0 | 1), or over all
    # parameters: u *= min(1, 1 / norm(u, over = all))
    p *= 1 - lr * weight_decay
    p -= lr * sign(u)
'''


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the rule's name, such as MyRule")
    parser.add_argument("-o", "--output", metavar="PATH", help="a file, a folder, or -")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(options: argparse.Namespace) -> int:
    file = f"{snake(options.name)}.opt"
    target = Path(options.output or file)
    if target.is_dir():
        target /= file
    text = rule_text(options.name, file if options.output == "-" else target.name)
    if options.output == "-":
        print(text, end="")
        return 0
    if target.exists() and not options.force:
        raise Fault(f"{target}: exists already; --force replaces it")
    write_file(target, text)
    print(f"{target}: written")
    return 0


def rule_text(name: str, file: str) -> str:
    """The rule called `name`. Raises Fault where that cannot be a rule's name."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise Fault(f"`{name}` cannot be a rule's name: letters, digits and _, no digit first")
    text = RULE.format(name=name, file=file)
    try:
        return format_module(Source(file, text))
    except CompileError:
        raise Fault(f"`{name}` cannot be a rule's name: it is a word of the language") from None
