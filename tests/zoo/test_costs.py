"""What each shipped rule costs in a steady step: as few passes and bytes as its formula allows.

A pass loads and stores 4 bytes of each tensor in the comment. All that a rule keeps has to be read
and written once, so one pass over g, p and the states is the least; a further pass is owed where a
number over all elements has to be known before the first of them can be updated.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from optdsl.explain import explain_plan
from tests.rules import interpreted, shipped_plans, shipped_rules

# rule: passes over memory, bytes per parameter, bytes of state.
COSTS = {
    # One pass, since nothing is reduced.
    "SGD": (1, 12, 0),  # g p, p
    "SGDM": (1, 20, 4),  # g p m, p m
    "SGDVelocity": (1, 20, 4),
    "SGDW": (1, 20, 4),
    "SGDWPaper": (1, 20, 4),
    "LayerwiseSGD": (1, 20, 4),
    "ExpSGDM": (1, 28, 8),  # g p d average, p d average
    "AccSGD": (1, 20, 4),  # g p v, p v
    "AcceleratedSGD": (1, 20, 4),
    "QHM": (1, 20, 4),
    "Lion": (1, 20, 4),
    "LionK": (1, 20, 4),
    "AdaGradTF": (1, 20, 4),
    "Adagrad": (1, 20, 4),
    "RMSprop": (1, 20, 4),  # neither momentum nor mean
    "SGDSaI": (1, 20, 4),  # its norm is taken in the first step alone
    "Adam": (1, 28, 8),  # g p m v, p m v
    "AdamW": (1, 28, 8),
    "AdamWPaper": (1, 28, 8),
    "AdamEpsHat": (1, 28, 8),
    "AdamEpsInside": (1, 28, 8),
    "AdaBound": (1, 28, 8),
    "AdaBoundPaper": (1, 28, 8),
    "AdaBelief": (1, 28, 8),
    "RMSpropTF": (1, 28, 8),
    "Adadelta": (1, 28, 8),
    "Adamax": (1, 28, 8),
    "NAdam": (1, 28, 8),  # and a number for each parameter
    "RAdam": (1, 28, 8),
    "ScheduleFreeSGD": (1, 20, 4),  # g p z, p z, and two numbers for each parameter
    "ScheduleFreeAdamW": (1, 28, 8),
    "LookaheadAdamW": (1, 28, 12),  # the slow weights rest but for every fifth step
    "AMSGrad": (1, 36, 12),  # g p m v largest, p m v largest
    "AMSGradDebiased": (1, 36, 12),
    "AMSGradEpsHat": (1, 36, 12),
    "DiffGrad": (1, 36, 12),  # g p m v previous, p m v previous
    "DiffGradPaper": (1, 36, 12),
    "Adan": (1, 44, 16),  # g p m d n previous, p m d n previous
    "AdanPaper": (1, 44, 16),
    "AdEMAMix": (1, 36, 12),  # g p m1 m2 v, p m1 m2 v
    "Prodigy": (1, 40, 16),  # g p m v s x0, p m v s: its sums are for the next step
    "IGT": (1, 32, 12),  # g base transported v, p base transported v
    "AdamWR": (1, 28, 8),
    "SGDWR": (1, 20, 4),
    "LARS": (1, 12, 0),  # without decay nothing is adapted
    "AGCSGD": (1, 12, 0),  # the norms are those of rows, which a tile holds
    "PixelwiseClipAdam": (1, 28, 8),
    "SPAM": (1, 28, 8),
    "OptimisticMD": (1, 20, 4),  # g p previous, p previous
    "SGLD": (1, 12, 0),  # g p, p; z is drawn
    "Langevin": (1, 12, 0),
    "SWATS": (1, 36, 12),  # g p m v buf, p m v buf: its sums are for the next step
    # One pass for a number, one for all the rest.
    "AdaGradNorm": (2, 16, 0),  # g; g p, p
    "ClippedLion": (2, 24, 4),  # g; g p m, p m
    "CautiousAdamW": (2, 36, 8),  # g m; g p m v, p m v
    "ClippedAdamW": (2, 32, 8),
    "ClippedSGD": (2, 16, 0),
    "MedianSGD": (2, 28, 4),  # g m; g p m, p m
    "OptimisticMDAdaptive": (2, 28, 8),  # g previous; g hat, p hat previous
    "OptimisticEntropic": (2, 24, 4),  # g hat; g hat, p hat
    "ClipRAdaGradD": (2, 16, 0),
    "ClipRAdaGradDCoord": (2, 24, 4),
    "BlockwiseAdam": (2, 24, 4),
    "AdaSGD": (2, 24, 4),
    "DoG": (2, 24, 4),  # g p start; g p, p
    "LDoG": (2, 24, 4),
    "LARSPaper": (2, 28, 4),  # g p; g p v, p v
    "SGDP": (2, 28, 4),  # g p buf, buf; p buf, p
    "GSMSGD": (2, 32, 4),  # g p, s; g p buf, p buf; and a sort of all that s is
    "AdamP": (2, 40, 8),  # g p m v, m v; p m v, p
    "LAMBNoDebias": (2, 40, 8),
    "LAMB": (2, 40, 8),  # g p m v, m v; p m v, p
    # The size of the gradient is needed for that of the way, and this for the step.
    "ADoG": (3, 36, 8),  # g; g w start, w; g p w, p
    # Factors along rows and columns, then the mean square of what they leave.
    "Adafactor": (3, 24, 0),  # g; g p; g p, p
    "AdafactorPaper": (3, 24, 0),
    # Entries of a state go through the library, which copies all of them: g p m m, p m would be 24.
    "Discover": (1, 28, 8),
    # Matrix work between passes.
    "ScaledGD": (1, 24, 0),  # library g p, u; p u, p
    "GaLore": (1, 22.5, 1.5),  # of 64 directions in 512: library g, u; u p, p
    # As GaLore with 128 directions in 1024, which a look rewrites: q, leading, cosines and counts.
    "QGaLore": (1, 26.008, 3.003925323486328),
    "FRUGAL": (2, 36.001, 2.0009765625),
    "FRUGALSVD": (1, 25, 3),
    "Shampoo": (2, 64, 16),
    "SOAP": (2, 84, 24),
    "APOLLO": (2, 28, 2),
    "APOLLOMini": (2, 24.016, 0.0078125),
    # Draws and flips go through the library: g m a b and eight of them, a b m p.
    "PSGDXMat": (5, 216, 12),
    "PSGDKron": (2, 56, 12),
    # Twelve products with factors of rank 10, 40 bytes each, with a barrier behind most.
    "PSGDLRA": (6, 984.005, 88),
    "PSGDProcrustes": (2, 88, 12),
    "AdamMini": (2, 24, 4),
    "PolarMuon": (2, 36, 4),
    "CAME": (4, 32, 4),  # g; g; g m, m; g m p, p
    "Muon": (2, 36, 4),  # g m, m u; library u, o; o p, p
    "SWAN": (3, 32, 0),  # g, x; library x, u; u; u p, p
}

# The same with options.
OPTIONS: list[tuple[str, dict[str, object], tuple[int, float, float]]] = [
    ("SGD", {"momentum": 0.9}, (1, 20, 4)),
    ("SGDVelocity", {"correction": True}, (1, 20, 4)),
    ("SGDW", {"nesterov": True}, (1, 20, 4)),
    ("QHM", {"weight_decay": 0.1, "weight_decay_type": "direct"}, (1, 20, 4)),
    ("AdaBound", {"amsbound": True}, (1, 36, 12)),
    ("AdaBelief", {"rectify": False, "decay": "l2", "weight_decay": 0.1}, (1, 28, 8)),
    ("LionK", {"kernel": "huber"}, (1, 20, 4)),
    ("LionK", {"kernel": "l2"}, (2, 28, 4)),  # g m; g p m, p m
    ("LARS", {"weight_decay": 0.1}, (2, 20, 0)),  # g p; g p, p
    ("LARS", {"weight_decay": 0.1, "momentum": 0.9}, (2, 28, 4)),  # g p; g p buf, p buf
    ("MedianSGD", {"kind": "l1"}, (1, 20, 4)),  # g p m, p m
    ("Adan", {"max_grad_norm": 1}, (2, 48, 16)),  # g; g p m d n previous, p m d n previous
    ("Adan", {"no_prox": True}, (1, 44, 16)),
    ("AdamP", {"nesterov": True}, (2, 40, 8)),  # g p m v, m v d; d p, p
    ("SGDP", {"nesterov": True, "momentum": 0.9}, (2, 32, 4)),  # g p buf, buf d; d p, p
]


@pytest.mark.parametrize("name", sorted(shipped_plans()))
def test_a_step_costs_no_more_than_it_must(name: str) -> None:
    steady = explain_plan(shipped_plans()[name]()).steady
    found = (steady.over_memory, steady.bytes, steady.state_bytes)
    assert found == pytest.approx(COSTS[name])


@pytest.mark.parametrize(("name", "options", "costs"), OPTIONS, ids=str)
def test_options_cost_no_more_than_they_must(
    name: str, options: dict[str, object], costs: tuple[int, float, float]
) -> None:
    plan = shipped_plans()[name]()
    assert options.keys() <= {each.name for each in plan.rule.hypers}
    hypers = [replace(e, default=options.get(e.name, e.default)) for e in plan.rule.hypers]
    steady = explain_plan(replace(plan, rule=replace(plan.rule, hypers=tuple(hypers)))).steady
    assert (steady.over_memory, steady.bytes, steady.state_bytes) == costs


def test_every_rule_that_a_target_runs_has_its_costs() -> None:
    assert COSTS.keys() == shipped_rules().keys() - interpreted().keys()


def test_what_the_tests_of_targets_leave_out() -> None:
    model = "the model"
    given = "an input"
    assert interpreted() == {
        "AdAdaGrad": given,
        "AdAdaGradNorm": given,
        "AdaFisher": given,
        "AdaptiveK": given,
        "BandMFSGD": given,
        "CorrelatedSGD": given,
        "DeltaSGD": model,
        "DeltaSGDPaper": model,
        "DiceSGD": given,
        "DiceSGDSum": given,
        "EntropySGD": model,
        "FedSpeed": model,
        "GeometricMedianSGD": given,
        "GradNormSmooth": model,
        "MeZO": model,
        "PrivateAdam": given,
        "PrivateSGD": given,
        "QASSGD": given,
        "QZO": model,
        "SMB": model,
        "SPL": model,
        "STEPAdam": model,
        "SampleMedianSGD": given,
        "Sophia": given,
        "SophiaG": given,
        "TrActSGD": given,
        "UDoG": model,
        "VRAdam": given,
        "VRLAMB": given,
        "VRLARS": given,
        "VRSGD": given,
        "ZOAdaMU": model,
    }
