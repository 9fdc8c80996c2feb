"""`python -m optdsl.models` writes the JSON files from the architectures' configurations."""

from __future__ import annotations

from optdsl.models import FOLDER, to_json
from optdsl.models.architectures import MODELS

for name, shapes in MODELS.items():
    (FOLDER / f"{name}.json").write_text(to_json(shapes), "utf-8")
