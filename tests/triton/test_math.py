"""The functions of runtime/triton/math.py keep the op table's bounds and C's special cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from optdsl.ops import OPS
from optdsl.runtime.triton import math as triton_math

BLOCK = 8192
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-310, 1e-40, -1e-40, 1e-30, 1e30, 1e300]
ORDINARY = [1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -3.0, 0.499999, 0.625, 1000.0]


@triton.jit
def _apply(x_ptr, y_ptr, out_ptr, n, NAME: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    x = tl.load(x_ptr + i, mask, other=1.0)
    y = tl.load(y_ptr + i, mask, other=1.0)
    if NAME == "div":
        result = triton_math.div(x, y)
    elif NAME == "sqrt":
        result = triton_math.sqrt(x)
    elif NAME == "exp":
        result = triton_math.exp(x)
    elif NAME == "log":
        result = triton_math.log(x)
    elif NAME == "tanh":
        result = triton_math.tanh(x)
    elif NAME == "pow":
        result = triton_math.power(x, y)
    elif NAME == "round":
        result = triton_math.round_even(x)
    elif NAME == "sign":
        result = triton_math.sign(x)
    elif NAME == "isfinite":
        result = triton_math.isfinite(x).to(x.dtype)
    elif NAME == "min":
        result = triton_math.minimum(x, y)
    else:
        result = triton_math.maximum(x, y)
    tl.store(out_ptr + i, result, mask)


def apply(name: str, x: Tensor, y: Tensor, device: str) -> Tensor:
    x, y = x.to(device), y.to(device)
    out = torch.empty_like(x)
    grid = (triton.cdiv(x.numel(), BLOCK),)
    _apply[grid](x, y, out, x.numel(), NAME=name, BLOCK=BLOCK, enable_fp_fusion=False)
    return out.cpu()


def ulps(got: Tensor, want: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The distance in ulps of the result; infinite where one is NaN or Inf and the other is not.
    `want` is of higher precision than `got`."""
    found = got.numpy()
    with np.errstate(all="ignore"):
        nearest = want.astype(found.dtype)
        unit = np.spacing(np.abs(nearest)).astype(want.dtype)
        error = np.abs(found.astype(want.dtype) - want) / unit
        error = np.where((found == nearest) | (np.isnan(found) & np.isnan(nearest)), 0, error)
    return np.where(np.isfinite(error), error, np.inf)


REFERENCE: dict[str, Callable[..., Any]] = {
    "div": lambda x, y: x / y,
    "sqrt": lambda x, y: np.sqrt(x),
    "exp": lambda x, y: np.exp(x),
    "log": lambda x, y: np.log(x),
    "tanh": lambda x, y: np.tanh(x),
    "pow": lambda x, y: np.power(x, y),
    "round": lambda x, y: np.rint(x),
    "sign": lambda x, y: np.where(np.isnan(x), 0, np.sign(x)),
    "isfinite": lambda x, y: np.isfinite(x).astype(x.dtype),
    "min": lambda x, y: np.minimum(x, y),
    "max": lambda x, y: np.maximum(x, y),
}
DTYPES = [torch.float32, torch.float64]


def reference(name: str, x: Tensor, y: Tensor) -> np.ndarray[Any, Any]:
    """In float64 for float32, in long double (64 bits of fraction on x86) for float64."""
    wide = np.float64 if x.dtype is torch.float32 else np.longdouble
    with np.errstate(all="ignore"):
        result: np.ndarray[Any, Any] = REFERENCE[name](
            x.numpy().astype(wide), y.numpy().astype(wide)
        )
    return result


def samples(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Numbers of all sizes, ordinary and special ones, every special one with every other."""
    generator = torch.Generator().manual_seed(1)
    special = torch.tensor(SPECIAL + ORDINARY, dtype=dtype)
    count = 20_000
    scale = {"exp": 30.0, "tanh": 3.0}.get(name, 8.0)
    x = torch.randn(count, generator=generator, dtype=torch.float64) * scale
    if name in ("pow", "log", "sqrt"):
        x = torch.exp(x)
        x[: count // 4] = 1 + 1e-3 * torch.randn(count // 4, generator=generator).double()
    y = torch.randn(count, generator=generator, dtype=torch.float64) * 20
    y[: count // 4] *= 500 if name == "pow" else 1
    small = 10.0 ** torch.linspace(-30, 0, 500, dtype=torch.float64)
    n = len(special)
    first = torch.cat([x, small, -small]).to(dtype)
    second = torch.cat([y, small, small]).to(dtype)
    return torch.cat([first, special.repeat_interleave(n)]), torch.cat([second, special.repeat(n)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REFERENCE)
def test_within_the_bound_of_the_op_table(name: str, dtype: torch.dtype) -> None:
    check(name, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", REFERENCE)
def test_within_the_bound_on_the_device(name: str, dtype: torch.dtype) -> None:
    check(name, dtype, "cuda")


def check(name: str, dtype: torch.dtype, device: str) -> None:
    x, y = samples(name, dtype)
    got, want = apply(name, x, y, device), reference(name, x, y)
    error = ulps(got, want)
    worst = int(error.argmax())
    bound = 128.0 if name == "pow" and dtype is torch.float64 else max(OPS[name].error, 0.501)
    assert error[worst] <= bound, (x[worst], y[worst], got[worst], want[worst])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_power_keeps_the_sign_of_zero(dtype: torch.dtype) -> None:
    x = torch.tensor([-0.0, -0.0, -0.0, -math.inf, -math.inf], dtype=dtype)
    y = torch.tensor([3.0, 2.0, -3.0, -3.0, 3.0], dtype=dtype)
    got = apply("pow", x, y, "cpu")
    assert torch.equal(torch.signbit(got), torch.tensor([True, False, True, True, True]))
