"""What tensors say of themselves is the same whether C or Python asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl.zoo
from optdsl.runtime.parameters import tensors
from optdsl.runtime.parameters.gradients import Scanner
from optdsl.runtime.parameters.tensors import Listing, Tensors

SHAPES = [(3, 4), (0,), (), (5,)]


def made(direct: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], Listing]:
    if not direct:
        monkeypatch.setattr(tensors, "direct", lambda: None)
    params = [Parameter(torch.randn(shape)) for shape in SHAPES]
    for p in params:
        p.grad = torch.randn_like(p)
    groups: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:]}]
    listing = Listing(groups, params, Tensors(params))
    assert listing.asks_directly is direct
    return groups, listing


def test_c_can_ask_here() -> None:
    assert tensors.direct() is not None


@pytest.fixture(params=[True, False], ids=["C", "Python"])
def known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return made(request.param, monkeypatch)


Change = Callable[[list[dict[str, Any]]], Any]


def replaced(groups: list[dict[str, Any]]) -> None:
    groups[1]["params"][2] = Parameter(torch.zeros(5))


def moved(groups: list[dict[str, Any]]) -> None:
    groups[0]["params"][0].data = torch.zeros(3, 4)


def swapped(groups: list[dict[str, Any]]) -> None:
    torch.utils.swap_tensors(groups[1]["params"][2], Parameter(torch.zeros(5)))


CHANGES: dict[str, Change] = {
    "another group": lambda groups: groups.append({"params": []}),
    "a group replaced": lambda groups: groups.__setitem__(0, dict(groups[0])),
    "a parameter more": lambda groups: groups[0]["params"].append(Parameter(torch.zeros(1))),
    "a parameter less": lambda groups: groups[1]["params"].pop(),
    "a parameter replaced": replaced,
    "other memory": moved,
    "swapped": swapped,
    "no list": lambda groups: groups[0].__setitem__("params", None),
    "no entry": lambda groups: groups[0].pop("params"),
}


def test_what_stays_has_not_moved(known: Any) -> None:
    groups, listing = known
    assert not listing.moved(groups)
    groups[0]["lr"] = 1.0
    assert not listing.moved(groups)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_moves_is_seen(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, listing = made(True, monkeypatch)
    change(groups)
    assert listing.moved(groups)


@pytest.mark.parametrize("name", ["another group", "a parameter replaced", "other memory"])
def test_python_sees_it_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, listing = made(False, monkeypatch)
    CHANGES[name](groups)
    assert listing.moved(groups)


def missing(p: Parameter) -> None:
    p.grad = None


def transposed(p: Parameter) -> None:
    p.grad = torch.randn(4, 3).T


@pytest.mark.parametrize("change", [missing, transposed], ids=lambda each: each.__name__)
def test_gradients_as_they_are(known: Any, change: Callable[[Parameter], None]) -> None:
    groups, listing = known
    scanner = Scanner(listing, reads_gradient=True)
    for _ in range(2):
        found = scanner.scan()
        given = [p.grad for group in groups for p in group["params"]]
        assert found.active == [True] * 4
        assert found.addresses.tolist() == [g.data_ptr() for g in given]
    first = groups[0]["params"][0]
    change(first)
    found = scanner.scan()
    assert found.active == [first.grad is not None, True, True, True]
    if first.grad is not None:
        taken = found.tensors[0]
        assert isinstance(taken, Tensor) and taken.is_contiguous()
        assert torch.equal(taken, first.grad)
        assert found.addresses[0] == taken.data_ptr()


def test_autograd_refuses_a_stale_graph(known: Any) -> None:
    groups, _ = known
    p = groups[0]["params"][0]
    loss = (p * p).sum()
    Tensors([p]).written()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_subclasses_are_asked_by_python() -> None:
    class Special(Tensor):
        pass

    assert Tensors([torch.zeros(3).as_subclass(Special)]).direct is None


def test_a_step_holds_no_gradient() -> None:
    p = Parameter(torch.randn(4, 4))
    optimizer = optdsl.zoo.Muon([p])
    for _ in range(2):
        p.grad = torch.randn(4, 4)
        alive = torch.utils.weak.WeakTensorKeyDictionary()
        alive[p.grad] = True
        optimizer.step()
        p.grad = None
        assert len(alive) == 0
