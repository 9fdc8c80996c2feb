"""The command line: `optdsl COMMAND ...`.

Input: arguments. Output: an exit status (0 fine, 1 the rule is wrong, 2 the call or the
environment is, 70 a bug of optdsl), and never a traceback. A command is a module beside this one
with `configure(parser)` and `run(options) -> status`, imported when it is called: `check` needs
0.2 s, torch alone 2 s. argparse for the same reason: typer would cost another 0.15 s.
Does not do: any work of a command.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from optdsl.cli.terminal import Fault, color_wanted
from optdsl.diagnostics import CompileError, InternalError, did_you_mean, render_text
from optdsl.version import VERSION

COMMANDS = {
    "new": "write a commented rule to start from",
    "check": "report the errors and warnings of rule files",
    "fmt": "bring rule files into the one canonical layout",
    "show": "print what a rule becomes: tree, typed rule, plan, C, Triton, Python",
    "explain": "say what a rule costs, or what an error code means",
    "compile": "write rules as Python modules with fused kernels",
    "verify": "run generated code against the float64 interpreter",
    "bench": "race rules against what one would take instead",
    "zoo": "list, print or copy the rules that are shipped",
}

_LISTED = "\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())

HELP = f"""\
optdsl {VERSION}: a compiler for optimizers

usage: optdsl COMMAND ...      optdsl COMMAND --help

commands:
{_LISTED}

examples:
  optdsl new MyRule                      a rule file to edit
  optdsl check my_rule.opt               all errors in one run
  optdsl explain my_rule.opt             passes over memory, bytes, flops, time
  optdsl explain E301                    what an error means and how to mend it
  optdsl compile my_rule.opt -o out/     out/my_rule.py, a torch.optim.Optimizer
  optdsl zoo copy AdamW                  adamw.opt, to change

exit status:
  0  fine
  1  a rule is wrong, or would be changed by `fmt --check`
  2  the call or the environment is wrong (no such file, no C compiler, ...)
  70 a bug of optdsl itself

environment:
  OPTDSL_CACHE   where generated code is kept, else ~/.cache/optdsl
  OPTDSL_VERIFY  set to 1 to check the compiler's own stages
  NO_COLOR       no colours, even on a terminal
"""

USAGE, INTERNAL, INTERRUPTED = 2, 70, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what it wants to say goes to stdout, what went wrong to stderr."""
    try:
        status = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # `optdsl show ... | head`
        _drop_output()
        return 0
    except OSError as error:  # a full disk behind stdout
        _drop_output()
        return _say(f"stdout: {error.strerror or error}", USAGE)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _drop_output() -> None:
    """What is still to be written would fail again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(HELP, file=sys.stderr, end="")
        return USAGE
    if arguments[0] == "help" and len(arguments) > 1:
        arguments = [arguments[1], "--help"]
    if arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"optdsl {VERSION}")
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except Fault as fault:
        return _say(str(fault), USAGE)
    except CompileError as error:
        print(render_text(error.diagnostics, color_wanted(sys.stderr)), file=sys.stderr)
        return 1
    except InternalError as error:
        return _say(str(error), INTERNAL)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except OSError as error:
        if error.filename is None:  # stdout has no name
            raise
        return _say(f"{error.filename}: {error.strerror or error}", USAGE)
    except SystemExit as end:  # argparse has said what is wrong
        return end.code if isinstance(end.code, int) else USAGE
    except Exception as error:
        if os.environ.get("OPTDSL_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return _say(f"{InternalError(arguments[0], what)}; OPTDSL_DEBUG=1 shows where", INTERNAL)


def _run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        meant = did_you_mean(name, COMMANDS)
        mend = f"did you mean `{meant}`?" if meant else "`optdsl --help` lists the commands"
        raise Fault(f"there is no command `{name}`; {mend}")
    command = importlib.import_module(f"optdsl.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"optdsl {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        epilog=command.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.configure(parser)
    status: int = command.run(parser.parse_args(arguments))
    return status


def _say(text: str, status: int) -> int:
    print(f"optdsl: {text}", file=sys.stderr)
    return status
