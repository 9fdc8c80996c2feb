"""What commands make of a rule: representations, modules, storage."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optdsl.cli import main
from optdsl.compiler import PASSES
from tests.cli.files import GOOD, ODD, WRONG, listed, written

# ---------------------------------------------------------------- show, compile


@pytest.mark.parametrize("what", ["ast", "ir", "plan", "cpu", "triton", "python"])
def test_show(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", what, "AdamW"]) == 0
    out = capsys.readouterr().out
    expected = {
        "ast": "Optimizer name='AdamW'",
        "ir": "rule AdamW view=rows",
        "plan": "stage 0 kernel adamw",
        "cpu": "void adamw",
        "triton": "@triton.jit",
        "python": "class AdamW(Optimizer):",
    }
    assert expected[what] in out


def test_show_std(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "std"]) == 0
    assert "def newton_schulz(" in capsys.readouterr().out


def test_show_needs_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "ir"]) == main(["show", "ir", "EMA"]) == 2
    assert main(["show", "ir", "AdamW", "--rule", "Adam"]) == 2
    assert main(["show", "ir", "Adamx"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "optdsl: `show ir` needs a FILE"
    assert "ema.opt has no rule EMA" in said[1] or "becomes an optimizer" in said[1]
    assert said[2] == "optdsl: adamw.opt has no rule Adam; did you mean AdamW?"
    assert said[3].endswith("Adamx: no such file, and no shipped rule; did you mean Adamax?")


def test_show_of_several_rules_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    written("two.opt", GOOD + GOOD.replace("Good", "Better"))
    assert main(["show", "ir", "two.opt"]) == 0
    assert capsys.readouterr().out.count("==> ") == 2
    assert main(["show", "ir", "two.opt", "--rule", "Better"]) == 0
    out = capsys.readouterr().out
    assert "==>" not in out and "rule Better" in out


def test_compile_writes_modules(capsys: pytest.CaptureFixture[str]) -> None:
    written("two.opt", GOOD + ODD)
    assert main(["compile", "two.opt", "AdamW", "-o", "out/deep"]) == 0
    assert listed("out/deep") == ["adamw.py", "good.py", "odd.py"]
    before = Path("out/deep/good.py").read_bytes()
    ast.parse(before)
    assert b"Made by: optdsl compile two.opt" in before
    assert main(["compile", "two.opt", "-o", "out/deep"]) == 0, "what was generated is replaced"
    assert Path("out/deep/good.py").read_bytes() == before
    assert "W601" in capsys.readouterr().err
    assert main(["compile", "two.opt", "--rule", "Good", "-o", "one.py"]) == 0
    assert Path("one.py").read_bytes() == before


def test_compile_for_one_target(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for target in ("cpu", "triton", "triton,cpu"):
        assert main(["compile", "AdamW", "--target", target, "-o", "one.py"]) == 0
        texts[target] = Path("one.py").read_text()
    assert "void adamw" in texts["cpu"] and "@triton.jit" not in texts["cpu"]
    assert "void adamw" not in texts["triton"] and "@triton.jit" in texts["triton"]
    assert main(["compile", "AdamW", "-o", "one.py"]) == 0
    assert Path("one.py").read_text() == texts["triton,cpu"]
    assert main(["compile", "AdamW", "--target", "gpu"]) == 2
    assert "'gpu' is not one of cpu, triton" in capsys.readouterr().err


def test_a_target_that_was_left_out_is_named() -> None:
    assert main(["compile", "AdamW", "--target", "triton", "-o", "one.py"]) == 0
    code = (
        "import torch\nfrom one import AdamW\n"
        "p = torch.nn.Parameter(torch.ones(2)); p.grad = p.detach()\n"
        "AdamW([p]).step()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        env=environment,
    )  # fmt: skip
    assert "AdamW was compiled without kernels for the cpu backend" in done.stderr


def test_compile_standalone() -> None:
    assert main(["compile", "AdamW", "--standalone", "-o", "one.py"]) == 0
    text = Path("one.py").read_text()
    ast.parse(text)
    assert "import optdsl" not in text and "from optdsl." not in text
    assert main(["compile", "AdamW", "-o", "one.py"]) == 0, "it is known as generated"


def test_compile_writes_all_or_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    written("two.opt", GOOD + WRONG)
    assert main(["compile", "two.opt", "-o", "out"]) == 1
    assert not Path("out").exists()
    written("good.opt", GOOD)
    Path("out").mkdir()
    written("out/good.py", "import this  # mine\n")
    assert main(["compile", "good.opt", "AdamW", "-o", "out"]) == 2
    assert listed("out") == ["good.py"]
    assert Path("out/good.py").read_text() == "import this  # mine\n"
    assert "was not generated; --force replaces it" in capsys.readouterr().err


def test_compile_to_one_file_takes_one_rule(capsys: pytest.CaptureFixture[str]) -> None:
    written("two.opt", GOOD + ODD)
    assert main(["compile", "two.opt", "-o", "one.py"]) == 2
    assert main(["compile", "two.opt", written("b.opt", GOOD), "-o", "out"]) == 2
    said = capsys.readouterr().err
    assert "one.py can hold one rule, not Good, Odd" in said
    assert "Good and Good would both be out/good.py" in said
    assert listed() == ["b.opt", "two.opt"]


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_can_be_seen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "LookaheadAdamW", "--dump-after", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# after {name}")
    assert len(out.splitlines()) > 10
    assert "object at 0x" not in out
    assert not listed()


def test_unknown_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "AdamW", "--dump-after=lowr"]) == 2
    said = capsys.readouterr().err
    assert "did you mean lower?" in said
    assert all(name in said for name in PASSES)


# ---------------------------------------------------------------- storage


def test_compile_takes_the_storage_of_states(tmp_path: Path, capsys) -> None:
    assert main(["compile", "AdamW", "-o", str(tmp_path), "--storage", "exp_avg_sq=int8"]) == 0
    text = (tmp_path / "adamw.py").read_text("utf-8")
    assert text.count('storage="int8"') == 1
    assert main(["compile", "AdamW", "-o", str(tmp_path), "--storage", "exp_avgsq=int8"]) == 2
    assert "no state 'exp_avgsq'; did you mean exp_avg_sq?" in capsys.readouterr().err


def test_verify_holds_codes_to_the_oracle(capsys) -> None:
    options = ["--quick", "--target", "cpu", "--dtype", "float32"]
    assert main(["verify", "Lion", *options, "--storage", "int8"]) == 0
    assert "ok" in capsys.readouterr().out
    assert main(["verify", "Lion", *options, "--storage", "int3"]) == 2
    assert "no storage 'int3'" in capsys.readouterr().err


def test_explain_counts_the_bytes_of_codes(capsys) -> None:
    assert main(["explain", "AdamW", "--json", "--storage", "exp_avg=bf16,exp_avg_sq=int8"]) == 0
    report = json.loads(capsys.readouterr().out)
    one = 1 + 4 / 256
    assert report["state_bytes_per_param"] == 2 + one
    assert report["bytes_per_param"] == round(12 + 2 * (2 + one), 3)
    assert main(["explain", "AdamW", "--storage", "exp=bf16"]) == 2
    assert "no state 'exp'" in capsys.readouterr().err
