"""The reference meaning: a typed rule, run as it stands, in float64.

Input: a rule before any pass, and the parameters that take part in a step. Output: new p and new
states; nothing is changed in place. Relies on: the op table's `torch` column.

A rule is a pure graph, so running it is evaluating what its outputs need, for each parameter, each
value once. A reduction `over` parameters evaluates its operand for all that are in its scope: this
is the lockstep of the language's definition. Does not do: storage (values are not rounded), speed.
"""

from __future__ import annotations

from optdsl.interpreter.members import Closure, Member, Outcome, Update, matrix_sizes
from optdsl.interpreter.run import evaluate, first_value, run

__all__ = [
    "Closure",
    "Member",
    "Outcome",
    "Update",
    "evaluate",
    "first_value",
    "matrix_sizes",
    "run",
]
