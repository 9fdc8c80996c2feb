"""What a model says at a batch, besides the gradient: what rules may have as inputs.

Input: a model of linear layers and embeddings, and a batch. Output: one tensor for each parameter,
in their order; the gradients of the parameters stay as they are. Relies on: torch. Does not do:
take steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, hessian, jvp, vmap
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils.parametrize import register_parametrization

Params = dict[str, Tensor]
CODES = 127
"""The largest number that quantised weights have."""


class Codes(nn.Module):
    """A layer's weights as whole numbers times a scale of each row; the gradient of a number is
    that of the real one that it was rounded from."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = weight.detach().abs().amax(1, keepdim=True) / CODES

    def forward(self, codes: Tensor) -> Tensor:
        return self.scale * (codes + (codes.round() - codes).detach())

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / self.scale


def quantised(model: nn.Module) -> nn.Module:
    """The model with the weights of its linear layers as Codes."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            register_parametrization(layer, "weight", Codes(layer.weight))
    return model


@dataclass(frozen=True)
class Uses:
    """What goes along a parameter's columns and rows whenever its layer is asked, [uses, cols] and
    [uses, rows]: of a linear layer what it is `given` and the gradients of what it gives, of an
    embedding those gradients and which row was asked for. A bias has no columns."""

    given: Tensor | None
    columns: Tensor | None
    rows: Tensor


@dataclass(frozen=True)
class Batch:
    """A model at a batch; `question` of inputs.py says what each answer is. `step` is the seed of
    what is drawn."""

    model: nn.Module
    inputs: Tensor
    wanted: Tensor
    step: int

    def gradients(self) -> list[Tensor]:
        return list(self._samples[0].values())

    def losses(self) -> Tensor:
        return self._samples[1]

    def given(self) -> list[Tensor | None]:
        return [None if each.given is None else each.given[:, None] for each in self._uses()]

    def hessian(self) -> list[Tensor]:
        found = []
        for name, p in self._params.items():
            block = hessian(lambda q, name=name: self._loss(self._params | {name: q}))(p)
            found.append(block.reshape(p.numel(), p.numel()))
        return found

    def diagonal(self) -> list[Tensor]:
        """Hutchinson's estimate z * (H z), with random signs z."""
        params, drawing = self._params, self._drawing()
        z = {
            name: torch.randint(0, 2, p.shape, generator=drawing).to(p.dtype) * 2 - 1
            for name, p in params.items()
        }
        turned = jvp(grad(self._loss), (params,), (z,))[1]
        return [z[name] * turned[name] for name in params]

    def sampled(self) -> list[Tensor]:
        logits = functional_call(self.model, self._params, (self.inputs,))
        labels = torch.multinomial(logits.softmax(1), 1, generator=self._drawing())[:, 0]
        return list(grad(self._loss)(self._params, labels).values())

    def inner(self) -> list[Tensor]:
        columns = [each.columns for each in self._uses()]
        return [torch.ones(1, 1) if each is None else _spread(each)[None] for each in columns]

    def outer(self) -> list[Tensor]:
        return [_spread(each.rows)[:, None] for each in self._uses()]

    def scale(self) -> list[Tensor]:
        layers = dict(self.model.named_modules())
        found = []
        for name, p in self.model.named_parameters():
            codes = layers.get(name.removesuffix(".original") + ".0")
            found.append(codes.scale if isinstance(codes, Codes) else torch.ones(len(p), 1))
        return found

    # ---------------------------------------------------------------- how

    @cached_property
    def _params(self) -> Params:
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def _drawing(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.step)

    def _loss(self, params: Params, wanted: Tensor | None = None) -> Tensor:
        logits = functional_call(self.model, params, (self.inputs,))
        return cross_entropy(logits, self.wanted if wanted is None else wanted)

    @cached_property
    def _samples(self) -> tuple[Params, Tensor]:
        def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(functional_call(self.model, params, (x[None],)), y[None])

        each = vmap(grad_and_value(loss), in_dims=(None, 0, 0))
        found: tuple[Params, Tensor] = each(self._params, self.inputs, self.wanted)
        return found

    def _uses(self) -> list[Uses]:
        """Of each parameter, where layers are asked in the order of their parameters."""
        seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        layers = [
            each for each in self.model.modules() if isinstance(each, nn.Linear | nn.Embedding)
        ]
        hooks = [
            each.register_forward_hook(
                lambda layer, given, out: seen.append((layer, given[0], out))
            )
            for each in layers
        ]
        loss = cross_entropy(self.model(self.inputs), self.wanted)
        for hook in hooks:
            hook.remove()
        slopes = torch.autograd.grad(loss, [out for _, _, out in seen])
        found: list[Uses] = []
        for (layer, given, _), slope in zip(seen, slopes, strict=True):
            up = slope.flatten(0, -2)
            if isinstance(layer, nn.Embedding):
                asked = one_hot(given.flatten(), layer.num_embeddings)
                found.append(Uses(None, up, asked.to(up.dtype)))
            else:
                x = given.detach().flatten(0, -2)
                found += [Uses(x, x, up), Uses(None, None, up)]
        return found


def _spread(x: Tensor) -> Tensor:
    """The mean squares over the uses, from 0 for the least to 1."""
    squares = (x * x).mean(0)
    low, high = squares.aminmax()
    return (squares - low) / (high - low).clamp(min=1e-30)
