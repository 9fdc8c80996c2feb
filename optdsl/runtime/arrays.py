"""Tables of numbers, as C and Triton take them.

Relies on: numpy. Does not do: what stands in them (program.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
