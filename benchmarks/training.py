"""Rules beside references on a real task: `python -m benchmarks.training` (15 minutes on a core).

The character model of examples/train.py learns Python's source text with AdamW, Lion, SOAP, Muon
and SWAN, each compiled here and from a reference, from the same weights on the same batches, over
several seeds. What ends a run is its loss on text held out. Two implementations of one rule that
round differently drift apart as two seeds do; they agree where the means of their losses differ by
no more than the reference's own losses do from seed to seed (their standard deviation).

Writes benchmarks/results/training.json after each run, and the chart, training.png; what is there
is not run again, but with --fresh. `python -m benchmarks.page` makes the table of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import optdsl.zoo
from examples.train import Task, characters, loss_of
from optdsl.files import replace_file

RESULTS = Path(__file__).parent / "results" / "training.json"
STEPS, SEEDS = 300, 3
EVERY = 10
"""Steps whose mean loss is one point of a curve."""
Make = Callable[[nn.Module], list[torch.optim.Optimizer]]
"""Of a model the optimizers that step it. The rate of the first follows a cosine."""
Runs = dict[str, dict[str, Any]]
"""What was measured, by rule, side and seed."""


# ---------------------------------------------------------------- what has no reference to install


class SWANReference(torch.optim.Optimizer):
    """SWAN's matrix part as the paper (Ma et al., 2024) has it, an operation at a time.

    There is no implementation by its authors. Rows are centred and normalised; the matrix, divided
    by its norm, is multiplied by ten Newton-Schulz steps (beta 0.8) towards (g g^T)^(-1/2), and the
    result has the norm that it had before. The step is alpha = 0.2 of the rate.
    """

    def __init__(self, params: list[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(self.direction(p.grad), alpha=-0.2 * group["lr"])

    def direction(self, g: Tensor) -> Tensor:
        centred = g - g.mean(dim=1, keepdim=True)
        rows = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
        x = rows if rows.shape[0] <= rows.shape[1] else rows.T
        x = x / x.norm()
        identity = torch.eye(x.shape[0])
        y, z = x @ x.T, identity
        for _ in range(10):
            rest = 3 * identity - z @ y
            y, z = 0.8 * y @ rest, 0.8 * rest @ z
        whitened = z @ x
        if rows.shape[0] > rows.shape[1]:
            whitened = whitened.T
        return whitened * (rows.norm() / whitened.norm())


# ---------------------------------------------------------------- contenders


def matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Those between embedding and output layer, and all other parameters."""
    named = list(model.named_parameters())
    inner = [p for name, p in named if p.ndim == 2 and "embed" not in name and "head" not in name]
    chosen = set(map(id, inner))
    return inner, [p for _, p in named if id(p) not in chosen]


def whole(made: Callable[..., torch.optim.Optimizer], model: nn.Module, **options: Any) -> Any:
    """One optimizer for all parameters."""
    return [made(model.parameters(), **options)]


def routed(made: Any, other: str, model: nn.Module, **options: Any) -> Any:
    """One of ours, which routes by the attribute `other` what is not a matrix between layers."""
    inner, rest = matrices(model)
    return [made([{"params": inner}, {"params": rest, other: True}], **options)]


def two(made: Any, other: Any, model: nn.Module, **options: Any) -> Any:
    """One optimizer for the matrices between layers, another for the rest."""
    inner, rest = matrices(model)
    return [made(inner, **options), other(rest)]


def contenders() -> dict[str, tuple[Make, str, Make]]:
    """By rule: ours, the reference's name, and the reference, at one usual rate."""
    import pytorch_optimizer as peers

    zoo, optim = optdsl.zoo, torch.optim
    adam = partial(optim.Adam, lr=3e-3)
    adamw = partial(optim.AdamW, lr=3e-3, betas=(0.9, 0.95), eps=1e-10)
    decay = {"weight_decay": 0.1}
    soap = {"lr": 3e-3, "betas": (0.95, 0.95), "weight_decay": 0.01, "precondition_frequency": 10}
    return {
        "AdamW": (
            partial(whole, zoo.AdamW, lr=3e-3),
            "torch.optim.AdamW",
            partial(whole, optim.AdamW, lr=3e-3),
        ),
        "Lion": (
            partial(whole, zoo.Lion, lr=1e-3, **decay),
            "pytorch_optimizer.Lion",
            partial(whole, peers.Lion, lr=1e-3, betas=(0.9, 0.99), **decay),
        ),
        "SOAP": (
            partial(whole, zoo.SOAP, **soap),
            "pytorch_optimizer.SOAP",
            partial(whole, peers.SOAP, **soap),
        ),
        "Muon": (
            partial(routed, zoo.Muon, "aux", lr=0.02, adam_lr=3e-3),
            "torch.optim.Muon, its matrix products in bfloat16, and AdamW",
            partial(two, optim.Muon, adamw, lr=0.02),
        ),
        "SWAN": (
            partial(routed, zoo.SWAN, "first_order", lr=1e-2, adam_lr=3e-3),
            "the paper's formulas, written in torch, and torch.optim.Adam",
            partial(two, SWANReference, adam, lr=1e-2),
        ),
    }


# ---------------------------------------------------------------- runs


def train(task: Task, make: Make, seed: int) -> dict[str, Any]:
    """One run: weights and batches come from the seed."""
    torch.manual_seed(seed)
    model = task.model()
    optimizers = make(model)
    schedule = CosineAnnealingLR(optimizers[0], task.steps)
    batches = task.batches(torch.Generator().manual_seed(seed))
    losses, start = [], time.perf_counter()
    for _ in range(task.steps):
        loss, _ = loss_of(model, next(batches))
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        schedule.step()
        losses.append(loss.item())
    with torch.no_grad():
        held_out, _ = loss_of(model.eval(), task.held_out)
    parts = [losses[at : at + EVERY] for at in range(0, len(losses), EVERY)]
    return {
        "held_out": round(held_out.item(), 5),
        "curve": [round(statistics.fmean(part), 4) for part in parts],
        "seconds": round(time.perf_counter() - start, 1),
    }


def run(out: Path, steps: int, seeds: int) -> dict[str, Any]:
    """All that the file at `out` does not have, which is written after each run."""
    from rich.progress import track

    found = json.loads(out.read_text("utf-8")) if out.exists() else {}
    if found.get("steps") != steps:
        found = {
            "command": f"python -m benchmarks.training --steps {steps} --seeds {seeds}",
            "steps": steps,
            "torch": torch.__version__,
            "references": {rule: name for rule, (_, name, _) in contenders().items()},
            "runs": {},
        }
    task = characters(steps / 200)
    jobs = [
        (f"{rule}, {side}, {seed}", make)
        for rule, (ours, _, theirs) in contenders().items()
        for seed in range(seeds)
        for side, make in (("ours", ours), ("reference", theirs))
    ]
    for key, make in track(jobs, description="training"):
        if key not in found["runs"]:
            found["runs"][key] = train(task, make, int(key.rpartition(" ")[2]))
            replace_file(out, json.dumps(found, indent=1) + "\n")
    return dict(found)


# ---------------------------------------------------------------- what it says


def of(found: dict[str, Any], rule: str, side: str) -> list[dict[str, Any]]:
    """The runs of one side, by seed."""
    return [run for key, run in found["runs"].items() if key.startswith(f"{rule}, {side}, ")]


def chart(found: dict[str, Any], path: Path) -> None:
    """A panel for each rule: every seed of the reference as a thin line on a broad one of ours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.2), layout="constrained")
    panels = figure.subplots(1, len(found["references"]), sharey=True)
    for axes, rule in zip(panels, found["references"], strict=True):
        looks = (("ours", "tab:red", 3.5, 0.45), ("reference", "black", 0.8, 1))
        for side, color, width, alpha in looks:
            for seed, each in enumerate(of(found, rule, side)):
                steps = [EVERY * (i + 1) for i in range(len(each["curve"]))]
                label = "_" if seed else side
                axes.plot(steps, each["curve"], color=color, lw=width, alpha=alpha, label=label)
        axes.set_title(rule, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"training loss, mean of {EVERY} steps", fontsize=8)
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("a spread needs at least 2 seeds")
    if options.fresh:
        options.out.unlink(missing_ok=True)
    found = run(options.out, options.steps, options.seeds)
    chart(found, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
