"""Parameters twice over, for an optimizer of ours and one of torch's, and their steps."""

from __future__ import annotations

from torch.nn import Parameter

from tests.runtime.test_step import copies, parameters, set_gradients

SHAPES = [(4, 3), (5,), (2, 2)]


def run(optimizer, params, steps, first=0):
    for step in range(first, first + steps):
        set_gradients(params, step)
        optimizer.step()


def twins(shapes=SHAPES):
    params = parameters(shapes)
    return params, [Parameter(each) for each in copies(params)]
