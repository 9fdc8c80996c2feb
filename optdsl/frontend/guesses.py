"""What the writer of a name that is not defined may have meant.

Input: the name and where it stands. Output: the help of E202 and E207, in lowering and in `resolve`
alike.
Relies on: the tree. Does not do: decide what is defined.
"""

from __future__ import annotations

from collections.abc import Iterable

from optdsl.diagnostics import did_you_mean
from optdsl.syntax import ast

ELSEWHERE = {
    **dict.fromkeys(("grad", "grads", "gradient"), "the gradient is `g`"),
    **dict.fromkeys(("param", "params", "parameter", "theta", "weight"), "the parameter is `p`"),
}
"""What p and g are called in code and papers."""
CALLED_ELSEWHERE = {
    **dict.fromkeys(("orthogonalize", "orthogonalise", "zeropower", "msign"), "newton_schulz(x)"),
    **dict.fromkeys(("clip", "clip_by_value"), "clamp(x, low, high)"),
    **dict.fromkeys(("square", "sq"), "x^2"),
    **dict.fromkeys(("bias_correct", "bias_correction"), "debias(m, beta)"),
    **dict.fromkeys(("whitening", "orthonormalize"), "whiten(x)"),
    "rsqrt": "1 / sqrt(x)",
    "relu": "max(x, 0)",
    "softmax": "exp(x) / sum(exp(x))",
    "outer": "x @ y.T",
}
"""What functions of code and papers are here."""
WORDS = ("true", "false", "none", "pi", "inf")


def mend_of(name: str, known: Iterable[str], item: ast.Node, is_item: bool) -> str:
    """How `name`, undefined in `item`, may be mended. `known` are the names in reach there;
    `is_item` says that there is a function or a rule of that name."""
    if is_item:
        return f"`{name}` is a function or rule; call it with ( )"
    meant = did_you_mean(name, [*known, *WORDS])
    if meant is not None:
        return f"did you mean `{meant}`?"
    if name.lower() in ELSEWHERE:
        return ELSEWHERE[name.lower()]
    if isinstance(item, ast.Def):
        return f"make it a parameter of the function and pass `{name}`"
    if name in _assigned(item):
        return f"a value kept from step to step is declared with `state {name}`"
    return f"give `{name}` a value before, or make it a hyperparameter with a default"


def mend_of_call(name: str, known: Iterable[str]) -> str:
    """How a call of `name`, which is no function, may be mended; `known` are functions."""
    usual = CALLED_ELSEWHERE.get(name.lower().split("_via_")[0])
    if usual is not None:
        return f"write `{usual}`"
    meant = did_you_mean(name, known)
    return f"did you mean `{meant}`?" if meant else "`optdsl show std` lists the standard library"


def _assigned(node: ast.Node) -> set[str]:
    """The names that some statement below `node` assigns."""
    names: set[str] = set()
    for child in ast.children(node):
        names |= _assigned(child)
    if isinstance(node, ast.Assign):
        names |= {each.name for each in node.targets if isinstance(each, ast.Name)}
    return names
