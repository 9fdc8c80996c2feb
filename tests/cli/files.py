"""Rule files for the tests of commands, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path

GOOD = "optimizer Good(lr = 0.1):\n    p -= lr * g\n"
ODD = "optimizer Odd(lr = 0.1, unused = 1):\n    p -= lr * g\n"
WRONG = """\
def unused(x):
    return x + missing

optimizer First(lr = 0.1):
    p -= lr * gg

wrapper Second(inner, k = 2):
    step inner
    p -= unknown(p)

optimizer Third(lr = 0.1):
    p -= lr * g @ g
"""


def written(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def listed(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())
