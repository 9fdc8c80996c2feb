"""`python -m optdsl` is the command `optdsl`."""

from __future__ import annotations

import sys

from optdsl.cli import main

if __name__ == "__main__":
    sys.exit(main())
