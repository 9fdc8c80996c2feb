"""optdsl: a compiler for optimizers.

    import optdsl
    rules = optdsl.load("my_rule.opt")
    optimizer = rules.MyRule(model.parameters(), lr=1e-3)

Importing this module imports neither torch nor the compiler; what needs them does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from optdsl import version

if TYPE_CHECKING:
    from optdsl.diagnostics import CompileError
    from optdsl.loading import compile_text, load

__all__ = ["CompileError", "__version__", "compile_text", "load"]

__version__ = version.VERSION

_HOMES = {
    "CompileError": "optdsl.diagnostics",
    "compile_text": "optdsl.loading",
    "load": "optdsl.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'optdsl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
