"""A generated module that carries the runtime with it: one file that needs torch and triton alone.

Input: the text of a generated module. Output: a text with the same class, in which the modules of
the runtime stand as strings and are imported from there, under a package name of their own: files
made by different versions live side by side, and beside an installed optdsl.

Relies on: the runtime importing nothing but itself, torch and what comes with it.
Does not do: the rule.
"""

from __future__ import annotations

import hashlib
import re

from optdsl.codegen.literals import raw
from optdsl.codegen.templates import render
from optdsl.resources import PACKAGE

# What host functions and library passes call, and what a step is made of.
FILES = (
    "axes.py",
    "randomness.py",
    "draws.py",
    "hostmath.py",
    "linalg.py",
    "order.py",
    "runtime/**/*.py",
    "runtime/**/*.c",
)
_IMPORT = re.compile(r"^(\s*(?:from|import) )optdsl\b", re.MULTILINE)


def standalone_module(text: str, *, version: str) -> str:
    """The module `text`, as python_module gives it, with the runtime inside."""
    sources = runtime_sources()
    digest = hashlib.sha256("\0".join(f"{n}\0{s}" for n, s in sources).encode()).hexdigest()
    package = f"optdsl_{digest[:12]}"
    files = [(name, raw(_IMPORT.sub(rf"\g<1>{package}", source))) for name, source in sources]
    head, imports, rest = _parts(_IMPORT.sub(rf"\g<1>{package}", text))
    return render(
        "python/standalone.py.j2",
        head=head,
        version=version,
        package=package,
        files=files,
        imports=imports,
        rest=rest,
    )


def runtime_sources() -> list[tuple[str, str]]:
    """The runtime's files, by their path in the package."""
    paths = sorted(path for pattern in FILES for path in PACKAGE.glob(pattern))
    return [(path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8")) for path in paths]


def _parts(text: str) -> tuple[str, str, str]:
    """The docstring, the imports, and what follows them."""
    head, _, below = text.partition('"""\n\n')
    imports, _, rest = below.partition("\n\n\n")
    return f'{head}"""\n', imports, f"\n{rest.rstrip()}"
