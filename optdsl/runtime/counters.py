"""What a step did, counted: for tests and for `explain`, never for decisions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """`steps` taken, and those `skipped` for a gradient scaler; `scans` of gradients' addresses;
    `looks` at all parameters and states anew; `plans` made; `calls` into native code, of which
    `regions` started threads; `launches` of GPU kernels; `rows` of scalars worked out; `batches` of
    library passes; `unpacked` buffers that were loaded for a whole step, of which kernels could not
    work as they are kept; `evaluations` of the model besides the caller's own."""

    steps: int = 0
    skipped: int = 0
    scans: int = 0
    looks: int = 0
    plans: int = 0
    calls: int = 0
    regions: int = 0
    launches: int = 0
    rows: int = 0
    batches: int = 0
    unpacked: int = 0
    evaluations: int = 0
