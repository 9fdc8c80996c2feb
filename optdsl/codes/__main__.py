"""`python -m optdsl.codes` prints the reference page of all codes."""

from __future__ import annotations

import sys

from optdsl.codes.page import page

sys.stdout.write(page())
