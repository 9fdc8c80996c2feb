"""The shipped rules as optimizer classes: `from optdsl.zoo import AdamW, SWAN`.

Input: a name. Output: the class, compiled from the rule file beside this one when it is first
asked for. The names are those that the files define; `optdsl zoo` lists them.
"""

from __future__ import annotations

from typing import Any

from optdsl.diagnostics import did_you_mean
from optdsl.frontend.scope import shipped_index
from optdsl.loading import load


def __getattr__(name: str) -> Any:
    index = shipped_index()
    if name == "__all__":
        return list(index)
    if name not in index:
        meant = did_you_mean(name, index)
        mend = f"; did you mean {meant}?" if meant else ""
        raise AttributeError(f"no rule {name!r} is shipped{mend}")
    for each, value in vars(load(index[name])).items():
        if each in index:
            globals()[each] = value
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *shipped_index()})
