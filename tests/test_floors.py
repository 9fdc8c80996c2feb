"""The shape of the code: who may import whom, and how large a piece may be.

Reads the sources by `ast`, so that it also sees imports that no test runs. ARCHITECTURE.md has the
same table in words.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "optdsl"

# A module imports from its own floor or below; within a floor there is no cycle.
FLOORS = {
    "source": 0,
    "diagnostics": 0,
    "codes": 0,
    "resources": 0,
    "files": 0,
    "version": 0,
    "hostmath": 0,
    "draws": 0,
    "randomness": 0,
    "axes": 0,
    "linalg": 0,
    "order": 0,
    "types": 1,
    "ops": 1,
    "syntax": 2,
    "ir": 3,
    "frontend": 4,
    "passes": 4,
    "interpreter": 4,
    "schedule": 5,
    "codegen": 6,
    "runtime": 6,
    "compiler": 7,
    "dumps": 7,
    "hosteval": 7,
    "explain": 7,
    "copied": 7,
    "memory": 7,
    "models": 7,
    "verify": 7,
    "bench": 7,
    "gallery": 7,
    "latex": 7,
    "cache": 7,
    "generated": 7,
    "loading": 7,
    "zoo": 7,
    "cli": 8,
    "__init__": 8,
    "__main__": 8,
}

# What generated code imports must not drag the compiler in.
SEALED = "runtime"
SHARED = ("axes", "draws", "hostmath", "linalg", "order", "randomness")
"""Arithmetic that generated code and the interpreter must do alike; it imports nothing of ours."""

# Of the runtime: what stands below all rooms, the rooms from the lowest up; all else is above.
BELOW_ROOMS = ("program", "arrays", "counters", "model", "native")
ROOMS = (("parameters",), ("storage",), ("states",), ("stages",), ("cpu", "triton"))

# Packages that may be missing, and are imported where they are first needed.
OPTIONAL = {"PIL", "matplotlib", "rich", "sklearn", "triton"}

MODULE_LINES = 450
FUNCTION_LINES = 60
TEMPLATE_LINES = 60
LINE_LENGTH = 100

# "path" or "path:function" -> why it may be larger. An entry that is not needed fails.
LARGER: dict[str, str] = {}

SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))
SIZED = SOURCES + sorted(p for d in ("benchmarks", "examples") for p in (ROOT / d).rglob("*.py"))
TEMPLATES = sorted(p for p in (ROOT / "templates").rglob("*") if p.is_file())
TEXTS = [
    *SIZED,
    *TEMPLATES,
    *sorted(
        p
        for d in (PACKAGE, "grammar", "examples")
        for s in ("*.opt", "*.lark")
        for p in (ROOT / d).rglob(s)
    ),
]


def _label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in SOURCES}


@dataclass(frozen=True)
class Imported:
    """One imported module, and whether the statement stands inside a function."""

    module: str
    line: int
    inside: bool


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _names(path: Path, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules that a statement imports; `from a import b` is a.b where that is a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = _module(path).split(".")
        up = node.level - (path.name == "__init__.py")
        stem = package[: len(package) - up] if up else package
        base = ".".join([*stem, *([node.module] if node.module else [])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if inner in MODULES else base


def _imports(path: Path) -> Iterator[Imported]:
    def walk(node: ast.AST, inside: bool) -> Iterator[Imported]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for name in _names(path, child):
                    yield Imported(name, child.lineno, inside)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, inside or function)

    yield from walk(_tree(path), False)


def _is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def _area(module: str) -> str:
    """The row of the table: `optdsl.ir.nodes` is in `ir`, the package itself in `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("path", SOURCES, ids=_label)
def test_imports_go_down_the_floors(path: Path) -> None:
    area = _area(_module(path))
    assert area in FLOORS, f"{area} has no floor: add it to the table here and in ARCHITECTURE.md"
    wrong = [
        f"line {item.line}: {item.module}"
        for item in _imports(path)
        if _is_ours(item.module) and FLOORS.get(_area(item.module), 99) > FLOORS[area]
    ]
    assert not wrong, f"floor {FLOORS[area]} imports from above: {wrong}"


def _room(module: str) -> int:
    """The height of a module of the runtime."""
    name = module.split(".")[2]
    if name in BELOW_ROOMS:
        return -1
    return next((at for at, rooms in enumerate(ROOMS) if name in rooms), len(ROOMS))


@pytest.mark.parametrize("path", [p for p in SOURCES if _area(_module(p)) == SEALED], ids=_label)
def test_rooms_of_the_runtime_import_from_below(path: Path) -> None:
    own = _room(_module(path))
    inside = [i for i in _imports(path) if i.module.startswith(f"{PACKAGE}.{SEALED}.")]
    wrong = [f"line {i.line}: {i.module}" for i in inside if _room(i.module) > own]
    assert not wrong, "imports from a room above"


@pytest.mark.parametrize("path", [p for p in SOURCES if _area(_module(p)) == SEALED], ids=_label)
def test_runtime_imports_nothing_of_the_compiler(path: Path) -> None:
    wrong = [
        item.module
        for item in _imports(path)
        if _is_ours(item.module) and _area(item.module) not in (SEALED, *SHARED)
    ]
    assert not wrong


def test_no_import_cycle() -> None:
    graph = {
        module: {item.module for item in _imports(path) if item.module in MODULES} - {module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for inner in sorted(graph[module]):
                visit(inner, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])


@pytest.mark.parametrize("path", SOURCES, ids=_label)
def test_no_import_inside_a_function(path: Path) -> None:
    wrong = [
        f"line {item.line}: {item.module}"
        for item in _imports(path)
        if item.inside and item.module.split(".")[0] not in OPTIONAL
    ]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=_label)
def test_module_says_what_it_is(path: Path) -> None:
    empty = path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip()
    assert empty or ast.get_docstring(_tree(path))


# ---------------------------------------------------------------- sizes


def _pieces(path: Path) -> Iterator[tuple[str, int, int]]:
    """The file and its functions as (key, lines, limit)."""
    label = _label(path)
    yield label, len(path.read_text(encoding="utf-8").splitlines()), MODULE_LINES
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{label}:{node.name}", lines, FUNCTION_LINES


@pytest.mark.parametrize("path", SIZED, ids=_label)
def test_python_is_in_small_pieces(path: Path) -> None:
    wrong = [
        f"{key} has {lines} lines, allowed {limit}"
        for key, lines, limit in _pieces(path)
        if lines > limit and key not in LARGER
    ]
    assert not wrong


def test_exceptions_are_needed_and_give_a_reason() -> None:
    large = {key for path in SIZED for key, lines, limit in _pieces(path) if lines > limit}
    assert set(LARGER) <= large
    assert all(len(reason) > 20 for reason in LARGER.values())


@pytest.mark.parametrize("path", TEMPLATES, ids=_label)
def test_template_is_a_frame(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= TEMPLATE_LINES


@pytest.mark.parametrize("path", TEXTS, ids=_label)
def test_lines_fit(path: Path) -> None:
    wrong = [
        number
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > LINE_LENGTH
    ]
    assert not wrong, f"lines over {LINE_LENGTH} columns"


# ---------------------------------------------------------------- the reader itself


def test_reader_sees_every_form_of_import() -> None:
    path = ROOT / PACKAGE / "ir" / "imaginary.py"
    code = (
        "import optdsl.types\n"
        "from optdsl import ops\n"
        "from ..source import Span\n"
        "from . import nodes\n"
        "def f():\n"
        "    if True:\n"
        "        from triton import jit\n"
    )
    names = [
        name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _names(path, node)
    ]
    assert sorted(names) == [
        "optdsl.ir.nodes",
        "optdsl.ops",
        "optdsl.source",
        "optdsl.types",
        "triton",
    ]
