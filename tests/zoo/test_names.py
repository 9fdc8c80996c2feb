"""No shipped rule has code of its own: its name stands in no code and no template."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from optdsl.frontend.scope import shipped_index

ROOT = Path(__file__).parents[2]
NAMES = {*shipped_index(), *(path.stem for path in shipped_index().values())}


def names_in(text: str) -> Iterator[str]:
    """Names of all kinds, and texts that are one word; not comments, documentation and examples."""
    if not NAMES & set(re.findall(r"\w+", text)):
        return
    for node in ast.walk(ast.parse(text)):
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            yield from str(getattr(node, field, "")).split(".")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_code_names_a_rule() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "optdsl").rglob("*.py"))
        if path.parent.name not in ("bench", "gallery")  # they say what they compare with
        for name in names_in(path.read_text("utf-8"))
        if name in NAMES
    ]
    assert found == []


def test_no_template_names_a_rule() -> None:
    files = [path for path in sorted((ROOT / "templates").rglob("*")) if path.is_file()]
    assert files
    for path in files:
        assert not NAMES & set(re.findall(r"\w+", path.read_text("utf-8"))), path


def test_a_name_would_be_found() -> None:
    for text in ("from optdsl.zoo import AdamW", "x = 'Lion'", "zoo.SGD(p)", "def lamb(): pass"):
        assert NAMES & set(names_in(text))
