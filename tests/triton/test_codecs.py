"""Codecs in Triton: bit for bit those of runtime/storage/codecs.py, without tables or stack."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optdsl.codegen.codecs import C_NAMES
from optdsl.runtime.storage.codecs import CODECS, INT8, Codec, Encoded
from optdsl.runtime.triton.codecs import BLOCKS
from tests.codegen.test_codecs import same_bits, telling_numbers, with_one
from tests.triton import codec_kernels
from tests.triton.compiling import CODECS as SOURCE
from tests.triton.compiling import TARGETS, Job, compile_all

ROWS = 64
"""Blocks of a program; the interpreter takes its time for a program, not for a number."""
every = pytest.mark.parametrize("form", CODECS, ids=C_NAMES.get)
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def step(form: Codec, p: Tensor, g: Tensor, stored: Encoded, device: str) -> Encoded:
    """One launch on copies of `stored`; changes p."""
    tensors = [each.to(device) for each in (p, g, stored.codes.clone(), stored.scales.clone())]
    table = torch.tensor([each.data_ptr() for each in tensors], dtype=torch.int64, device=device)
    kernel = codec_kernels.KERNELS[C_NAMES[form]]
    grid = (len(stored.scales) // ROWS,)
    kernel[grid](table, ALIGNED=True, ROWS=ROWS, BLOCK=form.block, enable_fp_fusion=False)
    p.copy_(tensors[0])
    return Encoded(tensors[2].cpu(), tensors[3].cpu())


def whole(form: Codec, values: Tensor) -> Tensor:
    """`values` and zeros up to whole programs."""
    return torch.nn.functional.pad(values, (0, -len(values) % (ROWS * form.block)))


@every
@devices
def test_every_number_has_the_code_of_the_reference(form: Codec, device: str) -> None:
    values = whole(form, with_one(form, telling_numbers(form, 2_000)))
    blocks = values.view(-1, form.block)
    blocks[1] *= 1e-20
    blocks[2] *= 1e30
    blocks[3, 5], blocks[4, 6], blocks[5, 7] = torch.nan, torch.inf, -torch.inf
    blocks[6] = 0
    blocks[7] *= 2e37 / blocks[7].abs().max()  # whose reciprocal is subnormal
    nothing = Encoded(
        torch.zeros(form.code_bytes(len(values)), dtype=torch.uint8), torch.zeros(len(blocks))
    )
    # From a state of 0, (g - 0) / 8 is the new one.
    found = step(form, torch.zeros(len(values)), values * 8, nothing, device)
    expected = form.encode(values + 0.0)  # 0 + -0 is 0
    assert torch.equal(found.scales.isnan(), expected.scales.isnan())
    ordinary = ~expected.scales.isnan()
    assert same_bits(found.scales[ordinary], expected.scales[ordinary])
    assert torch.equal(found.codes, expected.codes)


@every
@devices
def test_every_code_decodes_to_its_entry(form: Codec, device: str) -> None:
    n = ROWS * form.block
    codes = torch.arange(form.code_bytes(n)).to(torch.uint8)
    scales = torch.tensor([1.0, 0.37, 3e-30, 2e30, 0.0, torch.nan, 5e-3, 1e-12]).repeat(ROWS // 8)
    expected = form.decode(codes, scales, n)
    p = torch.zeros(n)
    # Where g is the state, it stays: p takes a quarter of it.
    step(form, p, expected, Encoded(codes, scales), device)
    found = p * -4
    ordinary = expected.isfinite()
    assert torch.equal(found[ordinary], expected[ordinary])
    assert torch.equal(found.isnan(), ~ordinary)


@every
@devices
def test_three_steps_are_those_of_the_reference(form: Codec, device: str) -> None:
    n = 2 * ROWS * form.block
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(n, generator=generator)
    stored = form.encode(torch.zeros(n))
    theirs, expected = stored, p.clone()
    for _ in range(3):
        g = torch.randn(n, generator=generator)
        g = g if form.signed else g.square()
        stored = step(form, p, g, stored, device)
        m = form.decode(*theirs, n)
        m = m + (g - m) * 0.125
        expected -= m * 0.25
        theirs = form.encode(m)
    assert torch.equal(p, expected)
    assert torch.equal(stored.codes, theirs.codes)
    assert torch.equal(stored.scales, theirs.scales)


def test_blocks_are_those_of_the_reference() -> None:
    assert {C_NAMES[form]: form.block for form in CODECS} == BLOCKS


def check_compiled(forms: list[Codec], targets: list[str]) -> None:
    """2,048 numbers a program: no stack, nothing approximate, bytes by fours and more."""
    jobs = [
        Job(SOURCE, C_NAMES[form], target, "fp32", True, (2048 // form.block, form.block))
        for form in forms
        for target in targets
    ]
    for finding in compile_all(jobs):
        assert finding.local == 0, finding
        assert not finding.approximate and not finding.fused, finding
        assert min(finding.loads) >= 32 and min(finding.stores) >= 32, finding
        assert max(finding.loads) == max(finding.stores) == 128, finding
        assert finding.registers <= 128, finding


def test_int8_compiles_to_wide_accesses_without_a_stack() -> None:
    check_compiled([INT8], ["sm_90", "gfx942"])


@pytest.mark.slow
@every
def test_every_codec_compiles_for_every_target(form: Codec) -> None:
    check_compiled([form], list(TARGETS))
