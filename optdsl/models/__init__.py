"""Shapes of models: those that ship as JSON, and a user's own.

Input: a model's name, or the path of a JSON object from parameter names to shapes. Output: shapes
by name. Does not do: make the files (architectures.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from optdsl.diagnostics import did_you_mean

Shapes = dict[str, tuple[int, ...]]
FOLDER = Path(__file__).parent


def known() -> list[str]:
    """The models that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def shapes_of(model: str) -> Shapes:
    """The shapes of a model that ships, or of the file at the path `model`.

    Raises ValueError, with a line that says why, where there is neither or it is not of that form.
    """
    path = FOLDER / f"{model}.json" if model in known() else Path(model)
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        meant = did_you_mean(model, known())
        mend = f"did you mean {meant}?" if meant else f"there are {', '.join(known())}"
        raise ValueError(f"{model}: no such file, and no model of that name; {mend}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{model}: {_reason(error)}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{model}: not an object from parameter names to shapes")
    for name, shape in data.items():
        if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)):
            raise ValueError(f"{model}: {name} has the shape {shape!r}, not a list of sizes")
    return {name: tuple(shape) for name, shape in data.items()}


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"no JSON: {error}"


def to_json(shapes: Shapes) -> str:
    """One parameter a line."""
    return "{\n" + ",\n".join(_lines(shapes)) + "\n}\n"


def _lines(shapes: Shapes) -> Iterator[str]:
    for name, shape in shapes.items():
        yield f"  {json.dumps(name)}: {json.dumps(list(shape))}"
