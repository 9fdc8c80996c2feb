"""The generated module as a text: golden sources, form, the same bytes for the same rule."""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from optdsl.codegen.module import OPTIONS, python_module
from optdsl.runtime.optimizer import Optimizer
from optdsl.schedule.plan import Phase, Plan, Store
from optdsl.types import Storage
from tests.plans import Sketch, adamw, gradient, kernel, parameter
from tests.rules import marked, shipped_plans

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SHOWN = ("AdamW", "Adafactor", "LAMB", "LookaheadAdamW", "SWAN")
"""One pass; rows and columns; sums; variants; library passes."""


def text_of(name: str) -> str:
    return python_module(shipped_plans()[name](), version="0", command=f"optdsl compile {name}")


def load(text: str, name: str) -> Any:
    names: dict[str, Any] = {"__name__": f"generated_{name}"}
    exec(compile(text, f"{name}.py", "exec"), names)
    return names[name]


@pytest.mark.parametrize("name", SHOWN)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    """Review a change as a diff: `pytest tests/codegen --update-golden`, then `git diff`."""
    path, text = GOLDEN / f"{name}.txt", text_of(name)
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    wanted = path.read_text(encoding="utf-8").splitlines()
    diff = list(difflib.unified_diff(wanted, text.splitlines(), "golden", "generated", lineterm=""))
    assert not diff, "\n".join(diff[:80])


def test_same_bytes_in_every_process() -> None:
    code = (
        "import hashlib; from optdsl.compiler import compile_rule;"
        "from optdsl.frontend.scope import shipped;"
        "texts = [compile_rule(shipped(each)[1], each).text for each in ('LAMB', 'SWAN')];"
        "print(hashlib.sha256(''.join(texts).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != ""


@pytest.mark.parametrize("name", marked(sorted(shipped_plans())))
def test_form(name: str, tmp_path: Path) -> None:
    """As a formatter and a linter would have it: nothing unused, undefined, or too long."""
    path = tmp_path / f"{name}.py"
    path.write_text(text_of(name), encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--isolated", "--line-length", "100", "--target-version", "py311", str(path)]
    for command in (["check", "--select", "E,F,I,W"], ["format", "--diff"]):
        answer = subprocess.run([*ruff, *command, *settings], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("name", marked(sorted(shipped_plans())))
def test_computed_lines_say_where_they_come_from(name: str) -> None:
    """Each assignment of an expression in C ends in, or follows, the place in the rule."""
    (module,) = [load(text_of(name), name)]
    lines = module.program.c_source.partition("\nvoid ")[2].splitlines()
    computed = [
        (before, line)
        for before, line in pairwise(lines)
        if re.search(r"const (real|int) \w+ = ", line)
        and "widen_" not in line
        and "_at[" not in line
    ]
    assert computed
    for before, line in computed:
        place = "// " in line or before.lstrip().startswith("// ")
        name_alone = line.split("=")[1].strip().startswith("real(scalars[")
        assert place or name_alone, line


def test_signature_and_docstring() -> None:
    adamw = load(text_of("AdamW"), "AdamW")
    parameters = inspect.signature(adamw).parameters
    assert list(parameters)[:5] == ["params", "lr", "betas", "eps", "weight_decay"]
    assert parameters["betas"].default == (0.9, 0.999)
    assert parameters["maximize"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "Decoupled weight decay" in adamw.__doc__
    assert "weight_decay  0.01" in adamw.__doc__
    assert issubclass(adamw, Optimizer)


def test_options_are_those_of_the_optimizer() -> None:
    taken = inspect.signature(Optimizer.__init__).parameters
    given = {each.name: each.default for each in taken.values() if each.kind is each.KEYWORD_ONLY}
    del given["seed"]  # its default is that of rules that draw random numbers or of others
    del given["products"]  # a keyword of rules that make some
    assert {name: ast.literal_eval(default) for name, default in OPTIONS} == given


def test_a_step_like_torch_s() -> None:
    adamw = load(text_of("AdamW"), "AdamW")
    ours = [torch.ones(5, 3, requires_grad=True), torch.ones(7, requires_grad=True)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    optimizers = adamw(ours, lr=0.1), torch.optim.AdamW(theirs, lr=0.1)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad = torch.randn_like(p)
        for each in optimizers:
            each.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


def odd_plan() -> Plan:
    """Hyperparameters with names that Python or the class takes, and a text that quotes."""
    s = Sketch("Odd", "optimizer Odd():\n    p = p\n")
    p = s.load("p")
    for name in ("lambda", "self", "backend"):
        p = s.make("add", p, s.scalar(s.hyper(name)))
    hypers = {"lambda": 1.0, "self": 2.0, "backend": 3.0}
    plan = s.plan(
        hypers, [parameter(), gradient()], [kernel(0, "odd_0", Phase(stores=(Store("p", p),)))]
    )
    plan.rule.doc = 'Says """hello""" and \\n; ends in "'
    return plan


def test_names_and_texts_that_python_takes() -> None:
    odd = load(python_module(odd_plan(), version="0"), "Odd")
    assert odd.__doc__.startswith('Says """hello""" and \\n; ends in "')
    p = torch.zeros(3, requires_grad=True)
    optimizer = odd([p], lambda_=10.0, self_=20.0, backend_=30.0, backend="cpu")
    p.grad = torch.zeros(3)
    optimizer.step()
    assert p.tolist() == [60.0] * 3
    assert optimizer.param_groups[0]["lambda"] == 10.0


def test_how_a_state_is_coded_is_no_part_of_its_kernels() -> None:
    each = (adamw(storage) for storage in (Storage.COMPUTE, Storage.INT8))
    plain, coded = (python_module(plan, version="0") for plan in each)
    assert plain.partition("PROGRAM = ")[0] == coded.partition("PROGRAM = ")[0]
    assert 'storage="int8"' in coded
