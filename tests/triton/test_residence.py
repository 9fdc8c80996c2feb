"""Steps whose numbers the device works out: under a gradient scaler, with tensors as
hyperparameters, and in CUDA graphs, which tests/triton/graphs.py plays without a GPU.

Everything is compared bit for bit with steps whose numbers the host works out. Triton's interpreter
runs both.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn import Parameter

import optdsl
import optdsl.zoo
from tests.rules import shipped_plans
from tests.runtime.test_amp import same
from tests.triton.graphs import Graph, capture

SHAPES = [(3, 4), (5,), (), (0, 2)]
FAST = ("AdamW", "Adafactor", "LayerwiseSGD", "LookaheadAdamW", "Muon")


def hosted(name: str) -> tuple[str, ...]:
    return tuple(getattr(optdsl.zoo, name).program.hosted)


def shipped() -> list[Any]:
    """Shipped rules in the order of their names; few of them are fast."""
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in sorted(shipped_plans())
    ]


def parameters() -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(s, generator=generator)) for s in SHAPES]


def gradients(params: list[Parameter], step: int, scale: float = 1.0) -> None:
    """New values, in the place of the old ones where there are any."""
    generator = torch.Generator().manual_seed(step + 1)
    for p in params:
        g = torch.randn(p.shape, generator=generator) * scale
        if p.grad is None:
            p.grad = g
        else:
            p.grad.copy_(g)


def make(name: str, **options: Any) -> tuple[Any, list[Parameter]]:
    params = parameters()
    named = [(f"layer{i}.weight", p) for i, p in enumerate(params)]
    groups = [{"params": named[:2]}, {"params": named[2:], "lr": 0.02}]
    return getattr(optdsl.zoo, name)(groups, backend="triton", **options), params


def set_rate(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group.get("lr"), Tensor):
            group["lr"].fill_(rate)
        elif "lr" in group:
            group["lr"] = rate


def content(optimizer: Any, params: list[Parameter]) -> Any:
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        group.pop("capturable", None)
        group["lr"] = float(group.get("lr", 0))
    return saved, [p.detach().clone() for p in params]


@pytest.mark.parametrize("name", shipped())
def test_prologues_have_the_bits_of_host_functions(name: str) -> None:
    if hosted(name):
        with pytest.raises(ValueError, match=r"cannot be capturable.*\.opt:\d+"):
            make(name, capturable=True)
        return
    (ours, params), (host, others) = make(name, capturable=True), make(name)
    for step in range(3):
        for optimizer, own in ((ours, params), (host, others)):
            set_rate(optimizer, 0.01 * 0.7**step)
            gradients(own, step)
            optimizer.step()
    assert ours.counters.rows < host.counters.rows
    assert same(content(ours, params), content(host, others))


@pytest.mark.parametrize("name", ["AdamW", "ClippedLion", "Adafactor"])
def test_a_scaler_never_makes_the_host_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step, which creates states, does: it must know whether they exist."""
    (ours, params), (host, others) = make(name), make(name)
    scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    overflow = 2
    for step in range(4):
        gradients(params, step, scaler.get_scale() if step else 1.0)
        if step == overflow:
            params[0].grad[0, 0] = torch.inf  # type: ignore[index]
            before = content(ours, params)
        if step:
            scale, found = scaler.scale(torch.ones(())) * 1.0, torch.tensor(float(step == overflow))
            ours.grad_scale, ours.found_inf = scale, found
            with monkeypatch.context() as patch:
                patch.setattr(Tensor, "__float__", None)
                ours.step()
            del ours.grad_scale, ours.found_inf
            scaler.update(scaler.get_scale() / (2 if step == overflow else 1))
        else:
            ours.step()
        if step == overflow:
            assert same(content(ours, params), before)
        else:
            gradients(others, step)
            host.step()
    assert ours.counters.skipped == 0
    assert same(content(ours, params), content(host, others))


def test_a_first_step_that_is_skipped_creates_nothing() -> None:
    optimizer, params = make("AdamW")
    gradients(params, 0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    optimizer.step()
    assert optimizer.counters.skipped == 1
    assert optimizer.state_dict()["state"] == {}


def test_a_whole_scaler_loop() -> None:
    (ours, params), (host, others) = make("ClippedLion"), make("ClippedLion")
    scaler = GradScaler("cpu", init_scale=256.0, growth_interval=2)
    for step in range(4):
        gradients(others, step)
        ours.zero_grad()
        loss = sum((p * q.grad).sum() for p, q in zip(params, others, strict=True))
        scaler.scale(loss).backward()
        scaler.step(ours)
        scaler.update()
        host.step()
    assert same(content(ours, params), content(host, others))


def test_a_rate_that_is_a_tensor_stays_where_it_is() -> None:
    (ours, params), (host, others) = make("AdamW"), make("AdamW")
    for group in ours.param_groups:
        group["lr"] = torch.tensor(0.01, dtype=torch.float64)
    ours.param_groups[0]["betas"] = (torch.tensor(0.9, dtype=torch.float64), 0.999)
    for step in range(4):
        for optimizer, own in ((ours, params), (host, others)):
            set_rate(optimizer, 0.5**step)
            gradients(own, step)
            optimizer.step()
    assert ours.counters.rows < host.counters.rows
    ours.param_groups[0]["betas"] = (0.9, 0.999)
    assert same(content(ours, params), content(host, others))


def test_counts_go_back_and_forth() -> None:
    """A parameter that pauses, a step on the host's numbers, a state that is looked at."""
    (ours, params), (host, others) = make("AdamW"), make("AdamW")
    for step in range(7):
        for optimizer, own in ((ours, params), (host, others)):
            gradients(own, step)
            if step in (2, 3):
                own[1].grad = None
            optimizer.step()
        if step in (1, 3, 4):
            ours.found_inf = torch.tensor(0.0)
        elif hasattr(ours, "found_inf"):
            del ours.found_inf
        assert ours.state[params[1]]["step"] == host.state[others[1]]["step"]
    assert same(content(ours, params), content(host, others))


# ---------------------------------------------------------------- graphs


def captured(
    optimizer: Any, params: list[Parameter], monkeypatch: pytest.MonkeyPatch, warm: int = 2
) -> Graph:
    for step in range(warm):
        gradients(params, step)
        optimizer.step()
    with capture(monkeypatch, optimizer) as graph:
        optimizer.step()
    return graph


@pytest.mark.parametrize("name", ["AdamW", "Lion", "ClippedLion", "SGD"])
def test_a_graph_goes_on_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """t lives on the device; rates change between replays, by number or in a tensor."""
    rate = torch.tensor(0.01, dtype=torch.float64)
    options = {"lr": rate} if name == "Lion" else {}
    (ours, params), (host, others) = make(name, capturable=True, **options), make(name)
    if name == "Lion":
        ours.param_groups[1]["lr"] = rate.clone()
    for optimizer in (ours, host):
        set_rate(optimizer, 0.01)
    graph = captured(ours, params, monkeypatch)
    before = content(ours, params)
    for step in range(2, 4):
        set_rate(ours, 0.1 / step)
        ours.sync_hypers()
        gradients(params, step)
        graph.replay()
    for step in range(4):
        set_rate(host, 0.01 if step < 2 else 0.1 / step)
        gradients(others, step)
        host.step()
    assert not same(content(ours, params), before)
    assert same(content(ours, params), content(host, others))


RING = """
optimizer Ring(lr = 0.5, k = 1):
    state past: [3, *p]
    p -= lr * past[(t + 1) % 3]
    past[t % 3] = g
    past[0] += past[1]

optimizer Told(lr = 0.5, k = 1):
    state past: [3, *p]
    p -= lr * (g - past[k])
    past[k] = g
"""


def test_a_graph_goes_from_entry_to_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers are worked out where t is; those that there may not be, the host tests."""
    rules = optdsl.compile_text(RING)
    with pytest.raises(ValueError, match=r"tests whether there is `past\[k\]` \(<text>:9\)"):
        rules.Told(parameters(), backend="triton", capturable=True)
    params, others = parameters(), parameters()
    ours = rules.Ring(params, backend="triton", capturable=True)
    host = rules.Ring(others, backend="triton")
    graph = captured(ours, params, monkeypatch)
    for step in range(2, 6):
        gradients(params, step)
        graph.replay()
    for step in range(6):
        gradients(others, step)
        host.step()
    assert same(content(ours, params), content(host, others))


def test_a_graph_steps_or_not_as_the_scaler_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    (ours, params), (host, others) = make("AdamW", capturable=True), make("AdamW")
    scale, found = torch.tensor(8.0), torch.tensor(0.0)
    ours.grad_scale, ours.found_inf = scale, found
    for step in range(2):
        gradients(params, step, 8.0)
        ours.step()
    with capture(monkeypatch, ours) as graph:
        ours.step()
    for step in range(2, 5):
        found.fill_(float(step == 3))
        scale.fill_(2.0**step)
        gradients(params, step, 2.0**step)
        graph.replay()
    for step in (0, 1, 2, 4):
        gradients(others, step)
        host.step()
    assert same(content(ours, params), content(host, others))


def test_a_graph_keeps_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with gradients elsewhere does not lead a graph astray."""
    (ours, params), (host, others) = make("AdamW", capturable=True), make("AdamW")
    graph = captured(ours, params, monkeypatch)
    kept = [p.grad for p in params]
    for p in params:
        p.grad = None
    gradients(params, 2)
    ours.step()
    for p, g in zip(params, kept, strict=True):
        p.grad = g
    gradients(params, 3)
    graph.replay()
    for step in range(4):
        gradients(others, step)
        host.step()
    assert same(content(ours, params), content(host, others))


def test_a_checkpoint_reaches_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    (ours, params), (host, others) = make("AdamW", capturable=True), make("AdamW")
    graph = captured(ours, params, monkeypatch)
    for step in range(4):
        gradients(others, step)
        host.step()
    ours.load_state_dict(host.state_dict())
    for p, q in zip(params, others, strict=True):
        p.data.copy_(q.data)
    gradients(params, 4)
    graph.replay()
    gradients(others, 4)
    host.step()
    assert same(content(ours, params), content(host, others))


def test_what_a_graph_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, params = make("AdamW")
    with pytest.raises(RuntimeError, match="needs capturable=True"):
        captured(plain, params, monkeypatch)
    ours, params = make("AdamW", capturable=True)
    gradients(params, 0)
    with pytest.raises(RuntimeError, match="a few times before"), capture(monkeypatch, ours):
        ours.step()
    captured(ours, params, monkeypatch)
    before = content(ours, params)
    params[2].grad = None
    with (
        pytest.raises(RuntimeError, match=r"'layer2.weight' lacks"),
        capture(monkeypatch, ours),
    ):
        ours.step()
    params[2].grad = torch.zeros_like(params[2])
    set_rate(ours, 0.5)
    with pytest.raises(RuntimeError, match="call sync_hypers"), capture(monkeypatch, ours):
        ours.step()
    set_rate(ours, 0.001)
    ours.param_groups[1]["lr"] = 0.02
    assert same(content(ours, params), before)


def test_capturable_in_host_memory_changes_nothing() -> None:
    params = parameters()
    gradients(params, 0)
    optimizer = optdsl.zoo.LookaheadAdamW(params, capturable=True, backend="cpu")
    optimizer.step()
    optimizer.sync_hypers()
    assert optimizer.counters.rows == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["AdamW", "Lion", "LAMB", "ClippedLion", "SGD", "NAdam"])
def test_a_real_graph(name: str) -> None:
    """As above, on a GPU."""
    values = [p.detach() for p in parameters()]
    runs = []
    for capturable in (True, False):
        params = [Parameter(v.cuda()) for v in values]
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer = getattr(optdsl.zoo, name)(params, lr=0.01, capturable=capturable)
        graph = torch.cuda.CUDAGraph() if capturable else None
        for step in range(8):
            optimizer.param_groups[0]["lr"] = 0.01 if step < 4 else 0.1 / step
            for p, g in zip(params, _slopes(values, step), strict=True):
                p.grad.copy_(g)  # type: ignore[union-attr]
            if graph is None or step < 3:
                optimizer.step()
                continue
            if step == 3:
                torch.cuda.synchronize()
                with torch.cuda.graph(graph):
                    optimizer.step()
            optimizer.sync_hypers()
            graph.replay()
        runs.append((params, optimizer.state_dict()["state"]))
    (ours, state), (others, expected) = runs
    assert all(torch.equal(p, q) for p, q in zip(ours, others, strict=True))
    assert same(
        {key: {k: v.cpu() for k, v in own.items()} for key, own in state.items()},
        {key: {k: v.cpu() for k, v in own.items()} for key, own in expected.items()},
    )


def _slopes(values: list[Tensor], step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(v.shape, generator=generator) for v in values]
