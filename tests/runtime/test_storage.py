"""States stored otherwise than the rule says, chosen when an optimizer is made."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import optdsl.zoo
from optdsl import generated
from optdsl.runtime.storage import codecs
from optdsl.schedule.storage import stored_as
from optdsl.verify import DTYPES
from optdsl.verify.settings import settings
from optdsl.verify.trial import Subject, Trial
from tests.verify.test_trials import QUICK, subject

BF16, FP16 = torch.bfloat16, torch.float16


def stored(name: str, storage: str | dict[str, str], text: str = "") -> Subject:
    """A rule whose class is made with `storage`; the judge knows of it as if the rule said so."""
    plain = subject(name, text)
    made = partial(plain.optimizer, storage=storage)
    return replace(plain, rule=stored_as(plain.rule, storage), optimizer=made)


def judged(one: Subject, target: str, dtype: torch.dtype, shapes=QUICK) -> None:
    outcome = Trial(one, target, dtype, settings(one.rule)[0], shapes).run()
    assert outcome.passed, outcome.failure
    assert outcome.worst_share > 0.1, "bounds that anything would keep"


@pytest.mark.parametrize(
    ("target", "dtype"), [*(("cpu", each) for each in DTYPES), ("reference", BF16)], ids=str
)
def test_each_state_lies_as_it_is_told(target: str, dtype: torch.dtype) -> None:
    judged(stored("AdamW", {"exp_avg": "bf16", "exp_avg_sq": "fp16"}), target, dtype)


@pytest.mark.parametrize("storage", ["float32", "param"])
def test_by_the_other_names(storage: str) -> None:
    judged(stored("AdamW", {"exp_avg": storage}), "cpu", torch.float64)


def test_a_step_goes_on_with_what_it_computed() -> None:
    """LAMB's second pass reads m and v, which the first has written."""
    judged(stored("LAMB", {"m": "bf16", "v": "bf16"}), "cpu", torch.float32)


DECLARED = """\
optimizer Declared(lr = 0.1):
    state m as bf16, row: [rows, 1]
    m = lerp(m, g, 0.1)
    row = max(row, max(abs(g), axis = 1))
    p -= lr * m / (1 + row)
"""


def test_what_a_rule_says_can_be_taken_back() -> None:
    judged(stored("Declared", {}, DECLARED), "cpu", torch.float32)
    judged(stored("Declared", {"m": "float32"}, DECLARED), "cpu", torch.float32)
    judged(stored("Declared", {"m": "fp16"}, DECLARED), "cpu", torch.bfloat16)


# ---------------------------------------------------------------- which states


def made(name: str = "AdamW", params=None, text: str = "", **options) -> Any:
    params = params if params is not None else [Parameter(torch.ones(3)), Parameter(torch.ones(5))]
    optimizer = subject(name, text).optimizer(params, **options)
    step(optimizer)
    return optimizer


def step(optimizer) -> None:
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()


def dtypes(optimizer, key) -> list[torch.dtype]:
    return [optimizer.state[p][key].dtype for g in optimizer.param_groups for p in g["params"]]


def test_one_word_stores_all_states_of_the_parameters_size() -> None:
    optimizer = made("Declared", text=DECLARED, storage="fp16")
    assert dtypes(optimizer, "m") == [FP16, FP16]
    assert dtypes(optimizer, "row") == [torch.float32, torch.float32]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_exempt_parameters_keep_float32(backend: str) -> None:
    first, second = Parameter(torch.ones(3)), Parameter(torch.ones(5))
    named = [("first", first), ("second", second)]
    optimizer = made(params=named, storage="bf16", storage_exempt=["second"], backend=backend)
    assert dtypes(optimizer, "exp_avg") == [BF16, torch.float32]
    optimizer = made(params=[first, second], storage="bf16", storage_exempt=[first])
    assert dtypes(optimizer, "exp_avg_sq") == [torch.float32, BF16]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"storage": "int3"}, "storage 'int3' of AdamW's exp_avg.*one of float32, bf16"),
        ({"storage": {"exp_av": "bf16"}}, "no state 'exp_av'.*exp_avg, exp_avg_sq"),
        ({"storage_exempt": ["head"]}, "storage_exempt: 'head' is no parameter"),
        ({"storage_exempt": [torch.ones(1)]}, "storage_exempt: a tensor that"),
    ],
)
def test_what_cannot_be_chosen_is_said(options, said) -> None:
    with pytest.raises(ValueError, match=said):
        made(**options)


def test_a_row_has_no_storage_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"'row' is not of the parameter's size \(row\)"):
        made("Declared", text=DECLARED, storage={"row": "bf16"})


# ---------------------------------------------------------------- copies and checkpoints


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_store_as_the_original_does(copied) -> None:
    params = [Parameter(torch.ones(3)), Parameter(torch.ones(5))]
    optimizer = optdsl.zoo.AdamW(params, storage="bf16", storage_exempt=params[:1])
    step(optimizer)
    other = copied(optimizer)
    step(optimizer)
    step(other)
    assert dtypes(other, "exp_avg") == [torch.float32, BF16]
    for p, q in zip(params, other.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)


def test_a_checkpoint_is_stored_as_its_new_owner_says() -> None:
    optimizer, other = made(), made(storage={"exp_avg": "bf16"})
    other.load_state_dict(optimizer.state_dict())
    assert dtypes(other, "exp_avg") == [BF16, BF16]
    optimizer.load_state_dict(other.state_dict())
    assert dtypes(optimizer, "exp_avg") == [torch.float32, torch.float32]


# ---------------------------------------------------------------- codes

SIZES = [(255,), (4095,), (4096,), (4097,), (), (0,), (65, 1009), (3, 7, 5, 41)]
CODED = ["int8", "int4", "fp8"]


def trained(
    name: str,
    storage,
    dtype,
    backend: str,
    steps: int = 3,
    reload: int = -1,
    *,
    knowing: bool = True,
    **more,
):
    """Steps with random gradients and a falling rate; one parameter is no row after the other.
    `knowing` is what a class is that has its rule at hand, and plans for any storage."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(each, generator=generator).to(dtype) for each in SIZES]
    params = [Parameter(each.mT if each.dim() == 2 else each) for each in values]
    kind = getattr(optdsl.zoo, name)
    kind = kind if knowing else type(name, (kind,), {"replanned": None})
    make = partial(kind, storage=storage, backend=backend, **more)
    optimizer = make(params)
    for step in range(steps):
        if step == reload:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            params = [Parameter(p.detach().clone()) for p in params]
            optimizer = make(params)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p)
        optimizer.param_groups[0]["lr"] *= 0.9
        optimizer.step()
    return params, optimizer


def near(ours, theirs, least: float = 0.999) -> None:
    """Nearly all numbers are: where a value lies on the border of two codes, either is right."""
    for p, q in zip(ours, theirs, strict=True):
        assert p.isfinite().all()
        close = torch.isclose(
            p.double(), q.double(), rtol=1e-3 if p.dtype is torch.float32 else 0.01
        )
        assert not p.numel() or close.double().mean() >= least


@pytest.mark.parametrize(
    ("target", "storage"), [*(("cpu", each) for each in CODED), ("reference", "int4")]
)
def test_codes_are_as_near_as_they_can_be(target: str, storage: str) -> None:
    """Against the float64 interpreter of the rule, each step from what the target holds."""
    shapes = [(4096,), (4097,), (255,), (5, 1000), (300, 17), ()]
    judged(stored("AdamW", storage), target, torch.float32, shapes)
    judged(stored("AdamW", storage), target, torch.bfloat16, shapes[:2])


@pytest.mark.parametrize("name", ["LAMB", "Adafactor", "Lion"])
def test_codes_of_other_rules_are_so_too(name: str) -> None:
    judged(stored(name, "int8"), "cpu", torch.float32, [(64, 80), (80, 64), (4099,)])


@pytest.mark.parametrize("storage", CODED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_codes_are_the_same_on_each_target(storage: str, dtype: torch.dtype) -> None:
    ours, first = trained("AdamW", storage, dtype, "cpu", maximize=True)
    theirs, second = trained("AdamW", storage, dtype, "reference", maximize=True)
    near(ours, theirs)
    for p, q in zip(ours, theirs, strict=True):
        for key, codes in first.state[p].items():
            other = second.state[q][key]
            assert codes.dtype is other.dtype
            if key.endswith(".scale"):
                assert torch.allclose(codes, other, rtol=1e-5)
            elif codes.dtype is torch.uint8:
                assert (codes != other).double().mean() < 1e-3


@pytest.mark.parametrize("name", ["LAMB", "Adafactor", "Lion", "Muon"])
def test_any_rule_can_store_codes(name: str) -> None:
    ours, theirs = (trained(name, "int8", torch.float32, each)[0] for each in ("cpu", "reference"))
    near(ours, theirs, 0.99)


def test_codes_are_worked_task_by_task_where_a_step_can() -> None:
    """A parameter that is not contiguous is not; nor, without the rule, what is read again."""
    one_pass = trained("AdamW", "int8", torch.float32, "cpu", 1)[1].counters
    assert (one_pass.unpacked, one_pass.calls) == (1, 1)
    assert trained("LAMB", "int8", torch.float32, "cpu", 1)[1].counters.unpacked == 1
    assert trained("LAMB", "int8", torch.float32, "cpu", 1, knowing=False)[1].counters.unpacked == 9


def test_with_and_without_the_rule_a_step_is_the_same() -> None:
    """To what two orders of the same sums differ by."""
    ours, theirs = (
        trained("LAMB", "int8", torch.float32, "cpu", knowing=each)[0] for each in (True, False)
    )
    near(ours, theirs, 0.99)


def test_plans_are_made_once_for_each_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [Parameter(torch.ones(64, 80))]
    storages: list[Any] = ["int8", {"m": "int8", "v": "int8"}, {"m": "int8"}, "float32", None]
    programs = [optdsl.zoo.LAMB(params, storage=each).program for each in storages]
    assert programs[0] is programs[1]
    assert len({id(each) for each in programs[1:4]}) == 3
    assert programs[3] is programs[4] is optdsl.zoo.LAMB.program
    monkeypatch.setattr(generated, "make_plan", None)  # another process finds them on the disk
    known = optdsl.zoo.LAMB.replanned
    again = generated.Replans(known.path)
    for storage, program in known.made.items():
        assert again(dict(storage)).states == program.states
    assert optdsl.zoo.AdamW(params, storage="int8").program is optdsl.zoo.AdamW.program


def test_plans_follow_copies_and_pickles() -> None:
    p = Parameter(torch.ones(64, 80))
    optimizer = optdsl.zoo.LAMB([p], storage="int8", storage_exempt=[p])
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other.program is optimizer.program is not optdsl.zoo.LAMB.program


def test_plans_for_a_storage_name_the_statements_of_the_rule() -> None:
    plain = optdsl.zoo.LAMB.program
    other = optdsl.zoo.LAMB([Parameter(torch.ones(64, 80))], storage="int8").program
    assert (other.unpaired, other.coupled, other.whole) == (
        plain.unpaired,
        plain.coupled,
        plain.whole,
    )
    assert plain.whole


def test_small_and_float64_parameters_have_no_codes() -> None:
    params, optimizer = trained("AdamW", "int8", torch.float32, "cpu", steps=1)
    coded = {p.numel() for p in params if ".scale" in "".join(optimizer.state[p])}
    assert coded == {4096, 4097, 65 * 1009, 4305}
    params, optimizer = trained("AdamW", "int8", torch.float64, "cpu", steps=1)
    assert all(optimizer.state[p]["exp_avg"].dtype is torch.float64 for p in params)


def test_a_state_that_is_never_negative_has_the_unsigned_map() -> None:
    program = optdsl.zoo.AdamW.program
    assert [state.nonnegative for state in program.states if state.key == "exp_avg_sq"] == [True]
    assert [state.nonnegative for state in program.states if state.key == "exp_avg"] == [False]


@pytest.mark.parametrize("storage", CODED)
def test_codes_are_saved_as_they_are(storage: str) -> None:
    plain, _ = trained("AdamW", storage, torch.float32, "cpu", 4)
    resumed, _ = trained("AdamW", storage, torch.float32, "cpu", 4, reload=2)
    for p, q in zip(plain, resumed, strict=True):
        assert torch.equal(p, q)


def test_codes_and_numbers_are_loaded_either_way() -> None:
    params, coded = trained("AdamW", "int8", torch.float32, "cpu")
    _, plain = trained("AdamW", None, torch.float32, "cpu")
    codec = codecs.codec("int8", signed=True)
    p, saved = params[3], copy.deepcopy(coded.state_dict())
    held, values = coded.state[p]["exp_avg"], plain.state_dict()["state"][3]["exp_avg"].clone()
    expected = codec.decode(held.clone(), coded.state[p]["exp_avg.scale"].clone(), p.numel())
    coded.load_state_dict(plain.state_dict())
    assert torch.equal(coded.state[p]["exp_avg"], codec.encode(values).codes)
    plain.load_state_dict(saved)
    assert torch.equal(plain.state_dict()["state"][3]["exp_avg"], expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("exp_avg.scale"), "parameter 3 of group 0: 'exp_avg.scale' is missing"),
        (
            lambda s: s.update({"exp_avg.scale": torch.ones(3)}),
            "'exp_avg.scale'.*not torch.float32",
        ),
        (lambda s: s.update(exp_avg=torch.zeros(9, dtype=torch.uint8)), "no codes of .4097."),
        (
            lambda s: s.update(exp_avg=torch.zeros(4097)),
            "but 'exp_avg' has no codes",
        ),
        (lambda s: s.pop("exp_avg"), "has a state 'exp_avg' of parameter 3"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(change, said: str) -> None:
    params, optimizer = trained("AdamW", "int8", torch.float32, "cpu", 1)
    saved, before = copy.deepcopy(optimizer.state_dict()), dict(optimizer.state[params[3]])
    change(saved["state"][3])
    with pytest.raises(ValueError, match=said):
        optimizer.load_state_dict(saved)
    assert all(optimizer.state[params[3]][key] is each for key, each in before.items())
