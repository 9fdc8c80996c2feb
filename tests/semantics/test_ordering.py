"""Order statistics and gathers: what they give, and their answers where there is none."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from optdsl import order
from tests.semantics.running import Run, body, codes, double

NAN = math.nan
G = double([[3.0, 1.0, 2.0, 1.0], [-1.0, 5.0, 0.0, 4.0], [2.0, 2.0, 9.0, -7.0]])


def stepped(text: str, g: Tensor = G, signature: str = "lr = 1.0") -> Tensor:
    """What a rule of the lines `text`, which end in an assignment of p, makes of p = 0."""
    return Run(body(text, signature), [torch.zeros_like(g)]).step(g).members[0].p


def test_positions_sort_an_axis_and_ties_keep_their_order() -> None:
    assert stepped("p = argsort(g, axis = 1)").tolist() == [
        [1, 3, 2, 0],
        [0, 2, 3, 1],
        [3, 0, 1, 2],
    ]
    assert stepped("p = argsort(g)")[:, 0].tolist() == [1, 2, 0]
    assert stepped("p = 0 * g + sum(argsort(g, axis = 1, first = 2))")[0, 0] == 4 + 2 + 3
    assert order.argsort(double([[NAN], [2.0], [-1.0]]), -2).flatten().tolist() == [2, 1, 0]


def test_entries_are_taken_and_put_back() -> None:
    rows = stepped("i = argsort(g @ eye(cols, 1))\np = take(g, i)")
    assert torch.equal(rows, G[[1, 2, 0]])
    columns = stepped("i = argsort(eye(1, rows) @ g, axis = 1)\np = take(g, i, axis = 1)")
    assert torch.equal(columns, G[:, [1, 3, 2, 0]])
    back = stepped(
        "i = argsort(norm(g, axis = 0), axis = 1, first = 2)\n"
        "p = put(take(g, i, axis = 1), i, 7 + 0 * g, axis = 1)"
    )
    two = G.norm(dim=0).argsort()[:2]
    wanted = torch.full_like(G, 7.0)
    wanted[:, two] = G[:, two]
    assert torch.equal(back, wanted)


def test_what_has_no_such_entry() -> None:
    x, i = double([[1.0], [2.0]]), double([[1.0], [5.0], [-1.0], [NAN]])
    found = order.take(x, i, -2).flatten()
    assert found[0] == 2
    assert found[1:].isnan().all()
    put = order.put(10 + torch.arange(4.0).double()[:, None], i, x, -2)
    assert put.flatten().tolist() == [1.0, 10.0]
    assert order.take(x[:0], i, -2).isnan().all()


def test_flips() -> None:
    assert torch.equal(stepped("p = flip(g)"), G.flip(0, 1))
    assert torch.equal(stepped("p = flip(g, axis = 0)"), G.flip(0))
    assert torch.equal(stepped("p = flip(g, axis = 1)"), G.flip(1))
    assert torch.equal(stepped("view flat\np = flip(g)"), G.flatten().flip(0).reshape(3, 4))


def test_other_shapes() -> None:
    there = stepped("p = reshape(reshape(g, [2, 6]) * eye(2, 6), [rows, cols])")
    wanted = G.reshape(2, 6) * torch.eye(2, 6)
    assert torch.equal(there, wanted.reshape(3, 4))
    blocks = "s = mean(reshape(g^2, [numel // 2, 2]), axis = 1)\n"
    back = stepped(blocks + "p = reshape(s + 0 * reshape(g, [numel // 2, 2]), [rows, cols])")
    assert torch.equal(back, (G**2).reshape(-1, 2).mean(1, True).expand(6, 2).reshape(3, 4))
    assert stepped("p = 0 * g + sum(reshape(g, [2, 2]))")[0, 0] == 3 + 1 + 2 + 1
    assert stepped("p = reshape(reshape(g, [5, 1]), [rows, cols])").isnan().sum() == 12 - 5
    batch = torch.stack([G, 10 * G])
    text = "view last\np = reshape(flip(reshape(g, [12, 1])), [rows, cols])"
    assert stepped(text, batch)[1, 0].tolist() == [-70.0, 90.0, 20.0, 20.0]


@pytest.mark.parametrize("k", [1, 2, 5.9, 12, 100, 0, -3, math.inf])
def test_the_kth_of_all(k: float) -> None:
    down = sorted(G.flatten().tolist(), reverse=True)
    n = min(max(int(min(k, 12)), 1), 12)
    assert (
        stepped("p = kth_largest(g, k)", signature=f"k = {k}" if k < math.inf else "k = 1e9")[0, 0]
        == down[n - 1]
    )
    smallest = order.kth_smallest(G, k, (-2, -1))
    assert smallest.tolist() == [[down[-n]]]


def test_the_kth_along_an_axis_and_in_a_batch() -> None:
    assert stepped("p = kth_largest(g, 2, axis = 1)")[:, 0].tolist() == [2.0, 4.0, 2.0]
    assert stepped("p = kth_smallest(g, 3, axis = 0)")[0].tolist() == [3.0, 5.0, 9.0, 4.0]
    batch = torch.stack([G, 10 * G])
    assert stepped("view last\np = kth_largest(g, 2, axis = 1)", batch)[:, :, 0].tolist() == [
        [2.0, 4.0, 2.0],
        [20.0, 40.0, 20.0],
    ]
    assert stepped("view last\np = kth_largest(g, 2)", batch).unique().tolist() == [50.0]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_medians(size: int) -> None:
    g = torch.randn(size, 1, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    assert stepped("p = median(g)", g)[0, 0] == statistics.median(g.flatten().tolist())
    assert stepped("p = median(g, axis = 0)", g)[0, 0] == statistics.median(g.flatten().tolist())


def test_one_nan_makes_a_statistic_nan() -> None:
    g = G.clone()
    g[1, 1] = NAN
    assert stepped("p = median(g)", g).isnan().all()
    assert stepped("p = kth_smallest(g, 1, axis = 1)", g).isnan().all(1).tolist() == [
        False,
        True,
        False,
    ]
    assert order.kth_smallest(G[:0], 1, (-2, -1)).isnan().all()


def test_permutations_are_of_all_numbers_and_differ() -> None:
    states = "state i: [rows, 1], j: [2, 1]\n"
    text = body(states + "i = permutation(rows)\nj = permutation(rows, 2)\np = 0 * g")
    made = Run(text, [torch.zeros(9, 2), torch.zeros(9, 2)])
    seen = []
    for _ in range(2):
        made.step(0.0, 0.0)
        for i in (0, 1):
            rows, two = made.state("i", i), made.state("j", i)
            assert sorted(each[0] for each in rows) == list(range(9))
            assert len({each[0] for each in two} & set(range(9))) == 2
            seen.append(rows)
    assert all(a != b for k, a in enumerate(seen) for b in seen[:k])
    held = Run(body("p = 0 * g + permutation(rows, at = (t - 1) // 2)"), [torch.zeros(9, 1)])
    first, second, third = (held.step(0.0).p() for _ in range(3))
    assert first == second != third


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("p -= lr * take(g, g)", ["E322"]),
        ("p -= lr * argsort(lr)", ["E322"]),
        ("p -= lr * take(g, argsort(norm(g, axis = 1)), axis = 1)", ["E301"]),
        ("i = permutation(rows, 2)\np = lr * put(g, i, p)", ["E322"]),
        ("p -= lr * kth_smallest(g, g)", ["E322"]),
        ("p -= lr * reshape(g, 4)", ["E314"]),
        ("p -= lr * reshape(g, [numel, 1])", ["E301"]),
        ("p -= lr * median(g, over = all)", ["E208"]),
        ("state i: [2, 1]\ni = permutation(lr)\np -= g", ["E314"]),
    ],
)
def test_mistakes(text: str, wanted: list[str]) -> None:
    assert codes(body(text)) == wanted
