"""A file that carries the runtime: it runs where optdsl is not there, beside others of its kind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from optdsl.cli import main
from optdsl.codegen.module import python_module
from optdsl.codegen.standalone import runtime_sources, standalone_module
from tests.rules import shipped_plans

PROGRAM = """
import importlib.abc
import sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "optdsl":
            raise ImportError("optdsl is not installed here")

sys.meta_path.insert(0, Missing())

import pickle
import torch
import swan_alone
from adamw_alone import AdamW

torch.manual_seed(0)
for backend in ("cpu", "triton"):
    ours = [torch.randn(5, 3, requires_grad=True), torch.randn(7, requires_grad=True)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    optimizers = AdamW(ours, lr=0.1, backend=backend), torch.optim.AdamW(theirs, lr=0.1)
    for _ in range(2):
        for p, q in zip(ours, theirs):
            p.grad = q.grad = torch.randn_like(p)
        for each in optimizers:
            each.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert len(pickle.loads(pickle.dumps(optimizers[0])).state) == 2

weight = torch.randn(4, 6, requires_grad=True)
before = weight.detach().clone()
optimizer = swan_alone.SWAN([weight], lr=0.1, backend="cpu")
weight.grad = torch.randn(4, 6)
optimizer.step()
assert not torch.equal(weight, before)
assert not any(name.partition(".")[0] == "optdsl" for name in sys.modules)
print("done")
"""


def text_of(name: str) -> str:
    return python_module(shipped_plans()[name](), version="0")


def test_runs_without_optdsl(tmp_path: Path) -> None:
    for name in ("AdamW", "SWAN"):
        text = standalone_module(text_of(name), version="0")
        (tmp_path / f"{name.lower()}_alone.py").write_text(text, encoding="utf-8")
    (tmp_path / "program.py").write_text(PROGRAM)
    answer = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == "done", answer.stderr


def test_runtime_is_inside_as_it_is() -> None:
    text = standalone_module(text_of("AdamW"), version="0")
    package = re.search(r'package = "(optdsl_\w+)"', text)
    assert package is not None
    for name, source in runtime_sources():
        lines = [line for line in source.splitlines() if "optdsl" not in line]
        assert all(line in text for line in lines), name
    assert not re.search(r"^\s*(from|import) optdsl\b", text, re.MULTILINE)


def test_same_bytes_twice() -> None:
    texts = {standalone_module(text_of("AdamW"), version="0") for _ in range(2)}
    assert len(texts) == 1


@pytest.mark.parametrize("name", ["AdamW", "Muon"])
def test_the_rule_s_own_part_is_that_of_the_module(name: str) -> None:
    """From the first function on, but for the package that kernels import from."""
    module = text_of(name)
    own = module[module.index("def check(h)") :].rstrip()
    alone = standalone_module(module, version="0")
    package = re.search(r'package = "(optdsl_\w+)"', alone)
    assert package is not None
    own = own.replace("from optdsl.runtime", f"from {package[1]}.runtime")
    assert alone.rstrip().endswith(own)


def test_the_command_writes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "AdamW", "--standalone", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "adamw.py").read_text(encoding="utf-8")
    assert "RUNTIME = {" in text
    assert capsys.readouterr().out.strip().endswith("written")
    assert main(["compile", "AdamW", "--standalone", "-o", str(tmp_path)]) == 0  # its own file
