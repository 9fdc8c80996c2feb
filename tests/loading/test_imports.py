"""What using an optimizer imports."""

from __future__ import annotations

import subprocess
import sys

STEPS = """
import sys, torch
from optdsl.zoo import AdamW

p = torch.nn.Parameter(torch.ones(3))
optimizer = AdamW([p], lr=0.1, backend="cpu")
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
p.grad = torch.ones(3)
optimizer.step()
optimizer.zero_grad()
assert p.grad is None
optimizer.state_dict()
assert "torch._dynamo" not in sys.modules
"""


def test_nothing_imports_torchs_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert not done.returncode, done.stderr
