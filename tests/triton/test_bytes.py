"""What kernels load and store, counted in the text that the compiler makes of them, is what
`explain` says that they move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from optdsl.schedule.plan import Domain, Variant
from tests.saying import Counted, said
from tests.triton.compiling import Finding, Job, compile_all
from tests.triton.judging import coded_jobs, jobs_of
from tests.triton.sources import SHOWN, ZOO, kernels_of, plan_of


def counted(finding: Finding, variant: Variant) -> Counted:
    """Bytes an element of each buffer of p's size, with what lies beside it: "load", "store"."""
    full = {each.text for each in variant.buffers if each.domain is Domain.FULL}
    columns = [each.text for each in variant.buffers] + list(variant.stored)
    found: Counted = {"load": {}, "store": {}}
    for key, size in finding.moved.items():
        what, column = key.split()
        name = columns[int(column)]
        if name in full:
            found[what][name] = found[what].get(name, 0.0) + size
    return found


def differences(jobs: list[Job]) -> Iterator[str]:
    for finding in compile_all([replace(job, moves=True) for job in jobs]):
        job = finding.job
        variant = next(v for v, kernel in kernels_of(job.source) if kernel.name == job.kernel)
        found, wanted = counted(finding, variant), said(plan_of(job.source))[job.kernel]
        if found != wanted:
            yield f"{job.kernel}: {found}, but said {wanted}"


def test_every_pass_moves_the_bytes_that_explain_says() -> None:
    jobs = [job for source in SHOWN for job in jobs_of(source, "sm_90", "fp32", aligned=True)]
    assert not list(differences(jobs))


@pytest.mark.slow
def test_every_shipped_pass_moves_the_bytes_that_explain_says() -> None:
    jobs = [job for source in ZOO for job in jobs_of(source, "sm_90", "fp32", aligned=True)]
    assert not list(differences(jobs))


@pytest.mark.parametrize(
    ("rule", "storage"),
    [
        ("adamw/AdamW", "int8"),
        # The same machinery with other codes, 16 s of compiling each.
        pytest.param("lion/Lion", "int4", marks=pytest.mark.slow),
        pytest.param("lion/Lion", "fp8", marks=pytest.mark.slow),
    ],
)
def test_codes_and_scales_are_counted(rule: str, storage: str) -> None:
    jobs = coded_jobs(f"{rule} as {storage}", "sm_90", "fp32", storage)
    assert jobs and not list(differences(jobs))
