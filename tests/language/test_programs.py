"""The programs that the language was designed by compile as they are written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from optdsl.diagnostics import Sink, render_text
from optdsl.frontend.check import check
from optdsl.frontend.rules import lower_rule
from optdsl.frontend.scope import Scope, make_scope, read_source
from optdsl.ir.verify import verify_rule
from optdsl.schedule.make import check_supported
from optdsl.syntax import ast
from tests.semantics.running import codes, rule_of

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.opt"))
RULES = ast.Optimizer | ast.Wrapper | ast.Alias


def scope_of(path: Path) -> Scope:
    return make_scope(read_source(path), Sink(), path.parent)


def rules() -> list[tuple[Path, str]]:
    return [
        (path, item.name)
        for path in PROGRAMS
        for item in scope_of(path).own.values()
        if isinstance(item, RULES)
    ]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_program_has_no_errors(path: Path) -> None:
    found = check(read_source(path), path.parent)
    assert not [each for each in found if each.severity == "error"], render_text(found)
    # The whitened gradient of a zero gradient is divided by its norm, 0: that is worth a warning.
    assert [each.code for each in found] == (["W604"] if path.stem == "swan" else [])


@pytest.mark.parametrize(("path", "name"), rules(), ids=lambda each: str(each).split("/")[-1])
def test_every_rule_is_a_legal_typed_rule(path: Path, name: str) -> None:
    sink = Sink()
    rule = lower_rule(name, scope_of(path), sink)
    sink.check()
    assert rule is not None
    verify_rule(rule, "lower")


def test_all_kinds_of_programs_are_here() -> None:
    assert {path.stem for path in PROGRAMS} == {
        "adamw",
        "blocks",
        "clipped_lion",
        "diloco",
        "dpsgd",
        "lamb",
        "layerwise_sgd",
        "lookahead",
        "mezo",
        "sam",
        "sgd_sai",
        "states",
        "swan",
    }


def test_blocks_can_be_called() -> None:
    blocks = next(path for path in PROGRAMS if path.stem == "blocks").read_text()
    text = blocks + (
        "\noptimizer X(lr = 1e-3):\n    when ndim == 2:\n"
        "        p -= lr * debias(newton_schulz(ema(g, 0.9)), 0.9)\n"
    )
    assert codes(text) == []
    assert [state.key for state in rule_of(text).states] == ["average"]


@pytest.mark.parametrize("stem", ["dpsgd", "diloco"])
def test_wrappers_wrap_a_shipped_rule(stem: str) -> None:
    path = next(path for path in PROGRAMS if path.stem == stem)
    name = {"dpsgd": "DPSGD", "diloco": "DiLoCo"}[stem]
    text = path.read_text() + f"\noptimizer X = {name}(AdamW)\n"
    rule = rule_of(text)
    assert {"exp_avg", "exp_avg_sq"} <= {state.key for state in rule.states}


@pytest.mark.parametrize("stem", ["adamw", "clipped_lion", "lamb", "layerwise_sgd", "lookahead"])
def test_nothing_in_the_first_programs_is_for_the_interpreter_alone(stem: str) -> None:
    path = next(path for path in PROGRAMS if path.stem == stem)
    scope = scope_of(path)
    for item in scope.own.values():
        if isinstance(item, ast.Optimizer | ast.Alias):
            rule = lower_rule(item.name, scope, Sink())
            assert rule is not None
            check_supported(rule)
