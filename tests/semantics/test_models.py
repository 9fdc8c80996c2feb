"""Sentences 15 to 17: the model as loss and grad see it, inputs, random draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optdsl import draws, randomness
from tests.semantics.running import Run, body, codes, double, rule_of

PROGRAMS = Path(__file__).parents[1] / "language" / "programs"


class Quadratic:
    """loss = sum of squares over all parameters, each times its weight; it counts evaluations."""

    def __init__(self, at: Sequence[Tensor], weights: Sequence[float]) -> None:
        self.at, self.weights = [each.clone() for each in at], weights
        self.points: list[Sequence[Tensor] | None] = []

    def loss(self, points: Sequence[Tensor] | None) -> Tensor:
        self.points.append(points)
        terms = zip(self.weights, points or self.at, strict=True)
        return torch.stack([w * (q**2).sum() for w, q in terms]).sum()

    def grad(self, points: Sequence[Tensor]) -> list[Tensor]:
        self.points.append(points)
        return [2 * w * q for w, q in zip(self.weights, points, strict=True)]


def model(made: Run, *weights: float) -> Quadratic:
    return Quadratic([member.p for member in made.members], weights)


# ---------------------------------------------------------------- the model


def test_sam_takes_the_gradient_at_the_worst_point_near() -> None:
    made = Run((PROGRAMS / "sam.opt").read_text(), [[3.0], [4.0]], "SAM", hypers=[{"rho": 0.5}])
    closure = model(made, 0.5, 0.5)  # its gradient is p
    made.step([3.0], [4.0], closure=closure)
    scale = 0.5 / (5 + 1e-12)
    assert made.p(0) == pytest.approx([3 - 0.1 * (3 + scale * 3)], rel=1e-14)
    assert made.p(1) == pytest.approx([4 - 0.1 * (4 + scale * 4)], rel=1e-14)
    assert len(closure.points) == 1  # once for all parameters


def test_mezo_moves_along_a_draw_by_two_losses() -> None:
    made = Run((PROGRAMS / "mezo.opt").read_text(), [[1.0, 2.0], [3.0]], "MeZO")
    assert not made.rule.reads_gradient
    closure = model(made, 1.0, 2.0)
    made.step(0.0, 0.0, closure=closure)
    z = [
        draws.draw("randn", shape, seed=0, site=1, at=1, parameter=i)
        for i, shape in enumerate([(2, 1), (1, 1)])
    ]
    start = [double([[1.0], [2.0]]), double([[3.0]])]

    def loss(sign: float) -> float:
        moved = [p + sign * 1e-3 * each for p, each in zip(start, z, strict=True)]
        return (moved[0] ** 2).sum().item() + 2 * (moved[1] ** 2).sum().item()

    slope = (loss(1) - loss(-1)) / 2e-3
    for i in range(2):
        wanted = (start[i] - 1e-6 * slope * z[i]).flatten()
        assert made.p(i) == pytest.approx(wanted.tolist(), rel=1e-12)
    assert len(closure.points) == 2


def test_the_loss_at_p_itself_is_the_callers_own() -> None:
    made = Run(body("p = loss(p)"), [[2.0]])
    closure = model(made, 1.0)
    assert made.step([0.0], closure=closure).p() == [4.0]
    assert closure.points == [None]


def test_the_loss_at_an_assigned_p_is_an_evaluation() -> None:
    made = Run(body("p -= lr * g\np = loss(p)"), [[2.0]])
    closure = model(made, 1.0)
    assert made.step([5.0], closure=closure).p() == [9.0]
    assert closure.points[0] is not None


def test_parameters_outside_the_branch_stand_where_they_were() -> None:
    text = body("p -= lr * g\nwhen ndim == 2:\n    p = grad(p)")
    made = Run(text, [[[1.0]], [10.0]])
    closure = model(made, 1.0, 1.0)
    made.step([[0.5]], [1.0], closure=closure)
    (points,) = closure.points
    assert points is not None
    assert [each.flatten().tolist() for each in points] == [[0.5], [10.0]]
    assert made.p(0) == [[1.0]]
    assert made.p(1) == [9.0]


def test_the_model_is_evaluated_in_a_loop() -> None:
    made = Run(body("w = p\nrepeat 3:\n    w -= 0.25 * grad(w)\np = w"), [[8.0], [16.0]])
    closure = model(made, 1.0, 0.5)
    made.step([0.0], [0.0], closure=closure)
    assert made.p(0) == [8 * 0.5**3]
    assert made.p(1) == [16 * 0.75**3]
    assert len(closure.points) == 3


def test_a_point_has_ps_shape() -> None:
    assert codes(body("p -= lr * grad(1)")) == ["E316"]
    assert codes(body("p -= lr * loss(norm(p))")) == ["E316"]


def test_a_rule_that_reads_no_gradient_needs_none() -> None:
    assert not rule_of(body("p *= 1 - lr")).reads_gradient
    assert rule_of(body("p *= 1 - lr\nreport n = norm(g, over = all)")).reads_gradient


# ---------------------------------------------------------------- inputs


def test_dpsgd_clips_each_sample_by_its_norm_over_the_model() -> None:
    text = (PROGRAMS / "dpsgd.opt").read_text() + "\noptimizer X = DPSGD(SGD, C = 1, batch = 2)\n"
    made = Run(text, [[0.0, 0.0], [0.0]], hypers=[{"sigma": 0, "lr": 1.0}])
    # Two samples over both parameters, of norm 5 and of norm less than 1.
    samples = ([[3.0, 0.0], [0.1, 0.0]], [[4.0], [0.2]])
    made.step([0.0, 0.0], [0.0], inputs=[{"gs": each} for each in samples])
    assert made.p(0) == pytest.approx([-(3 / 5 + 0.1) / 2, 0.0], rel=1e-14)
    assert made.p(1) == pytest.approx([-(4 / 5 + 0.2) / 2], rel=1e-14)


def test_inputs_of_several_shapes() -> None:
    text = body(
        """
input h
input s: [rows, 1]
input losses: [samples] over all
worst = max(losses, axis = samples)
p = h * s + worst + 100 * mean(losses, axis = samples) + 1000 * size(losses, samples)
"""
    )
    made = Run(text, [torch.zeros(2, 2)])
    made.step(0.0, inputs={"h": [[1, 2], [3, 4]], "s": [10, 20], "losses": [5, 7, 9]})
    assert made.p() == [[10 + 3709, 20 + 3709], [60 + 3709, 80 + 3709]]


def test_an_input_is_needed_only_where_it_is_read() -> None:
    made = Run(body("input h\nevery 2:\n    p += h"), [1.0]).step(0.0)
    assert made.p() == 1.0
    with pytest.raises(ValueError, match="`h`"):
        made.step(0.0)


def test_an_input_of_the_wrong_size_is_refused() -> None:
    made = Run(body("input h\np += h"), [[1.0, 2.0]])
    with pytest.raises(ValueError, match="`h`"):
        made.step([0.0, 0.0], inputs={"h": [1.0, 2.0, 3.0]})


def test_named_axes_are_reduced_by_name_alone() -> None:
    text = body("input gs: [samples, *p]\nn = norm(gs, over = all)\np = sum(n, axis = samples)")
    made = Run(text, [[0.0, 0.0]]).step([0.0, 0.0], inputs={"gs": [[3, 4], [6, 8]]})
    assert made.p() == [15.0, 15.0]
    assert "E318" in codes(text.replace("sum(n, axis = samples)", "sum(n)"))


@pytest.mark.parametrize(("over", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_with_no_axis_entries_are_reduced_over_parameters_alone(over: str, factor: float) -> None:
    corner = "eye(2, rows) @ g @ eye(cols, 2)"  # of one shape, whatever that of g is
    text = f"k = {over}({corner}, axis = (), over = all)\np = eye(rows, 2) @ k @ eye(2, cols)"
    made = Run(body(text), [[[1.0]], [[2.0, 3.0]]]).step([[4.0]], [[5.0, 6.0]])
    assert [made.p(i) for i in range(2)] == [[[9 * factor]], [[9 * factor, 6 * factor]]]


@pytest.mark.parametrize(
    "call",
    [
        "sum(g @ g.T, axis = (), over = all)",  # of another size in each parameter
        "sum(g, axis = (), over = group)",
        "sum(g.T @ g, axis = ())",  # over nothing
        "kth_smallest(g, 1, axis = ())",
        "flip(g, axis = ())",
        "size(g, ())",
        "sum(g, axis = (0, 1))",
    ],
)
def test_entries_that_have_no_match_are_refused(call: str) -> None:
    assert codes(body(f"p -= lr * g * {call}")) == ["E307"]


# ---------------------------------------------------------------- draws


WORD = (1 << 32) - 1


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry 2x32 of 20 rounds on Python integers, from its paper."""
    turns = (13, 15, 26, 6, 17, 29, 16, 24)
    keys = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    x, y = ((c + k) & WORD for c, k in zip(counter, keys, strict=False))
    for number in range(20):
        x = (x + y) & WORD
        y = ((y << turns[number % 8]) & WORD | y >> (32 - turns[number % 8])) ^ x
        if number % 4 == 3:
            again = number // 4 + 1
            x = (x + keys[again % 3]) & WORD
            y = (y + keys[(again + 1) % 3] + again) & WORD
    return x, y


def test_threefry_gives_the_published_words() -> None:
    """Those of Random123's known answers."""
    ones, pi = (WORD, WORD), ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3))
    for key, counter, words in (
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (ones, ones, (0x1CB996FC, 0xBB002BE7)),
        (*pi, (0xC4923A9C, 0x483DF7A0)),
    ):
        assert threefry(key, counter) == words
        made = randomness.words(key, *(torch.tensor([each]) for each in counter))
        assert tuple(int(each) for each in made) == words


def words_of(seed: int, parameter: int, site: int, at: int, element: int) -> tuple[int, int]:
    """What one element draws from."""
    own = threefry((seed & WORD, seed >> 32), (parameter & WORD, parameter >> 32 & WORD))
    return threefry(threefry(own, (at, site)), (element & WORD, element >> 32))


def test_rand_is_bit_equal_to_threefry() -> None:
    seed, t = 0x123456789ABCDEF0, 3
    made = Run(body("p = rand()"), [torch.zeros(2, 3), 0.0, torch.zeros(4)])
    for _ in range(t):
        made.step(0.0, 0.0, 0.0, seed=seed)
    for parameter, count in ((0, 6), (2, 4)):
        words = [words_of(seed, parameter, 1, t, e)[0] for e in range(count)]
        found = made.members[parameter].p.flatten().tolist()
        assert found == [(word >> 8) * 2.0**-24 for word in words]


def test_randn_and_exponential_are_transforms_of_the_words() -> None:
    """Float32 of their own, near to what the formulas give."""
    made = Run(body("p = randn()\nstate e = exponential()"), [torch.zeros(50)]).step(0.0)
    for e in range(50):
        first, second = words_of(0, 0, 1, 1, e)
        turn = ((second >> 8) - (second >> 31 << 24)) * 2.0**-23
        radius = math.sqrt(-2 * math.log1p(-(first >> 8) * 2.0**-24))
        assert made.p()[e] == pytest.approx(radius * math.sin(math.pi / 2 * turn), rel=4e-7)
        wanted = -math.log1p(-(words_of(0, 0, 2, 1, e)[0] >> 8) * 2.0**-24)
        assert made.state("e")[e] == pytest.approx(wanted, rel=2e-7)


def test_logarithm_and_sine_of_draws_are_right_to_some_ulps() -> None:
    """Over all of their arguments in steps of 7, and both ends: in ulps of float32, 2^-24 at
    least of the result."""
    number = torch.cat([torch.arange(0, 2**24, 7), torch.arange(2**24 - 9, 2**24)])
    found, word = draws.exponential(number << 8).double(), number << 8
    wanted = -torch.log1p(-number.double() * 2.0**-24)
    assert found[0] == 0
    assert ((found - wanted).abs()[1:] / wanted[1:]).max() < 3 * 2.0**-24
    turn = (number - (number >> 23 << 24)).double() * 2.0**-23
    wanted = math.sqrt(-2 * math.log1p(-0.5)) * torch.sin(math.pi / 2 * turn)
    found = draws.normal(torch.full_like(word, 1 << 31), word).double()
    assert ((found - wanted).abs() <= 6 * 2.0**-24 * wanted.abs()).all()


def test_draws_have_the_moments_of_their_distributions() -> None:
    n = 200_000
    text = body("state u = rand(), z = randn(), e = exponential()\np = u")
    states = Run(text, [torch.zeros(n)]).step(0.0).members[0].states
    u, z, e = states["u"], states["z"], states["e"]
    for drawn, mean, deviation in ((u, 0.5, math.sqrt(1 / 12)), (z, 0, 1), (e, 1, 1)):
        assert drawn.mean().item() == pytest.approx(mean, abs=5 * deviation / math.sqrt(n))
        assert drawn.std().item() == pytest.approx(deviation, rel=0.02)
    assert u.min() >= 0 and u.max() < 1
    assert abs(torch.corrcoef(torch.stack([u, z, e])).fill_diagonal_(0)).max() < 0.02


def drawn(text: str, steps: int = 1, index: int = 0, **hyper: float) -> list[float]:
    made = Run(body(text), [torch.zeros(6), torch.zeros(6)], hypers=[hyper])
    for _ in range(steps):
        made.step(0.0, 0.0)
    return made.p(index)


def test_a_draw_depends_on_seed_site_t_and_parameter() -> None:
    base = drawn("p = randn()")
    assert drawn("p = randn()") == base
    others = [
        drawn("p = randn()", seed=1),
        drawn("p = randn()", seed=1 << 40),
        drawn("p = randn()", steps=2),
        drawn("p = randn()", index=1),
        drawn("x = randn()\np = randn() + 0 * x"),
    ]
    for a, b in itertools.combinations([base, *others], 2):
        assert a != b


def test_a_draw_at_a_number_stays_while_that_does() -> None:
    text = "p = randn(at = (t - 1) // 2)"
    found = [drawn(text, steps=n) for n in (1, 2, 3, 4)]
    assert found[0] == found[1] != found[2] == found[3]


def test_one_draw_over_all_is_a_number_of_the_host() -> None:
    made = Run(
        body("u = rand([], over = all)\nif u < 0.5:\n    p = -u\nelse:\n    p = u"), [0.0, 0.0]
    )
    signs = set()
    for _ in range(20):
        made.step(1.0, None if len(signs) == 1 else 1.0)
        signs.add(made.p() > 0)
    made.step(1.0, 1.0)
    assert made.p(0) == made.p(1)
    assert signs == {True, False}


def filled(loop: str, draw: str) -> list[list[float]]:
    """Eight draws of a loop, each in its entry of a state."""
    text = body(f"state x: [8, *p]\nfor k in {loop}:\n    x[k] = {draw}\np = x[0]", "n = 8")
    made = Run(text, [[0.0] * 4]).step([0.0] * 4)
    return made.members[0].states["x"].flatten(1).tolist()


def test_each_pass_of_a_loop_draws_anew() -> None:
    rows = filled("range(n)", "randn()")
    assert len({tuple(row) for row in rows}) == 8
    assert rows == filled("range(8)", "randn()")  # unrolled


def test_passes_of_nested_loops_draw_apart() -> None:
    text = """
state x: [9, *p]
for i in range(n):
    for j in range(n):
        x[3 * i + j] = rand()
p = x[0]
"""
    made = Run(body(text, "n = 3"), [[0.0] * 4]).step([0.0] * 4)
    rows = made.members[0].states["x"].flatten(1).tolist()
    assert len({tuple(row) for row in rows}) == 9


@pytest.mark.parametrize("loop", ["range(n)", "range(8)"])
def test_at_in_a_loop_is_the_whole_of_the_number(loop: str) -> None:
    rows = filled(loop, "randn(at = k // 4)")
    assert rows[0] == rows[3] != rows[4] == rows[7]


def test_draws_have_the_shape_that_is_asked_for() -> None:
    text = body("state m: [short, 2]\nm = randn([short, 2])\np -= g * sum(m)")
    made = Run(text, [torch.zeros(5, 3)])
    assert made.step(1.0).members[0].states["m"].shape == (3, 2)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("randn(own = workers)", "E502"),
        ("randn([rows, 1], over = all)", "E314"),
        ("randn(at = norm(g))", "E313"),
        ("rand([], over = all, at = t)", "E408"),
        ("randn(rows)", "E314"),
        ("randn(mean = 1)", "E208"),
    ],
)
def test_draws_that_cannot_be(call: str, code: str) -> None:
    assert codes(body(f"p -= lr * {call}")) == [code]
