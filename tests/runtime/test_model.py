"""Rules that evaluate the model, compiled: values, what the closure sees, what it leaves."""

from __future__ import annotations

import pytest
import torch

import optdsl
import optdsl.zoo

RULES = """
optimizer Sharp(lr = 0.1, rho = 0.05):
    g2 = grad(p + rho * g / (norm(g, over = all) + 1e-12))
    p -= lr * g2

optimizer Blind(lr = 1e-2, eps = 1e-3):
    z = randn()
    c = (loss(p + eps * z) - loss(p - eps * z)) / (2 * eps)
    p -= lr * c * z

optimizer Mixed(lr = 0.05, k = 2):
    state m, slow = p
    before = loss(p)
    m = lerp(m, g, 0.5)
    when ndim == 2:
        q = p - lr * m
        if t % k == 0:
            g = grad(q)
            slow = lerp(slow, q, 0.5)
            m += 0.1 * grad(slow)
        after = loss(q @ eye(cols))
        p = q - 0.01 * g * tanh(before - after)
    otherwise:
        p -= lr * g * tanh(before)
"""
SHAPES = [(3, 4), (5,), (3, 4), (2, 3, 2), (0, 2)]


class Problem:
    """Parameters of a smooth function with a minimum, and an optimizer of them."""

    def __init__(self, make, dtype=torch.float64, **options):
        generator = torch.Generator().manual_seed(9)
        drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        self.params = [each.to(dtype).requires_grad_() for each in drawn]
        named = [(f"layer{k}.weight", p) for k, p in enumerate(self.params)]
        self.optimizer = make(named, **options)
        self.sign, self.calls, self.seen = 1.0, 0, []

    def closure(self):
        self.calls += 1
        self.seen.append([p.detach().clone() for p in self.params])
        self.optimizer.zero_grad()
        terms = [(p - 0.1 * k) ** 2 / 2 + p**4 / 40 for k, p in enumerate(self.params)]
        loss = self.sign * torch.stack([each.sum() for each in terms]).sum()
        loss.backward()
        return loss.detach()

    def run(self, steps=4):
        losses = [self.optimizer.step(self.closure).item() for _ in range(steps)]
        return losses, [p.detach().double() for p in self.params]


@pytest.mark.parametrize("name", ["Sharp", "Blind", "Mixed"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_target_is_the_interpreter(rules, name, backend, dtype):
    if backend == "triton":
        pytest.importorskip("triton")
    make = getattr(rules, name)
    ours, theirs = Problem(make, dtype, backend=backend), Problem(make, dtype, backend="reference")
    found, wanted = ours.run(), theirs.run()
    # The difference of two losses has lost most of its digits.
    bound = 1e-10 if dtype is torch.float64 else 5e-2 if name == "Blind" else 1e-5
    torch.testing.assert_close(found[0], wanted[0], rtol=bound, atol=bound)
    for ours_p, theirs_p in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(ours_p, theirs_p, rtol=bound, atol=bound)
    assert ours.calls == theirs.calls == {"Sharp": 8, "Blind": 8, "Mixed": 4 + 4 + 2 * 2}[name]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_rule_that_is_known_by_hand(rules, backend):
    problem = Problem(rules.Sharp, backend=backend)
    start = [p.detach().clone() for p in problem.params]
    problem.optimizer.step(problem.closure)
    grads = [p - 0.1 * k + p**3 / 10 for k, p in enumerate(start)]
    size = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    moved = [p + 0.05 * g / (size + 1e-12) for p, g in zip(start, grads, strict=True)]
    first, second = problem.seen
    assert all(map(torch.equal, first, start))
    for q, seen in zip(moved, second, strict=True):
        torch.testing.assert_close(seen, q, rtol=0, atol=1e-14)
    for k, (p, q, old) in enumerate(zip(problem.params, moved, start, strict=True)):
        wanted = old - 0.1 * (q - 0.1 * k + q**3 / 10)
        torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_parameters_and_gradients_are_left_as_they_were(rules, backend, dtype):
    problem = Problem(rules.Sharp, dtype, backend=backend, lr=0.0)
    start = [p.detach().clone() for p in problem.params]
    problem.optimizer.step(problem.closure)
    assert not torch.equal(problem.seen[1][0], start[0])
    for k, (p, old) in enumerate(zip(problem.params, start, strict=True)):
        assert torch.equal(p.detach(), old)
        own = old.clone().requires_grad_()
        ((own - 0.1 * k) ** 2 / 2 + own**4 / 40).sum().backward()
        assert torch.equal(p.grad, own.grad), "that of the caller's evaluation"


def test_only_those_that_execute_the_statement_move(rules):
    problem = Problem(rules.Mixed)
    start = [p.detach().clone() for p in problem.params]
    problem.optimizer.step(problem.closure)
    _, second = problem.seen
    moved = [not torch.equal(a, b) for a, b in zip(second, start, strict=True)]
    assert moved == [True, False, True, False, False]


def test_a_rule_that_needs_no_gradient_runs_the_closure_where_it_asks(rules):
    problem = Problem(rules.Blind)
    loss = problem.optimizer.step(problem.closure)
    assert problem.calls == 2
    assert not torch.equal(problem.seen[0][0], problem.seen[1][0])
    assert isinstance(loss, torch.Tensor)
    assert problem.optimizer.counters.evaluations == 2


def test_uphill_is_downhill_of_the_negative(rules):
    up, down = Problem(rules.Mixed, maximize=True), Problem(rules.Mixed)
    up.sign = -1.0
    assert all(map(torch.equal, up.run()[1], down.run()[1]))


@pytest.mark.parametrize("name", ["Sharp", "Blind"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_step_without_a_model_changes_nothing(rules, name, backend):
    problem = Problem(getattr(rules, name), backend=backend)
    problem.closure()
    before = [p.detach().clone() for p in problem.params]
    with pytest.raises(ValueError, match=f"{name} evaluates the model: call step\\(closure\\)"):
        problem.optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(problem.params, before, strict=True))
    assert not problem.optimizer.state_dict()["state"]
    problem.run(1)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", ["Sharp", "Mixed"])
def test_a_closure_that_fails_leaves_everything_as_it_was(rules, name, backend):
    problem, other = (Problem(getattr(rules, name), backend=backend) for _ in range(2))
    problem.run(1)
    other.run(1)
    before = [p.detach().clone() for p in problem.params]
    calls = problem.calls

    def fails():
        if problem.calls > calls:
            raise RuntimeError("out of data")
        return problem.closure()

    with pytest.raises(RuntimeError, match="out of data"):
        problem.optimizer.step(fails)
    assert all(torch.equal(p, q) for p, q in zip(problem.params, before, strict=True))
    assert all(p.grad is not None for p in problem.params)
    found, wanted = problem.run(2), other.run(2)
    assert found[0] == wanted[0]
    assert all(map(torch.equal, found[1], wanted[1]))


SHIPPED = ["MeZO", "DeltaSGD", "DeltaSGDPaper", "EntropySGD", "FedSpeed", "SMB", "SPL", "UDoG"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rules(name):
    """Found by the interpreter to keep the published values; compiled they do what it does."""
    make = getattr(optdsl.zoo, name)
    ours, theirs = (Problem(make, backend=each) for each in ("cpu", "reference"))
    found, wanted = ours.run(6), theirs.run(6)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert any(not torch.equal(p, q) for p, q in zip(ours.seen[0], ours.params, strict=True))


@pytest.mark.parametrize(
    ("name", "closure", "message"),
    [
        ("Blind", lambda: None, "the closure returns no loss"),
        ("Sharp", lambda: 1.0, r"the closure leaves no gradients; it runs backward\(\)"),
    ],
)
def test_what_a_closure_owes(rules, name, closure, message):
    problem = Problem(getattr(rules, name))
    problem.closure()
    with pytest.raises(ValueError, match=message):
        problem.optimizer.step(closure)


def test_groups_that_go_apart_are_refused(rules):
    problem = Problem(rules.Sharp)
    (group,) = problem.optimizer.param_groups
    group["params"], group["param_names"] = group["params"][:2], group["param_names"][:2]
    rest = [(f"rest{k}", p) for k, p in enumerate(problem.params[2:])]
    problem.optimizer.add_param_group({"params": rest, "maximize": True})
    with pytest.raises(ValueError, match="`maximize` is the same for all"):
        problem.optimizer.step(problem.closure)


def test_an_evaluation_under_a_condition_that_its_loop_changes_has_no_code_yet():
    text = "optimizer X(lr = 0.1, n = 3):\n    w = p\n    for k in range(n):\n"
    text += "        if k % 2 == 0:\n            w -= lr * grad(w)\n    p = w\n"
    with pytest.raises(optdsl.CompileError, match="under a condition that a loop changes"):
        optdsl.compile_text(text)
