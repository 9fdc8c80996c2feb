"""Inputs: what a caller supplies with a step, on every backend; and what is refused."""

from __future__ import annotations

import pytest
import torch

import optdsl
import optdsl.zoo

RULES = """
optimizer X(lr = 0.1, k = 2):
    input h, s: [rows, 1], w: [] over all
    input gs: [samples, *p]
    state m
    m = lerp(m, h, 0.5) * w
    if t % k == 0:
        g = mean(gs * min(1, 1 / (norm(gs) + 1e-8)), axis = samples) + max(gs, axis = samples)
    when ndim == 2:
        m = m * s
    p -= lr * (g + m)
"""
SHAPES = {"a": (3, 4), "b": (5,), "c": (3, 4), "d": (2, 3, 2), "e": ()}


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    drawn = {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    return [(name, p.requires_grad_()) for name, p in drawn.items()]


def supplied(named, step):
    """The gradients of a step, and its inputs."""
    generator = torch.Generator().manual_seed(step)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for _, p in named:
        p.grad = drawn(*p.shape).to(p.dtype)
    inputs = {
        "h": [drawn(*p.shape) for _, p in named],
        "s": {name: drawn(p.shape[0], 1) for name, p in named if p.ndim == 2},
        "w": 0.5 + step,
    }
    if step % 2 == 0:
        inputs["gs"] = {p: drawn(2 + step, *p.shape) for _, p in named}
    return inputs


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_target_is_the_interpreter(rules, backend, dtype):
    if backend == "triton":
        pytest.importorskip("triton")
    results = []
    for each in (backend, "reference"):
        named = parameters(dtype)
        optimizer = rules.X(named, backend=each)
        for step in range(1, 5):
            optimizer.step(inputs=supplied(named, step))
        results.append([p.detach().double() for _, p in named])
    bound = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=bound, atol=bound)


def test_steady_inputs_make_no_plan_anew(rules):
    named = parameters()
    optimizer = rules.X(named)
    for step in range(1, 5):
        optimizer.step(inputs=supplied(named, step))
    plans = optimizer.counters.plans
    for step in range(5, 9):
        optimizer.step(inputs=supplied(named, step))
    assert optimizer.counters.plans == plans


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": 1.0}, "X has no input 'q'; it has: h, s, w, gs"),
        ({"h": None}, r"the input 'h' of parameter 'a' is missing"),
        ({"w": None}, r"the input 'w' is missing; call step\(inputs=\{'w': \.\.\.\}\)"),
        ({"h": [torch.zeros(4, 3)] * 5}, r"'h' of parameter 'a' is \[3, 4\], not a tensor of"),
        ({"s": {}}, r"the input 's' of parameter 'a' is missing"),
        (
            {"gs": [torch.zeros(2, *s) for s in SHAPES.values()][:-1]},
            "'gs' of parameter 'e' is mis",
        ),
        (
            {"gs": [torch.zeros(k + 1, *s) for k, s in enumerate(SHAPES.values())]},
            "'gs' of .* has 3 along 'samples', others have 1",
        ),
        (
            {"gs": [torch.zeros(s) for s in SHAPES.values()]},
            r"'gs' of .* is \[samples, 3, 4\], not",
        ),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_does_not_fit_changes_nothing(rules, backend, change, message):
    named = parameters()
    optimizer = rules.X(named, backend=backend)
    optimizer.step(inputs=supplied(named, 1))
    before = [p.detach().clone() for _, p in named]
    good = supplied(named, 2)
    with pytest.raises(ValueError, match=message):
        optimizer.step(inputs=good | change)
    assert all(torch.equal(p, q) for (_, p), q in zip(named, before, strict=True))
    optimizer.step(inputs=good)
    assert optimizer.state[named[0][1]]["step"] == 2


def test_a_rule_without_inputs_takes_none():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    optimizer = optdsl.zoo.SGD([p])
    with pytest.raises(ValueError, match="SGD has no input 'h'; it has: none"):
        optimizer.step(inputs={"h": [p]})
    optimizer.step(inputs={})


def test_a_step_with_hooks_takes_inputs(rules):
    named = parameters()
    optimizer = rules.X(named)
    seen = []
    optimizer.register_step_pre_hook(lambda *args: seen.append(args[2]))
    optimizer.step(inputs=supplied(named, 1))
    assert seen[0].keys() == {"inputs"}


SHIPPED = [
    *("Sophia", "SophiaG", "AdaFisher", "QASSGD", "VRSGD", "VRAdam", "VRLAMB", "VRLARS"),
    *("PrivateSGD", "PrivateAdam", "DiceSGD", "DiceSGDSum", "CorrelatedSGD", "BandMFSGD"),
    *("AdAdaGrad", "AdAdaGradNorm", "AdaptiveK", "SampleMedianSGD", "GeometricMedianSGD"),
]


def drawn_for(declared, p, generator):
    """Numbers above 0.1 of the shape that an input of `p` has; 4 along an axis of its own."""
    if declared.over:
        return 0.1 + torch.rand(4, generator=generator, dtype=torch.float64)
    *lead, rows, cols = declared.shape
    ends = p.shape[:1] if rows == "rows" else (1,), p.shape[1:] if cols == "cols" else (1,)
    shape = (*(4 for _ in lead), *ends[0], *ends[1])
    return 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rules(name):
    results = []
    for backend in ("cpu", "reference"):
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 3), (3, 5), (6,)]
        params = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        params = [p.requires_grad_() for p in params]
        optimizer = getattr(optdsl.zoo, name)(params, backend=backend)
        for _ in range(12):
            inputs = {
                each.name: drawn_for(each, None, generator)
                if each.over
                else [drawn_for(each, p, generator) for p in params]
                for each in optimizer.program.inputs
            }
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            optimizer.step(inputs=inputs)
        results.append([p.detach() for p in params])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
        assert found.isfinite().all()


def test_an_axis_of_its_own_is_no_row():
    text = "optimizer X(lr = 0.1):\n    input x: [samples, cols]\n    p -= lr * g @ (x.T @ x)\n"
    with pytest.raises(optdsl.CompileError, match=r"E314.*\n.*\n.*\n.*\[samples, 1, cols\]"):
        optdsl.compile_text(text)
