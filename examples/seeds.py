"""Does an optimizer change the predictability of gradients? Five seeds of each, compared with an interval.

``python examples/seeds.py`` trains a small classifier ten times (half a minute). Each run has a seed of its own for the
weights, the batches and the random map. Then it prints ``gradlog compare`` of the ten runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

import gradlog

OPTIMIZERS = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
}


def train(optimizer: str, seed: int, steps: int, folder: Path) -> None:
    """Record one training under ``folder``."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    teacher = torch.nn.Linear(20, 4)
    update = OPTIMIZERS[optimizer](model.parameters())
    notes = {"optimizer": optimizer, "seed": seed}
    with gradlog.attach(update, folder / f"{optimizer}-{seed}.zarr", model=model, seed=seed, notes=notes) as log:
        for _ in range(steps):
            x = torch.randn(32, 20)
            loss = torch.nn.functional.cross_entropy(model(x), teacher(x).argmax(dim=1))
            update.zero_grad()
            loss.backward()
            update.step()
            log.annotate(loss=loss.item(), batch_size=32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=Path("runs/seeds"))
    given = parser.parse_args()
    for optimizer in OPTIMIZERS:
        for seed in range(given.seeds):
            train(optimizer, seed, given.steps, given.folder)
    command = [sys.executable, "-m", "gradlog", "compare", str(given.folder), "--group-by", "optimizer"]
    raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
