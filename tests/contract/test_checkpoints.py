"""The contract of checkpoints and copies."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from tests.contract.cases import Case, Named, contract, same, set_gradients, train, values


def saved(optimizer: Any) -> Any:
    """The checkpoint as it comes back from a file, read as data alone and onto the CPU."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")


def twin(params: Named) -> Named:
    return [(name, Parameter(p.detach().clone())) for name, p in params]


@contract("state_dict")
def test_a_resumed_run_goes_on_bit_for_bit(case: Case) -> None:
    params = case.parameters()
    ours = case.make([{"params": params[:1]}, {"params": params[1:]}])
    train(ours, 3)
    others = twin(params)
    resumed = case.make([{"params": others[:1]}, {"params": others[1:]}])
    resumed.load_state_dict(saved(ours))
    train(ours, 2, 3)
    train(resumed, 2, 3)
    assert same(values(params), values(others))
    assert str(saved(ours)) == str(saved(resumed))


@contract("copies")
def test_copies_go_on_alike_and_apart(case: Case) -> None:
    params = case.parameters()
    ours = case.make(params)
    train(ours, 2)
    copies = [copy.deepcopy((ours, params)), pickle.loads(pickle.dumps((ours, params)))]
    for each, others in copies:
        assert type(each) is type(ours)
        train(each, 2, 2)
        assert not same(values(params), values(others))
    train(ours, 2, 2)
    for _, others in copies:
        assert same(values(params), values(others))


@contract("state dtypes")
def test_a_loaded_state_keeps_its_dtype(case: Case) -> None:
    params = case.parameters(torch.bfloat16)
    ours = case.make(params)
    train(ours, 2)
    others = twin(params)
    resumed = case.make(others)
    resumed.load_state_dict(saved(ours))
    for (_, p), (_, q) in zip(params, others, strict=True):
        mine, theirs = ours.state[p], resumed.state[q]
        assert mine.keys() - {"step"} == theirs.keys() - {"step"}
        for key in mine:
            assert mine[key].dtype is theirs[key].dtype, key
            assert torch.equal(mine[key], theirs[key]), key
        floats = {each.dtype for each in mine.values() if each.is_floating_point()}
        assert floats <= {torch.float32}


@contract("names")
def test_names_find_their_states(case: Case, record_property: Any) -> None:
    """Into a model in another order, in two groups: each parameter goes on as it would have."""
    params = case.parameters()
    ours = case.make(params)
    train(ours, 2)
    others = twin(params)[::-1]
    resumed = case.make([{"params": others[:1]}, {"params": others[1:]}])
    resumed.load_state_dict(saved(ours))
    for group in resumed.param_groups:
        assert len(group["params"]) == len(group["param_names"])
    mine, theirs = saved(ours)["state"], saved(resumed)["state"]
    assert str([mine.get(i) for i in range(3)]) == str([theirs.get(i) for i in (2, 1, 0)])
    if case.draws:
        record_property("reason", "states go by name; random draws by the parameter's place")
        return
    train(ours, 1, 2)
    train(resumed, 1, 2)
    # Sums over the parameters are formed in their order, and so may differ in the last bits.
    matrices = any(variant.libraries for variant in case.optimizer.program.variants)
    for found, wanted in zip(values(others[::-1]), values(params), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3 if matrices else 1e-5, atol=1e-5)


def truncate(checkpoint: Any) -> None:
    del checkpoint["param_groups"]


def lose_a_group(checkpoint: Any) -> None:
    checkpoint["param_groups"] = []


def lose_a_parameter(checkpoint: Any) -> None:
    checkpoint["param_groups"][0]["params"].pop()
    checkpoint["param_groups"][0]["param_names"].pop()


def another_rule(checkpoint: Any) -> None:
    checkpoint["state"].setdefault(1, {"step": torch.tensor(2.0)})["of_another"] = torch.ones(5)


SPOILT: list[tuple[Callable[[Any], None], str]] = [
    (truncate, "it has no 'param_groups'"),
    (lose_a_group, "states of parameter 0, but no group has it|has 0 parameter groups"),
    (lose_a_parameter, "states of parameter 2, but|no parameter 'layer2.weight'"),
    (another_rule, "a state 'of_another' of parameter 'layer1.weight'; those of"),
]


@contract("bad checkpoints")
def test_a_refused_checkpoint_changes_nothing(case: Case) -> None:
    params = case.parameters()
    ours = case.make(params)
    train(ours, 2)
    before, kept = str(ours.state_dict()), values(params)
    spoilt = [(*each, saved(ours)) for each in SPOILT]
    for index, entry in saved(ours)["state"].items():
        for key, value in entry.items():
            if key == "step":
                continue
            named = f"'{key}' of parameter 'layer{index}.weight'"
            for bad in (torch.zeros(7, 7), value.to(torch.complex64), "zeros"):
                broken = saved(ours)
                broken["state"][index][key] = bad
                spoilt.append((lambda _: None, named, broken))
    for spoil, message, checkpoint in spoilt:
        checkpoint["param_groups"] = [{**g, "tag": 1} for g in checkpoint["param_groups"]]
        spoil(checkpoint)
        with pytest.raises(ValueError, match=message):
            ours.load_state_dict(checkpoint)
        assert str(ours.state_dict()) == before
    assert same(values(params), kept)
    others = twin(params)
    untouched = case.make(others)
    untouched.load_state_dict(saved(ours))
    train(ours, 1, 2)
    train(untouched, 1, 2)
    assert same(values(params), values(others))


# ---------------------------------------------------------------- names


def named_pair() -> tuple[Any, Named, Case]:
    case = Case("Adam", "cpu")
    params = case.parameters()
    ours = case.make([{"params": params[:1], "lr": 0.1}, {"params": params[1:], "lr": 0.2}])
    train(ours, 2)
    return ours, params, case


def test_options_come_along_where_they_agree() -> None:
    ours, params, case = named_pair()
    others = twin(params)
    resumed = case.make([{"params": others[2:0:-1]}, {"params": others[:1]}], lr=0.5)
    resumed.load_state_dict(saved(ours))
    assert [group["lr"] for group in resumed.param_groups] == [0.2, 0.1]
    merged = case.make(twin(params)[::-1], lr=0.5, betas=(0.5, 0.5))
    merged.load_state_dict(saved(ours))
    assert merged.param_groups[0]["lr"] == 0.5
    assert merged.param_groups[0]["betas"] == (0.9, 0.999)


def test_names_that_differ_in_part_are_refused_and_in_all_ignored() -> None:
    ours, params, case = named_pair()
    for rename, message in (
        (lambda n: n.replace("2", "7"), "the checkpoint has no parameter 'layer7.weight'"),
        (lambda n: f"module.{n}", None),
    ):
        others = [(rename(name), p) for name, p in twin(params)]
        resumed = case.make([{"params": others[:1]}, {"params": others[1:]}])
        if message:
            with pytest.raises(ValueError, match=message):
                resumed.load_state_dict(saved(ours))
        else:
            resumed.load_state_dict(saved(ours))
            assert torch.equal(
                resumed.state[others[2][1]]["exp_avg"], ours.state[params[2][1]]["exp_avg"]
            )
    fewer = case.make([{"params": twin(params)[:1]}, {"params": twin(params)[1:2]}])
    with pytest.raises(ValueError, match=r"a parameter 'layer2\.weight', this optimizer has not"):
        fewer.load_state_dict(saved(ours))


def test_attributes_go_with_their_parameters() -> None:
    case = Case("LayerwiseSGD", "cpu")
    params = case.parameters()
    ours = case.make(params, attributes={"depth": {"layer0.weight": 3, "layer2.weight": 1}})
    train(ours, 1)
    others = twin(params)[::-1]
    resumed = case.make([{"params": others[:2]}, {"params": others[2:]}])
    resumed.load_state_dict(saved(ours))
    assert [group["depth"] for group in resumed.param_groups] == [{0: 1, 1: 0}, 3]
    set_gradients(ours, 1)
    set_gradients(resumed, 1)
    ours.step()
    resumed.step()
    assert same(values(params), values(others[::-1]))


def test_a_checkpoint_without_what_every_step_makes_is_refused() -> None:
    ours, params, case = named_pair()
    checkpoint = saved(ours)
    for entry in checkpoint["state"].values():
        del entry["exp_avg"], entry["exp_avg_sq"]
    with pytest.raises(ValueError, match=r"lacks the state 'exp_avg' of parameter 'layer0.weight'"):
        case.make([{"params": twin(params)[:1]}, {"params": twin(params)[1:]}]).load_state_dict(
            checkpoint
        )
