"""Train two small models with compiled optimizers beside torch's AdamW; a table and loss curves.

    python examples/train.py [--steps-scale 1.0] [--out examples/out]

Each rule is a file in this folder: read it, change it, run again. Every optimizer of a task starts
from the same weights and sees the same batches.
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import optdsl

HERE = Path(__file__).parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Batch = tuple[Tensor, Tensor]
Maker = Callable[[nn.Module], torch.optim.Optimizer]


# ---------------------------------------------------------------- the optimizers


def parameter_groups(model: nn.Module) -> list[dict[str, object]]:
    """Matrices, and what SWAN leaves to Adam: embeddings, the output layer, vectors."""
    outer = {id(p) for name, p in model.named_parameters() if "embed" in name or "head" in name}
    inner = [p for p in model.parameters() if p.ndim == 2 and id(p) not in outer]
    rest = [p for p in model.parameters() if p.ndim != 2 or id(p) in outer]
    return [{"params": inner}, {"params": rest, "first_order": True}]


def optimizers() -> dict[str, Maker]:
    """Every contender; a rule file is compiled here, once, before anything is trained."""
    adamw = optdsl.load(HERE / "adamw.opt").AdamW
    clipped_lion = optdsl.load(HERE / "clipped_lion.opt").ClippedLion
    lamb = optdsl.load(HERE / "lamb.opt").LAMB
    swan = optdsl.load(HERE / "swan.opt").SWAN
    lookahead = optdsl.load(HERE / "lookahead.opt").LookaheadAdamW
    concord = optdsl.load(HERE / "concord.opt").Concord
    return {
        "torch.optim.AdamW": lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3),
        "AdamW": lambda m: adamw(m.parameters(), lr=3e-3),
        "ClippedLion": lambda m: clipped_lion(m.parameters(), lr=1e-3),
        "LAMB": lambda m: lamb(m.parameters(), lr=1e-2),
        "SWAN": lambda m: swan(parameter_groups(m), lr=1e-2),
        "LookaheadAdamW": lambda m: lookahead(m.parameters(), lr=5e-3),
        "Concord": lambda m: concord(m.parameters(), lr=3e-3),
    }


# ---------------------------------------------------------------- the tasks


@dataclass(frozen=True, eq=False)
class Task:
    """A model to train; `batches` gives (inputs, targets) without end, `held_out` is fixed."""

    name: str
    steps: int
    model: Callable[[], nn.Module]
    batches: Callable[[torch.Generator], Iterator[Batch]]
    held_out: Batch


class Perceptron(nn.Module):
    """8 x 8 pixels to 10 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU())
        self.head = nn.Linear(256, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.hidden(pixels))


def digits(scale: float) -> Task:
    """The handwritten digits of scikit-learn, a fifth of them held out."""
    data = load_digits()
    pixels = torch.tensor(data.data / 16, dtype=torch.float32, device=DEVICE)
    labels = torch.tensor(data.target, device=DEVICE)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        while True:
            chosen = kept[torch.randint(len(kept), (128,), generator=generator)]
            yield pixels[chosen], labels[chosen]

    return Task("digits", round(300 * scale), Perceptron, batches, (pixels[held], labels[held]))


class Block(nn.Module):
    """Causal attention and a perceptron, each added to its normalised input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        split = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.mlp(self.norm2(x))


class Characters(nn.Module):
    """The next character from those before it."""

    def __init__(self, symbols: int, context: int = 64, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.embed_position = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4), nn.LayerNorm(width))
        self.head = nn.Linear(width, symbols)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(text) + self.embed_position[: text.shape[1]]))


def characters(scale: float, context: int = 64, batch: int = 32) -> Task:
    """The source text of Python's own standard library, its last tenth held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    symbols = "\n" + "".join(map(chr, range(32, 127))) + "?"
    number = {char: i for i, char in enumerate(symbols[:-1])}
    codes = torch.tensor([number.get(char, len(symbols) - 1) for char in text], device=DEVICE)
    split = len(codes) * 9 // 10
    window = torch.arange(context + 1)

    def draw(start: int, end: int, count: int, generator: torch.Generator) -> Batch:
        at = torch.randint(start, end - context - 1, (count, 1), generator=generator)
        chosen = codes[at + window]
        return chosen[:, :-1], chosen[:, 1:]

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        while True:
            yield draw(0, split, batch, generator)

    held_out = draw(split, len(codes), 256, torch.Generator().manual_seed(1))
    return Task(
        "characters",
        round(200 * scale),
        lambda: Characters(len(symbols), context),
        batches,
        held_out,
    )


# ---------------------------------------------------------------- one run


@dataclass
class Result:
    """What one optimizer did on one task; times are of `step()` alone."""

    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    held_out_loss: float = 0.0
    accuracy: float = 0.0
    state_bytes: float = 0.0


def loss_of(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross entropy, and the fraction guessed right."""
    scores = model(batch[0]).flatten(0, -2)
    targets = batch[1].flatten()
    return cross_entropy(scores, targets), (scores.argmax(-1) == targets).float().mean()


def state_bytes(optimizer: torch.optim.Optimizer, model: nn.Module) -> float:
    """Bytes of optimizer state per parameter."""
    tensors = [x for state in optimizer.state.values() for x in state.values()]
    size = sum(x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor))
    return size / sum(p.numel() for p in model.parameters())


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def train(task: Task, make: Maker, advance: Callable[[], None]) -> Result:
    """One run from the task's own seed; compiled optimizers are ordinary torch.optim.Optimizers."""
    torch.manual_seed(0)
    model = task.model().to(DEVICE)
    optimizer = make(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.steps)
    batches = task.batches(torch.Generator().manual_seed(0))
    result = Result()
    for _ in range(task.steps):
        loss, _ = loss_of(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        synchronise()
        start = time.perf_counter()
        optimizer.step()
        synchronise()
        result.step_seconds.append(time.perf_counter() - start)
        schedule.step()
        result.losses.append(loss.item())
        advance()
    with torch.no_grad():
        loss, accuracy = loss_of(model.eval(), task.held_out)
    result.held_out_loss, result.accuracy = loss.item(), accuracy.item()
    result.state_bytes = state_bytes(optimizer, model)
    return result


# ---------------------------------------------------------------- the report


def table(task: Task, results: dict[str, Result]) -> Table:
    view = Table(title=f"{task.name}: {task.steps} steps on {DEVICE.type}", title_justify="left")
    view.add_column("optimizer", no_wrap=True)
    for title in ("held-out loss", "accuracy", "step(), ms", "state bytes per parameter"):
        view.add_column(title, justify="right")
    for name, result in results.items():
        view.add_row(
            name,
            f"{result.held_out_loss:.4f}",
            f"{result.accuracy:.1%}",
            f"{1e3 * statistics.median(result.step_seconds):.3f}",
            f"{result.state_bytes:.2f}",
        )
    return view


def smooth(values: list[float], weight: float = 0.95) -> list[float]:
    """A moving average without the pull of its start, so that the curves can be told apart."""
    average, total, out = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        out.append(average / total)
    return out


def draw(everything: dict[Task, dict[str, Result]], path: Path) -> None:
    """Training loss against the step, one panel per task."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, len(everything))
    for panel, (task, results) in zip(panels, everything.items(), strict=True):
        for name, result in results.items():
            torch_own = name.startswith("torch.")
            style = {"color": "black", "linestyle": "--", "zorder": 3} if torch_own else {}
            panel.plot(smooth(result.losses), label=name, linewidth=1.4, **style)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_title(task.name)
        panel.set_xlabel("step")
        panel.set_ylabel("training loss (cross entropy, smoothed)")
        panel.grid(True, alpha=0.25)
    panels[-1].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps-scale", type=float, default=1.0, help="1 is the full length")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder of the picture")
    options = parser.parse_args()
    console = Console()

    start = time.perf_counter()
    with console.status("compiling the rules in examples/"):
        contenders = optimizers()
    console.print(f"compiled the rules in {time.perf_counter() - start:.1f} s")

    columns = (TextColumn("{task.description:36}"), BarColumn(), MofNCompleteColumn())
    everything: dict[Task, dict[str, Result]] = {}
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for task in (digits(options.steps_scale), characters(options.steps_scale)):
            everything[task] = {}
            for name, make in contenders.items():
                bar = progress.add_task(f"{task.name}: {name}", total=task.steps)
                everything[task][name] = train(task, make, lambda bar=bar: progress.advance(bar))

    for task, results in everything.items():
        console.print(table(task, results))
    draw(everything, options.out / "losses.png")
    console.print(f"loss curves: {options.out / 'losses.png'}")
    console.print(f"all in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
