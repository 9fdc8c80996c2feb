"""DTensors: FSDP2 on two processes, checkpoints of shards, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def together(case: str, argument: str, folder: Path, world: int) -> None:
    """Runs a case of sharded.py in `world` processes; fails with what the first to fail said."""
    command = [sys.executable, "-m", "tests.runtime.sharded", case, argument, str(folder / "store")]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(world)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    said = [each.communicate(timeout=180)[1] for each in running]
    for each, text in zip(running, said, strict=True):
        assert each.returncode == 0, text


def test_as_torchs_own_under_fsdp_and_through_checkpoints(tmp_path: Path) -> None:
    together("together", str(tmp_path / "saved"), tmp_path, 2)


def test_on_one_process_every_rule_steps(tmp_path: Path) -> None:
    together("alone", "", tmp_path, 1)
