"""Targets pass on every shipped rule, and programs that were damaged do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optdsl.cli import main
from optdsl.verify import DTYPES, LARGE, SHAPES, Outcome, Subject, trials
from optdsl.verify.settings import Setting, allowed, later, settings
from optdsl.verify.trial import Trial
from tests.rules import interpreted, marked, shipped_plans
from tests.verify.subjects import QUICK, SMALL, subject

RULES = sorted(shipped_plans())
FAST = {"Adafactor", "AdamW", "LAMB", "Muon"}
"""Rows and columns, one pass, sums, matrices: the fast suite's part of what `make verify` runs."""

REDUCING = """\
optimizer Reducing(lr = 0.01):
    state total: [] over all, row: [rows, 1], best: [1, cols]
    total = total + sum(g^2, over = all)
    row = lerp(row, mean(g^2, axis = 1), 0.1)
    best = max(best, max(abs(g), axis = 0))
    u = where(abs(g) > rms(g), g, 0.5 * g) / (sqrt(row) + 1e-3)
    p -= lr * min(1, 1 / (sqrt(total) + 1e-6)) * u / (best + 0.1)
"""


def outcomes(one: Subject, targets: tuple[str, ...], *dtypes: torch.dtype) -> list[Outcome]:
    return [trial.run() for trial in trials(one, targets, dtypes, QUICK)]


# ---------------------------------------------------------------- what is right passes


@pytest.mark.parametrize(
    "name", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in RULES]
)
def test_generated_c_passes(name: str) -> None:
    for outcome in outcomes(subject(name), ("cpu",), torch.float32, torch.bfloat16):
        assert outcome.passed, f"{outcome.setting}: {outcome.failure}"
        assert outcome.worst_share > 0.1, "bounds that anything would keep"
        assert outcome.elements > 10_000


@pytest.mark.parametrize(
    "name",
    ["AdamW", "SWAN", *(pytest.param(each, marks=pytest.mark.slow) for each in ("LAMB", "SGD"))],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_generated_c_passes_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    for outcome in outcomes(subject(name), ("cpu",), dtype):
        assert outcome.passed, f"{outcome.setting}: {outcome.failure}"


@pytest.mark.parametrize("name", ["Adafactor", "ClippedLion", "Muon"])
def test_the_reference_passes_in_float32(name: str) -> None:
    for outcome in outcomes(subject(name), ("reference",), torch.float32):
        assert outcome.passed, f"{outcome.setting}: {outcome.failure}"
        assert outcome.worst_share > 0.1


@pytest.mark.parametrize("name", ["AdamW", pytest.param("LAMB", marks=pytest.mark.slow)])
def test_generated_triton_passes_in_its_interpreter(name: str) -> None:
    for outcome in outcomes(subject(name), ("triton",), torch.float32):
        assert outcome.passed, f"{outcome.setting}: {outcome.failure}"
        assert outcome.worst_share > 0.1


def test_reductions_of_every_kind_pass() -> None:
    for outcome in outcomes(subject("Reducing", REDUCING), ("cpu", "reference"), torch.float32):
        assert outcome.passed, outcome.failure
        assert outcome.decided > 10_000
        assert outcome.undecided < outcome.decided / 1000


SURROUNDED = [
    pytest.param(name, dtype, marks=() if fast and dtype is torch.float32 else pytest.mark.slow)
    for name in sorted(interpreted())
    for fast in [name in ("DiceSGD", "MeZO", "SMB", "Sophia")]
    for dtype in (torch.float32, torch.float64, torch.bfloat16)
]


@pytest.mark.parametrize(("name", "dtype"), SURROUNDED, ids=str)
def test_rules_with_inputs_and_with_a_model_pass(name: str, dtype: torch.dtype) -> None:
    one = subject(name)
    outcome = Trial(one, "cpu", dtype, settings(one.rule)[0], SMALL).run()
    assert outcome.passed, outcome.failure
    assert outcome.elements > 1000


WEIGHTED = """\
optimizer Weighted(lr = 0.1):
    input weights: [samples] over group
    p -= lr * sum(weights, axis = samples) * g
"""


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_an_input_of_each_group_passes(target: str) -> None:
    one = subject("Weighted", WEIGHTED)
    outcome = Trial(one, target, torch.float32, settings(one.rule)[0], SMALL).run()
    assert outcome.passed, outcome.failure
    assert outcome.elements > 1000


SHARP = """\
optimizer Sharp(lr = 0.1, rho = 0.05):
    input gs: [samples, *p]
    g2 = grad(p + rho * g / (norm(g, over = all) + 1e-12))
    p -= lr * (g2 + sum(gs * min(1, 1 / (norm(gs, over = all) + 1e-6)), axis = samples))
"""


@pytest.mark.parametrize("target", ["cpu", "triton", "reference"])
def test_a_model_and_samples_pass_on_every_target(target: str) -> None:
    one = subject("Sharp", SHARP)
    outcome = Trial(one, target, torch.float32, settings(one.rule)[0], SMALL).run()
    assert outcome.passed, outcome.failure
    assert outcome.worst_share > 0.1


@pytest.mark.parametrize(
    ("old", "new", "failure"),
    [
        ("p + rho", "p - rho", "point of the model"),
        ("p + rho", "p + 1.00003 * rho", "point of the model"),
        ("lr * (g2", "lr * (1.00003 * g2", "p, step 1"),
        ("min(1, 1", "min(1, 1.0001", "p, step 1"),
    ],
)
def test_another_step_with_a_model_is_found(old: str, new: str, failure: str) -> None:
    right, wrong = subject("Sharp", SHARP), subject("Sharp", SHARP.replace(old, new))
    mixed = Subject(right.rule, right.plan, right.variants, wrong.optimizer)
    outcome = Trial(mixed, "cpu", torch.float32, settings(right.rule)[0], SMALL).run()
    assert outcome.failure.startswith(failure)


def test_what_the_loss_does_not_reach_passes() -> None:
    """In the third step the second parameter has no gradient, and the rule asks for one."""
    one = subject("Asking", "optimizer Asking(lr = 0.1):\n    p -= lr * grad(1.1 * p)\n")
    outcome = Trial(one, "reference", torch.float32, settings(one.rule)[0], ((3,), (5,))).run()
    assert outcome.passed, outcome.failure


LATE = """\
optimizer Late(lr = 0.2):
    state rate: [] over all = lr
    if steps > 1:
        rate = 0.9 * rate
    p -= rate * g
"""


def test_a_first_value_behind_a_condition_of_the_host_is_off_by_its_rounding() -> None:
    """0.2 as float32 is off by as much as the roundings of the product and of the difference."""
    one = subject("Late", LATE)
    shapes = ((), (), (), (4000,))  # whose gradients are 1 or so, and p 0.01
    outcome = Trial(one, "reference", torch.float32, settings(one.rule)[0], shapes).run()
    assert outcome.passed, outcome.failure


WHITE = """\
optimizer White(lr = 0.1):
    p -= lr * inverse(eye(rows) + g @ g.T) @ g
"""


def test_a_matrix_without_elements_passes() -> None:
    one = subject("White", WHITE)
    outcome = Trial(one, "cpu", torch.float32, settings(one.rule)[0], ((0,), (17,), (0, 3))).run()
    assert outcome.passed, outcome.failure


SHARED = """\
optimizer Shared(lr = 0.01, decay = 0.9):
    state total: [] over all = 1e-3, mine: [] over group
    total = decay * total + sum(g^2, over = all)
    mine = lerp(mine, max(abs(g), over = group), 1 - decay)
    p -= lr * g / (sqrt(total) + mine + 1e-3)
"""


def test_shared_states_with_hyperparameters_pass() -> None:
    for outcome in outcomes(subject("Shared", SHARED), ("cpu", "triton"), torch.float32):
        assert outcome.passed, outcome.failure


def test_the_reference_in_float64_is_exact() -> None:
    for outcome in outcomes(subject("AdamW"), ("reference",), torch.float64):
        assert (outcome.passed, outcome.worst_share, outcome.worst_ulps) == (True, 0, 0)


@pytest.mark.parametrize("target", [pytest.param("cpu", marks=pytest.mark.slow), "reference"])
def test_roots_of_a_matrix_with_a_condition_of_a_million_pass(target: str) -> None:
    """Eigenvalues of float32 lose the smallest: half of the bounds said little."""
    one = subject("Shampoo")
    trial = Trial(one, target, torch.float32, settings(one.rule)[0], ((), (), (40,)))
    outcome = trial.run()
    assert outcome.passed, outcome.failure
    assert outcome.loose == 0 and outcome.worst_share > 0.1


def test_a_large_tensor_passes() -> None:
    one = subject("LAMB")
    outcome = Trial(one, "cpu", torch.float32, settings(one.rule)[0], (LARGE, (17,))).run()
    assert outcome.passed, outcome.failure


# ---------------------------------------------------------------- what is wrong does not


def damaged(name: str, old: str, new: str) -> Subject:
    """The rule's class with one change in its C."""
    good = subject(name)
    program = good.optimizer.program
    assert program.c_source.count(old) >= 1, f"{old!r} does not occur"
    made = type(name, (good.optimizer,), {})
    fields = {each: getattr(program, each) for each in program.__dataclass_fields__}
    made.program = type(program)(**fields | {"c_source": program.c_source.replace(old, new)})
    return Subject(good.rule, good.plan, good.variants, made)


LAST = "sum_p2_block += i + 1 < hi ? p * p : 0"
DAMAGE = {
    "a factor off by 4e-6": ("AdamW", "s2 * (m_new", "1.000004f * s2 * (m_new"),
    "no eps": ("AdamW", " + eps", ""),
    "a state that is not written": ("AdamW", "v_at[i] = v_narrow(v_new);", ""),
    "an old state read": ("AdamW", "(m_new / (sqrt", "(m / (sqrt"),
    "no weight decay": ("AdamW", "fma(s1, p, ", "fma(0, p, "),
    "an element that is left out": ("AdamW", "i < stop;", "i < stop - (hi == 17);"),
    "a norm off by 1e-5": ("LAMB", "root = sqrt(sum_p2)", "root = 1.00001f * sqrt(sum_p2)"),
    "a sum without its last element": ("LAMB", "sum_p2_block += p * p", LAST),
    "a reduction that begins at 1": ("ClippedLion", "sum_all_total = 0", "sum_all_total = 1"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found(kind: str) -> None:
    name, old, new = DAMAGE[kind]
    found = outcomes(damaged(name, old, new), ("cpu",), torch.float32)
    assert any(not each.passed for each in found)
    assert any("times what is allowed" in each.failure for each in found)


def test_rounding_that_truncates_is_found() -> None:
    old = "return (x != x ? 0x7fc00000 : near) >> 16;"
    # With states in float32 it is the module's own that rounds, not pairs.c.
    one = damaged("AdamW", old, "return w >> 16;")
    (plain, *_) = outcomes(one, ("cpu",), torch.bfloat16)
    assert not plain.passed
    assert 1.5 < plain.worst_share < 2.5, "off by up to a whole ulp where half of one is allowed"


def test_what_the_target_raises_is_a_failure() -> None:
    one = damaged("AdamW", "p_at[i] =", "p_at[i] =")

    class Broken(one.optimizer):  # type: ignore[name-defined,misc]
        def step(self, closure: Any = None) -> None:
            raise RuntimeError("no such kernel\nmore")

    outcome = outcomes(Subject(one.rule, one.plan, one.variants, Broken), ("cpu",), torch.float32)
    assert outcome[0].failure == "RuntimeError: no such kernel"


def test_bounds_that_show_nothing_are_a_failure() -> None:
    """The sign of a difference that cancels to its roundings may be any."""
    text = "optimizer Coin(lr = 0.1):\n    p -= lr * sign((g + 0.1 * p) - 0.1 * p - g)\n"
    (outcome,) = outcomes(subject("Coin", text), ("cpu",), torch.float32)
    assert outcome.undecided > outcome.decided / 2
    assert "of the elements have bounds that say little" in outcome.failure


# ---------------------------------------------------------------- settings


def test_settings_turn_options_on() -> None:
    labels = [each.label for each in settings(subject("SGD").rule)]
    assert labels == [
        "",
        "momentum=0.1, dampening=0.1, weight_decay=0.1",
        "momentum=0.1, nesterov=True",  # which dampening forbids
    ]
    assert [each.label for each in settings(subject("Muon").rule)] == [
        "",
        "nesterov=False, adjust_lr_fn=match_rms_adamw",
    ]
    assert [each.label for each in settings(subject("AdamW").rule)] == ["", "amsgrad=True"]
    assert len(settings(subject("LAMB").rule)) == 1


@pytest.mark.parametrize("name", marked(RULES))
def test_settings_are_legal(name: str) -> None:
    rule = subject(name).rule
    for setting in settings(rule):
        for step in range(6):
            assert allowed(rule, later(rule, setting.hypers, frozenset(), step))


def test_later_steps_have_other_numbers() -> None:
    rule = subject("Adafactor").rule
    base = settings(rule)[0].hypers
    now = later(rule, base, frozenset({"beta2_decay"}), 2)
    assert now["lr"] == pytest.approx(0.94 * base["lr"])
    assert now["eps"] == pytest.approx(tuple(0.94 * each for each in base["eps"]))
    assert now["d"] == base["d"], "the rule requires d >= 1"
    assert now["beta2_decay"] == base["beta2_decay"], "it is fixed"


def test_trials_cover_targets_and_dtypes() -> None:
    tried = list(trials(subject("AdamW")))
    assert {(t.target, t.dtype) for t in tried} == {
        (target, dtype) for target in ("cpu", "triton", "reference") for dtype in DTYPES
    }
    assert all(isinstance(t.setting, Setting) for t in tried)
    assert all(t.shapes == SHAPES for t in tried)
    (few, *_) = trials(subject("Shampoo"), ("cpu",))
    assert few.shapes == QUICK, "a factor of the large vector has 4e9 numbers"


# ---------------------------------------------------------------- the command


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "AdamW", "--quick", "--target", "cpu", "--dtype", "float32"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "AdamW"
    assert len(lines) == 2 and lines[1].endswith("[amsgrad=True]")
    for line in lines:
        assert line.startswith("  ok   cpu       float32 ")
    assert " of bound, 133,650 elements" in lines[0]


def test_command_fails_where_a_target_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failed(trial: Trial) -> Outcome:
        return Outcome("AdamW", trial.target, trial.dtype, "", failure="off by much")

    monkeypatch.setattr(Trial, "run", failed)
    assert main(["verify", "AdamW", "--quick", "--target", "cpu", "--dtype", "float32"]) == 1
    out = capsys.readouterr().out
    assert "FAIL cpu" in out and "off by much" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "gpu"], "'gpu' is not one of cpu, triton, reference"),
        (["--dtype", "float32,int8"], "'int8' is not one of float32, bfloat16"),
    ],
)
def test_command_with_other_words(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "AdamW", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_command_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from optdsl.runtime import native
    from optdsl.runtime.cpu import launch as cpu

    def missing(*args: object) -> None:
        raise native.NativeError("no C compiler: set CC or install gcc")

    monkeypatch.setattr(cpu, "driver", missing)
    assert main(["verify", "AdamW", "--quick", "--target", "cpu", "--dtype", "float32"]) == 2
    assert capsys.readouterr().err == "optdsl: no C compiler: set CC or install gcc\n"
