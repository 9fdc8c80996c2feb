"""What a rule costs: passes, bytes, states and flops of rules whose cost is known."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

import optdsl.zoo
from optdsl.cli import main
from optdsl.compiler import compile_source
from optdsl.copied import told
from optdsl.explain import Report, VariantReport, explain_plan
from optdsl.frontend.scope import read_source
from optdsl.schedule.make import make_plan
from optdsl.schedule.storage import stored_as
from tests.rules import CORE, shipped_plans


@cache
def reports(shape: tuple[int, int] = (1024, 1024)) -> dict[str, Report]:
    path = Path(__file__).with_name("rules.opt")
    plans = {each.name: each.plan for each in compile_source(read_source(path), path.parent).rules}
    plans |= {name: shipped_plans()[name]() for name in CORE}
    return {name: explain_plan(plan, shape) for name, plan in plans.items()}


# rule: passes over memory, bytes per parameter, bytes of state. A pass loads and stores 4 bytes
# of each of the tensors in the comment.
COSTS = {
    "AdamW": (1, 28, 8),  # g p m v, p m v
    "Adam": (1, 28, 8),
    "Lion": (1, 20, 4),  # g p m, p m
    "SGD": (1, 12, 0),  # g p, p
    "LayerwiseSGD": (1, 20, 4),
    "ClippedLion": (2, 24, 4),  # g; g p m, p m
    "ClipAdamW": (2, 32, 8),  # g; g p m v, p m v
    "LAMB": (2, 40, 8),  # g p m v, m v; p m v, p
    "ClipLAMB": (3, 44, 8),  # g; g p m v, m v; p m v, p
    "LARS": (2, 28, 4),  # g p; g p m, p m
    "Adafactor": (3, 24, 0),  # g; g p; g p, p
    "SWAN": (3, 32, 0),  # g, x; library x, u; u; u p, p
    "LookaheadAdamW": (1, 28, 12),
    "SGDSaI": (1, 20, 4),
    "Narrow": (1, 16, 2),  # g p m, p m, of which m has 2 bytes; a row closes in its tile
}


@pytest.mark.parametrize("rule", COSTS)
def test_costs(rule: str) -> None:
    steady = reports()[rule].steady
    assert (steady.over_memory, steady.bytes, steady.state_bytes) == COSTS[rule]


def test_flops_are_those_of_the_op_table() -> None:
    # g's scale 1, lerp 3, g * g 1, lerp 3, v / c 1, sqrt 4, + eps 1, m / d 4, * lr 1, fma 2, p - 1
    assert reports()["AdamW"].steady.flops == 22
    # g's scale, g * g, its sum, and then lerp 3 of g times the clip: see the passes
    clip, update = reports()["ClippedLion"].steady.passes
    assert clip.flops == 3
    assert update.flops == reports()["Lion"].steady.flops + 1


@pytest.mark.parametrize("shape", [(64, 1024), (1024, 64)])
def test_flops_of_matrix_work(shape: tuple[int, int]) -> None:
    rows, cols = shape
    report = explain_plan(_plan("Product"), shape)
    products = 2 * (2 * rows * rows * cols) + 3 * 2 * rows**3
    library = sum(each.flops for each in report.steady.passes if each.kind == "library")
    small = 3 * rows * rows  # 0.9 * q + ...: an fma or two operations for each of rows^2
    small += rows * cols  # g's scale
    assert products <= library * rows * cols <= products + small
    assert report.steady.state_bytes == 4 * rows / cols


def _plan(name: str):  # type: ignore[no-untyped-def]
    path = Path(__file__).with_name("rules.opt")
    (rule,) = compile_source(read_source(path), path.parent, (name,)).rules
    return rule.plan


def test_waits_name_what_forces_a_pass() -> None:
    clip, first, second = reports()["ClipLAMB"].steady.passes
    assert clip.waits == ()
    assert clip.reduces == ("sum of the run",)
    assert first.waits == ("norm(g, over = all) (rules.opt:4)",)
    assert second.waits == ("norm(p) (lamb.opt:12)", "norm(u) (lamb.opt:12)")
    assert second.again == ("u",)
    assert first.lines == "4, lamb.opt:9-12"


def test_the_usual_step_comes_first() -> None:
    variants = reports()["LookaheadAdamW"].variants
    assert variants[0].condition == "t % k != 0 and not amsgrad and not first(slow)"
    costs = {each.condition: each.bytes for each in variants}
    assert costs["t % k == 0 and not first(slow) and not amsgrad"] == 36
    assert costs["t % k == 0 and first(slow) and not amsgrad"] == 32
    assert costs["evaluating"] == 8  # slow, p
    assert len(costs) == 9


def test_launches() -> None:
    launches = {name: report.steady.launches for name, report in reports().items()}
    # A pass; two passes and a finish; with a reduction over all parameters a second finish.
    assert (launches["AdamW"], launches["LAMB"], launches["ClippedLion"]) == (1, 3, 4)


# ---------------------------------------------------------------- the command


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "LAMB", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["passes"] == 2
    assert data["bytes_per_param"] == 40
    assert data["state_bytes_per_param"] == 8
    assert data["flops_per_param"] == reports()["LAMB"].steady.flops
    assert [each["bytes_per_param"] for each in data["variants"][0]["detail"]] == [24, 16]


def test_json_of_several_rules_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(Path(__file__).with_name("rules.opt")), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [each["rule"] for each in data] == ["ClipAdamW", "ClipLAMB", "LARS", "Narrow", "Product"]


def test_text_gives_the_time_of_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "AdamW", "--params", "1B", "--bandwidth", "2.8TB/s"]) == 0
    out = capsys.readouterr().out
    assert "AdamW (adamw.opt): 1 pass over memory, 1 launch, 28 bytes and 22 flops" in out
    assert "1G parameters at 2.8TB/s: 10 ms a step" in out
    assert "\033" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--params", "many"], "'many' is no number such as 124M"),
        (["--params", "0"], "'0' is no number"),
        (["--bandwidth", "fast"], "'fast' is no bandwidth such as 900GB/s"),
        (["--shape", "3x"], "'3x' is no shape such as 4096x1024"),
    ],
)
def test_bad_numbers(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "AdamW", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_all_variants_say_something() -> None:
    for report in reports().values():
        for variant in report.variants:
            _hold(report, variant)


def _hold(report: Report, variant: VariantReport) -> None:
    assert variant.passes, report.rule
    assert variant.over_memory >= 1
    assert variant.flops > 0 or variant.condition == "evaluating"
    assert variant.condition or len(report.variants) == 1
    stored = [moved.name for each in variant.passes for moved in each.writes]
    assert "p" in stored


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("storage", ["int8", "bf16"])
@pytest.mark.parametrize("rule", ["AdamW", "LAMB", "Muon", "Adafactor"])
def test_copies_are_those_that_a_step_makes(rule: str, storage: str) -> None:
    """Of a class that knows its rule, and has plans for any storage, and of one that does not."""
    p = torch.nn.Parameter(torch.ones(64, 80))
    p.grad = torch.ones(64, 80)
    knowing = getattr(optdsl.zoo, rule)
    plan = shipped_plans()[rule]()
    plans = {
        knowing: make_plan(stored_as(plan.rule, storage)),
        type("Alone", (knowing,), {"replanned": None}): told(plan, storage),
    }
    for kind, expected in plans.items():
        optimizer = kind([p], storage=storage, backend="cpu")
        optimizer.step()
        optimizer.step()
        assert 2 * len(explain_plan(expected).steady.copied) == optimizer.counters.unpacked


def test_copies_are_counted() -> None:
    """LAMB's second pass reads m and v, which the first has written: they are read as codes and
    written as float32 before the step, and the other way behind it."""
    code = 1 + 4 / 256
    report = explain_plan(told(shipped_plans()["LAMB"](), "int8"))
    assert report.steady.bytes == pytest.approx(40 + 4 * (code + 4), abs=0.01)
    assert [each.kind for each in report.steady.passes] == ["packing", *["kernel"] * 2, "packing"]
    assert report.steady.over_memory == 2


def test_the_command_tells_of_copies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "LAMB", "--storage", "int8"]) == 0
    line = "alone, told so when an optimizer is made: 60.1 bytes per parameter, with copies"
    assert line in capsys.readouterr().out
    assert main(["explain", "AdamW", "--storage", "int8", "--json"]) == 0
    assert "told" not in json.loads(capsys.readouterr().out)
