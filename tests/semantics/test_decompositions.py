"""Decompositions: what they give, their signs, and their answers for matrices that have none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optdsl import linalg
from tests.semantics.running import Run, body, codes, double

SHAPES = [(3, 5), (5, 3), (4, 4), (1, 4), (4, 1), (1, 1)]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def near(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def stepped(text: str, g: Tensor) -> Tensor:
    """What a rule of the lines `text`, which end in an assignment of p, makes of p = 0."""
    return Run(body(text), [torch.zeros_like(g)]).step(g).members[0].p


def largest(columns: Tensor) -> Tensor:
    """The component of largest size of each column, the first of several."""
    return columns.gather(-2, columns.abs().argmax(-2, keepdim=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_factors_give_the_matrix_back(shape: tuple[int, int]) -> None:
    g = random(*shape)
    near(stepped("q, r = qr(g)\np = q @ r", g), g)
    near(stepped("u, s, v = svd(g)\np = u @ (s * v.T)", g), g)
    near(stepped("w, v = eigh(g @ g.T)\np = (v @ (w * v.T)) @ g", g), g @ g.T @ g)
    near(stepped("c = cholesky(g @ g.T + eye(rows))\np = (c @ c.T) @ g - g", g), g @ g.T @ g)
    near(stepped("r = inverse_root(g @ g.T, 2, 0.5)\np = r @ r @ (g @ g.T @ g + 0.5 * g)", g), g)


@pytest.mark.parametrize("shape", SHAPES)
def test_signs_are_pinned(shape: tuple[int, int]) -> None:
    a = random(7, *shape)
    q, r = linalg.qr(a)
    assert (torch.diagonal(r, dim1=-2, dim2=-1) > 0).all()
    assert q.shape == (7, shape[0], min(shape))
    u, s, v = linalg.svd(a)
    assert (largest(v) > 0).all()
    assert (s.diff(dim=-2) <= 0).all()
    near(u @ (s * v.mT), a)
    w, e = linalg.eigh(a @ a.mT)
    assert (largest(e) > 0).all()
    assert (w.diff(dim=-2) >= 0).all()
    for found, again in zip(linalg.svd(a * 1.0), (u, s, v), strict=True):
        assert torch.equal(found, again)


def test_the_first_of_equal_components_decides() -> None:
    _, v = linalg.eigh(double([[0.0, 1.0], [1.0, 0.0]]))
    near(v, double([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_zero_matrix_has_factors(shape: tuple[int, int]) -> None:
    zero, k = torch.zeros(shape, dtype=torch.float64), min(shape)
    q, r = linalg.qr(zero)
    u, s, v = linalg.svd(zero)
    assert not r.any()
    assert not s.any()
    for basis in (q, u, v):
        assert torch.equal(basis, torch.eye(*basis.shape, dtype=torch.float64))
        assert basis.shape[-1] == k
    assert not stepped("p = inverse_root(g @ g.T, 4) @ g", zero).any()


def test_eigenvalues_are_those_of_float64_rounded_once() -> None:
    """One of 1e-6 beside one of 10: float32's own is off by a good part of it, or negative."""
    g = random(40, 1)
    a = (1e-6 * torch.eye(40) + 10 * (g @ g.T) / (g.T @ g)).float()
    values, vectors = linalg.eigh(a)
    exact, basis = linalg.eigh(a.double())
    assert values.dtype is vectors.dtype is torch.float32
    assert torch.equal(values, exact.float())
    assert torch.equal(vectors, basis.float())
    assert exact[0] < 2e-6
    assert (torch.linalg.eigvalsh(a)[0] - exact[0]).abs() > 0.05 * exact[0]


def test_a_root_leaves_out_what_the_matrix_lacks() -> None:
    g = double([[3.0, 4.0], [0.0, 0.0]])
    near(stepped("p = inverse_root(g @ g.T, 2) @ g", g), double([[0.6, 0.8], [0.0, 0.0]]))
    near(stepped("p = inverse_root(-(g @ g.T), 2) @ g", g), 0 * g)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["qr", "eigh", "svd", "cholesky", "inverse"])
def test_what_is_not_finite_gives_nan_for_that_matrix_alone(name: str, bad: float) -> None:
    a = random(3, 4, 4)
    a = a @ a.mT
    a[1, 0, 0] = bad
    found = getattr(linalg, name)(a)
    for part in found if isinstance(found, tuple) else (found,):
        assert part[1].isnan().any()
        assert part[[0, 2]].isfinite().all()


def test_singular_and_indefinite_matrices_give_nan() -> None:
    a = torch.stack([torch.zeros(2, 2), torch.eye(2)]).double()
    for found in (linalg.inverse(a), linalg.solve(a, a)):
        assert found[0].isnan().all()
        near(found[1], torch.eye(2).double())
    assert linalg.cholesky(-a).isnan().flatten(1).all(1).tolist() == [True, True]
    near(linalg.cholesky(4 * a)[1], 2 * torch.eye(2).double())


def test_a_part_of_the_identity_takes_columns() -> None:
    g = random(2, 3)
    near(stepped("p = (g @ eye(cols, 2)) @ eye(2, cols)", g), g * double([1.0, 1.0, 0.0]))
    near(stepped("p = (g @ eye(cols, 5)) @ eye(5, cols)", g), g)


def test_shapes_are_thin() -> None:
    text = body(
        "state a: [rows, short], b: [short, 1], c: [cols, short]\n"
        "state d: [min(rank, short), min(rank, short)]\n"
        "when ndim == 2:\n"
        "    a, b, c = svd(g)\n"
        "    q, d = qr(wide(g) @ eye(long, min(rank, short)))\n"
        "p -= lr * g",
        "lr = 1.0, rank = 2",
    )
    made = Run(text, [torch.zeros(5, 3)]).step(1.0)
    assert {name: tuple(state.shape) for name, state in made.members[0].states.items()} == {
        "a": (5, 3),
        "b": (3, 1),
        "c": (3, 3),
        "d": (2, 2),
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("_, v = eigh(g)\np -= lr * v", ["E315"]),
        ("p -= lr * cholesky(g)", ["E315"]),
        ("q, _ = qr(lr)\np -= lr * q", ["E315"]),
        ("w, _ = eigh(g @ g.T)\np -= lr * (w @ g)", ["E304"]),
        ("if norm(g) > 1:\n    q, r = qr(g)\n    g = q @ r\np -= lr * g", ["E320"]),
    ],
)
def test_mistakes(text: str, wanted: list[str]) -> None:
    assert codes(body(text)) == wanted
