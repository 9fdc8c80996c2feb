"""What a model answers at a batch is what `question` says that it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from optdsl.gallery.batches import Batch, quantised

SAMPLES, ROWS, COLS = 6, 3, 4


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(COLS, ROWS), nn.Tanh(), nn.Linear(ROWS, ROWS))
    return Batch(model, torch.randn(SAMPLES, COLS), torch.arange(SAMPLES) % ROWS, step=1)


def loss(batch: Batch) -> torch.Tensor:
    return cross_entropy(batch.model(batch.inputs), batch.wanted)


def test_samples_have_the_gradient_as_their_mean(batch: Batch) -> None:
    slopes = torch.autograd.grad(loss(batch), list(batch.model.parameters()))
    for each, slope in zip(batch.gradients(), slopes, strict=True):
        assert each.shape == (SAMPLES, *slope.shape)
        torch.testing.assert_close(each.mean(0), slope)
    torch.testing.assert_close(batch.losses().mean(), loss(batch).detach())


def test_the_hessian_is_how_the_gradient_changes(batch: Batch) -> None:
    weight, step = batch.model[0].weight, 1e-2
    block = batch.hessian()[0]
    assert block.shape == (weight.numel(), weight.numel())
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.view(-1)[2] += sign * step
        found.append(torch.autograd.grad(loss(batch), weight)[0].flatten())
        with torch.no_grad():
            weight.view(-1)[2] -= sign * step
    torch.testing.assert_close(block[2], (found[0] - found[1]) / (2 * step), rtol=0, atol=1e-4)


def test_the_diagonal_is_that_of_signs_times_how_the_gradient_changes_along_them(
    batch: Batch,
) -> None:
    params, step = list(batch.model.parameters()), 2e-3
    drawing = torch.Generator().manual_seed(batch.step)
    signs = [torch.randint(0, 2, p.shape, generator=drawing) * 2.0 - 1 for p in params]
    estimate, slopes = batch.diagonal(), []
    for way in (step, -step):
        with torch.no_grad():
            torch._foreach_add_(params, signs, alpha=way)
        slopes.append(torch.autograd.grad(loss(batch), params))
        with torch.no_grad():
            torch._foreach_add_(params, signs, alpha=-way)
    for z, up, down, found in zip(signs, *slopes, estimate, strict=True):
        torch.testing.assert_close(found, z * (up - down) / (2 * step), rtol=0, atol=5e-4)


def test_layers_say_what_goes_through_them(batch: Batch) -> None:
    first, bias, second, _ = batch.given()
    assert bias is None
    assert first is not None
    assert second is not None
    assert torch.equal(first[:, 0], batch.inputs)
    assert second.shape == (SAMPLES, 1, ROWS)
    for p, inner, outer in zip(batch.model.parameters(), batch.inner(), batch.outer(), strict=True):
        assert inner.shape == (1, p.shape[1] if p.ndim == 2 else 1)
        assert outer.shape == (p.shape[0], 1)
        assert (outer.min(), outer.max()) == (0, 1)
    squares = (batch.inputs**2).mean(0)
    assert int(batch.inner()[0].argmax()) == int(squares.argmax())


def test_an_embedding_is_asked_for_rows() -> None:
    model = nn.Sequential(nn.Embedding(5, COLS), nn.Flatten(), nn.Linear(2 * COLS, ROWS))
    asked = torch.tensor([[0, 1], [1, 2], [1, 0]])
    batch = Batch(model, asked, torch.arange(3), step=1)
    assert batch.outer()[0][:, 0].tolist() == pytest.approx([2 / 3, 1, 1 / 3, 0, 0])
    assert batch.inner()[0].shape == (1, COLS)
    assert batch.given()[0] is None


def test_labels_are_drawn_from_the_model(batch: Batch) -> None:
    other = Batch(batch.model, batch.inputs, batch.wanted, step=2)
    assert [each.shape for each in batch.sampled()] == [p.shape for p in batch.model.parameters()]
    assert not torch.equal(batch.sampled()[0], other.sampled()[0])
    assert torch.equal(batch.sampled()[0], batch.sampled()[0])


def test_quantised_weights_are_whole_numbers_times_a_scale(batch: Batch) -> None:
    before = batch.model[0].weight.detach().clone()
    model = quantised(batch.model)
    names = [name for name, _ in model.named_parameters()]
    scales = Batch(model, *BATCH, step=1).scale()
    scale = scales[names.index("0.parametrizations.weight.original")]
    weight = model[0].weight.detach()
    torch.testing.assert_close(weight, scale * (weight / scale).round())
    assert float(scale.max()) < 0.01
    assert float((weight - before).abs().max()) <= float(scale.max()) / 2 * 1.001


BATCH = torch.zeros(1, COLS), torch.zeros(1, dtype=torch.long)
