"""The pipeline as a whole: stages in order, all errors at once, the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optdsl import compiler
from optdsl.compiler import PASSES, compile_source
from optdsl.diagnostics import CompileError, InternalError
from optdsl.frontend.scope import read_source, zoo_folder
from optdsl.ir.nodes import Value
from optdsl.passes.variants import Split
from optdsl.schedule import make
from optdsl.source import Source
from tests.rules import marked_files

ROOT = Path(__file__).parents[2]
TWO = """\
optimizer One(lr = 0.1):
    state m
    m = 0.9 * m + g
    every 3:
        p -= lr * m

optimizer Two(lr = 0.1):
    p -= lr * g / (norm(g, over = all) + 1e-6)
"""


def test_stages_run_in_the_order_of_their_names() -> None:
    seen: list[tuple[str, str]] = []
    compiled = compile_source(Source("two.opt", TWO), observe=lambda s, n, _: seen.append((s, n)))
    assert [rule.name for rule in compiled.rules] == ["One", "Two"]
    assert seen == [("parse", ""), *((s, n) for n in ("One", "Two") for s in PASSES[1:])]


def test_only_what_is_asked_for() -> None:
    (rule,) = compile_source(Source("two.opt", TWO), names=("Two",)).rules
    assert rule.name == "Two"
    with pytest.raises(KeyError, match="Three"):
        compile_source(Source("two.opt", TWO), names=("Three",))


def test_errors_of_all_rules_and_of_all_stages_of_one() -> None:
    text = TWO.replace("0.9 * m", "0.9 * mm").replace("norm(g,", "nrom(g,")
    with pytest.raises(CompileError) as caught:
        compile_source(Source("two.opt", text))
    assert [each.code for each in caught.value.diagnostics] == ["E202", "E207"]
    text = TWO.replace("p -= lr * m", "p -= lr * sum(m, over = workers)")
    text = text.replace("lr * g /", "lr * sum(p, over = workers) /")
    with pytest.raises(CompileError) as caught:
        compile_source(Source("two.opt", text))
    assert [(each.code, each.span.line) for each in caught.value.diagnostics] == [
        ("E503", 5),
        ("E503", 8),
    ]


def test_warnings_go_with_the_result() -> None:
    text = TWO.replace("optimizer Two(lr = 0.1", "optimizer Two(lr = 0.1, extra = 1")
    (warning,) = compile_source(Source("two.opt", text)).warnings
    assert warning.code == "W601"


def test_the_text_depends_on_the_rule_alone() -> None:
    """Another process, with other hash seeds, makes the same bytes."""
    code = (
        "import hashlib\n"
        "from optdsl.compiler import compile_source\n"
        "from optdsl.frontend.scope import read_source, zoo_folder\n"
        "for name in ('adafactor', 'lookahead', 'muon', 'sgd'):\n"
        "    path = zoo_folder() / f'{name}.opt'\n"
        "    for rule in compile_source(read_source(path), path.parent).rules:\n"
        "        print(hashlib.sha256(rule.text.encode()).hexdigest())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(said) == 1
    path = zoo_folder() / "adafactor.opt"
    here = [
        hashlib.sha256(rule.text.encode()).hexdigest()
        for rule in compile_source(read_source(path), path.parent).rules
    ]
    assert said.pop().split()[: len(here)] == here


@pytest.mark.parametrize(
    "path",
    [*marked_files(), *sorted((ROOT / "examples").glob("*.opt"))],
    ids=lambda path: path.name,
)
def test_every_stage_of_shipped_rules_is_legal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTDSL_VERIFY", "1")
    checked: list[str] = []
    real = compiler.verify_values
    monkeypatch.setattr(
        compiler, "verify_values", lambda *args: (checked.append(args[2]), real(*args))
    )
    compiled = compile_source(read_source(path), path.parent)
    assert not compiled.rules or set(checked) == {
        "split_variants", "lay_blocks", "add_evaluation", "lay_planes", "one_update",
        "pull_factors", "hoist_scalars",
    }  # fmt: skip


@pytest.mark.parametrize("stage", ["split_variants", "one_update", "hoist_scalars"])
def test_a_stage_that_breaks_the_rule_is_named(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTDSL_VERIFY", "1")

    def breaking(function):  # type: ignore[no-untyped-def]
        def broken(*args: object) -> object:
            result = function(*args)
            if isinstance(result, Split):
                variant = result.variants[0]
                variant.outputs["p"] = _other_shape(variant.outputs["p"])
            elif isinstance(result, Value):
                result = _other_shape(result)
            else:
                result = {key: _other_shape(value) for key, value in result.items()}
            return result

        return broken

    monkeypatch.setattr(make, stage, breaking(getattr(make, stage)))
    with pytest.raises(InternalError, match=f"internal error in {stage}: Two"):
        compile_source(Source("two.opt", TWO), names=("Two",))


def _other_shape(value: Value) -> Value:
    """An illegal value: of a builder that the rule does not know."""
    return Value("neg", (value,), (), value.type, value.id + 1)


def test_without_the_variable_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTDSL_VERIFY", raising=False)
    monkeypatch.setattr(compiler, "verify_rule", lambda *args: pytest.fail("it was checked"))
    compile_source(Source("two.opt", TWO))
