"""Programs written by hand, with their C, for tests of the runtime alone.

They are the smallest rules that need a part of it: a count, births and branches, a sum over
all, states of a group and of the run, factored states of batches, library passes, host functions
of names and attributes.
"""

from tests.runtime.programs.elements import ADAM, HOSTED, LOOKAHEAD, SGD, Adam
from tests.runtime.programs.libraries import GRAM, WHOLE
from tests.runtime.programs.making import make, optimizer_class
from tests.runtime.programs.sums import CLIP, DISTANCE, FACTORED, UNEVEN

__all__ = [
    "ADAM", "CLIP", "DISTANCE", "FACTORED", "GRAM", "HOSTED", "LOOKAHEAD", "SGD", "UNEVEN", "WHOLE",
    "Adam", "make", "optimizer_class",
]  # fmt: skip
