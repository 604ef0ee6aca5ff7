"""How often ``gradlog events`` finds what was planted, says what it is like, and finds something where nothing is.

``OMP_NUM_THREADS=1 python benchmarks/events.py [--seeds 20] [--first 100] [--steps 400]`` trains a perceptron, a
convolutional network and a transformer, each with one accident at a random step: a corrupt batch, a learning rate that
is thirty times too large for one step, the gradient of one layer thirty times too large, or a NaN that the optimizer
skips. It also trains them without any, and with frozen parameters, whose gradients are stationary. It prints Markdown,
and then the events that came without an accident.
Ten minutes; the constants of ``gradlog.analysis.events`` were chosen on seeds 0 to 5.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gradlog
from gradlog.analysis import Events, find_events, open_run
from gradlog.analysis.common.text import TERMINAL
from gradlog.analysis.events import words

ACCIDENTS = {
    "corrupt batch": "one batch",
    "learning rate": "learning rate",
    "one layer": "one group",
    "NaN, skipped": "non-finite",
}
"""What is planted, and what the event should be said to be like."""

TOO_LARGE = 30
LONGEST, CLASSES = 12, {"perceptron": 5, "convolutions": 10, "transformer": 16}
Batch = tuple[torch.Tensor, torch.Tensor]


class Sorter(nn.Module):
    """A small transformer that learns to sort."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(16, 32), nn.Parameter(torch.randn(LONGEST, 32) * 0.02)
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, norm_first=True) for _ in range(2)]
        )
        self.head = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, one class a place: (batch, class, place)."""
        h = self.embed(x) + self.place
        for block in self.blocks:
            h = block(h)
        return self.head(h).transpose(1, 2)


def training(name: str, seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], Batch]]:
    """Build a model, its optimizer, and a function that draws a batch."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed + 1000)
    if name == "perceptron":
        model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
        teacher = torch.randn(20, 5, generator=draw)

        def batch() -> Batch:
            x = torch.randn(32, 20, generator=draw)
            return x, (x @ teacher + 0.5 * torch.randn(32, 5, generator=draw)).argmax(1)

        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), batch
    if name == "convolutions":
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
        )
        shapes = torch.randn(10, 1, 8, 8, generator=draw)

        def batch() -> Batch:
            y = torch.randint(0, 10, (32,), generator=draw)
            return shapes[y] + 1.5 * torch.randn(32, 1, 8, 8, generator=draw), y

        return model, torch.optim.AdamW(model.parameters(), lr=2e-3), batch

    def batch() -> Batch:
        x = torch.randint(0, 16, (16, LONGEST), generator=draw)
        return x, x.sort(1).values

    model = Sorter()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3), batch


def corrupt(name: str, batch: Batch, rng: np.random.Generator) -> Batch:
    """Spoil a batch: wrong labels, and inputs ten times too large where they are numbers."""
    x, y = batch
    if name == "transformer":
        return x, torch.from_numpy(rng.permutation(y.numpy().ravel()).reshape(y.shape))
    return 10 * x, (y + 3) % CLASSES[name]


def record(name: str, seed: int, accident: str, path: Path, steps: int = 400) -> tuple[int, str]:
    """Train and record; return the step of the accident, and the group in which it happened if that is one layer."""
    model, optimizer, draw = training(name, seed)
    rng = np.random.default_rng(seed)
    at = int(rng.integers(steps * 3 // 10, steps - 20))
    layer = str(rng.choice([n.rpartition(".")[0] for n, p in model.named_parameters() if p.ndim > 1 and "." in n]))
    usual = optimizer.param_groups[0]["lr"]
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=steps, enabled=accident == "NaN, skipped")
    with gradlog.attach(optimizer, path, model=model, k=64, on_error="raise") as log:
        for step in range(steps):
            here = accident if step == at else ""
            x, y = corrupt(name, draw(), rng) if here == "corrupt batch" else draw()
            optimizer.param_groups[0]["lr"] = usual * (TOO_LARGE if here == "learning rate" else accident != "frozen")
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            if here == "one layer":
                for parameter in model.get_submodule(layer).parameters(recurse=False):
                    parameter.grad *= TOO_LARGE
            if here == "NaN, skipped":
                next(model.get_submodule(layer).parameters()).grad.fill_(float("nan"))
            scaler.step(optimizer)
            scaler.update()
            log.annotate(loss=loss.item())
    return at, layer


def found(name: str, accident: str, at: int, layer: str, seen: Events) -> tuple[bool, bool]:
    """Tell whether the accident was found, and whether what is said of it is right: its step, its kind, its group."""
    hit = [e for e in seen.found if at <= e.first_step <= at + 1]
    if not hit:
        return False, False
    event = hit[0]
    right = event.kind == ACCIDENTS[accident] and event.first_step == at
    if accident in ("one layer", "NaN, skipped"):
        right = right and bool(event.groups) and (event.groups[0].series + ".").startswith(layer + ".")
    return True, right


def main() -> None:
    """Print both tables, and the events where nothing was planted."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--first", type=int, default=100)
    options.add_argument("--steps", type=int, default=400)
    asked = options.parse_args()
    torch.set_num_threads(1)
    print("| planted | model | runs | found | described right |\n|---|---|---:|---:|---:|")
    quiet: dict[str, list[int]] = {}
    unplanted: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for accident in (*ACCIDENTS, "none", "frozen"):
            for name in CLASSES:
                hits = []
                for seed in range(asked.first, asked.first + asked.seeds):
                    path = Path(folder, f"{name}-{accident}-{seed}.zarr")
                    at, layer = record(name, seed, accident, path, asked.steps)
                    seen = find_events(open_run(path))
                    if accident in ACCIDENTS:
                        hits.append(found(name, accident, at, layer, seen))
                    else:
                        quiet[f"{accident} | {name}"] = [a + b for a, b in zip(
                            quiet.get(f"{accident} | {name}", [0, 0]), (seen.count, seen.steps - seen.unwatched),
                            strict=True)]  # fmt: skip
                        unplanted += [
                            f"* {accident}, {name}, seed {seed}: "
                            + ", ".join(words.told(d, TERMINAL) for d in (*event.series, *event.groups))
                            for event in seen.found
                        ]
                if hits:
                    one, both = (sum(column) for column in zip(*hits, strict=True))
                    print(f"| {accident} | {name} | {len(hits)} | {one} | {both} |", flush=True)
    print("\n| nothing planted | model | events | steps | per 1,000 steps |\n|---|---|---:|---:|---:|")
    for what, (count, steps) in quiet.items():
        print(f"| {what} | {count} | {steps:,} | {1000 * count / steps:.2f} |")
    print("", *unplanted, sep="\n")


if __name__ == "__main__":
    main()
