"""`optdsl zoo`: the rules that are shipped.

Input: a name. Output: a list, a file's text, or a copy of it.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from optdsl.cli.terminal import Fault, write_file
from optdsl.diagnostics import did_you_mean
from optdsl.frontend.scope import shipped, shipped_index
from optdsl.syntax import ast

EXAMPLES = """\
examples:
  optdsl zoo                          names and papers
  optdsl zoo show SWAN                the rule file
  optdsl zoo copy AdamW -o mine.opt   a copy to change (default: the file's own name)
  optdsl zoo pages -o docs            docs/zoo.md and a page for every rule, with formulas
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("list", "show", "copy", "pages"), default="list"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a rule, as `zoo list` names it")
    parser.add_argument("-o", "--output", metavar="FILE", help="where it is written")
    parser.add_argument(
        "--pictures", action="store_true", help="let `pages` draw those that are missing (minutes)"
    )
    parser.add_argument("--force", action="store_true", help="let `copy` replace a file")


def run(options: argparse.Namespace) -> int:
    if options.action == "list":
        if options.name is not None:
            raise Fault(f"`zoo list` takes no name; did you mean `zoo show {options.name}`?")
        _list()
        return 0
    if options.action == "pages":
        # Imported here: listing rules needs no compiler, pictures need torch.
        importlib.import_module("optdsl.cli.pages").write(options)
        return 0
    if options.name is None:
        raise Fault(f"`zoo {options.action}` needs the name of a rule")
    path = _file_of(options.name)
    if options.action == "show":
        print(path.read_text("utf-8"), end="")
        return 0
    target = Path(options.output or path.name)
    if target.is_dir():
        target /= path.name
    if target.exists() and not options.force:
        raise Fault(f"{target}: exists already; --force replaces it")
    write_file(target, path.read_text("utf-8"))
    print(f"{target}: written")
    return 0


def _list() -> None:
    rules = [each for each in shipped_index() if _is_rule(each)]
    width = max(map(len, rules))
    for name in sorted(rules, key=str.lower):
        print(f"{name:<{width}}  {_title(name)}".rstrip())


def _is_rule(name: str) -> bool:
    """Not a function that the rules of a file share."""
    found = shipped(name)
    return found is not None and isinstance(found[0], ast.Optimizer | ast.Wrapper | ast.Alias)


def _title(name: str) -> str:
    """The first sentence of a rule's docstring, or what an alias stands for."""
    found = shipped(name)
    assert found is not None
    item = found[0]
    if isinstance(item, ast.Alias):
        return item.value.span.text
    body = getattr(item, "body", ())
    lines = body[0].text.split("\n\n")[0] if body and isinstance(body[0], ast.Doc) else ""
    kind = "wrapper: " if isinstance(item, ast.Wrapper) else ""
    return kind + " ".join(lines.split())


def _file_of(name: str) -> Path:
    path = shipped_index().get(name)
    if path is None:
        meant = did_you_mean(name, shipped_index())
        mend = f"did you mean `{meant}`?" if meant else "`optdsl zoo` lists them"
        raise Fault(f"no rule `{name}` is shipped; {mend}")
    return path
