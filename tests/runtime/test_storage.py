"""States stored otherwise than the rule says, chosen when an optimizer is made."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import optdsl.zoo
from optdsl.types import Storage
from optdsl.verify import DTYPES
from optdsl.verify.settings import settings
from optdsl.verify.trial import Subject, Trial
from tests.verify.test_trials import QUICK, subject

BF16, FP16 = torch.bfloat16, torch.float16


def stored(name: str, storage: dict[str, str], text: str = "") -> Subject:
    """A rule whose class is made with `storage`; the judge knows of it as if the rule said so."""
    plain = subject(name, text)
    states = tuple(
        replace(each, storage=Storage(storage[each.key])) if each.key in storage else each
        for each in plain.rule.states
    )
    made = partial(plain.optimizer, storage=storage)
    return replace(plain, rule=replace(plain.rule, states=states), optimizer=made)


def judged(one: Subject, target: str, dtype: torch.dtype, shapes=QUICK) -> None:
    outcome = Trial(one, target, dtype, settings(one.rule)[0], shapes).run()
    assert outcome.passed, outcome.failure
    assert outcome.worst_share > 0.1, "bounds that anything would keep"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", ["cpu", "reference"])
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
