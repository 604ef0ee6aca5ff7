"""Compute the steps of a sample run anew, for its audit.

    gradlog audit sample_logs/mlp_wine_exact.zarr --replay examples/replay_wine.py

Run it from the project's root. The recipe in ``sample_logs/record.py`` fixes all seeds, so training again from the
first step gives the recorded gradients; a longer run would start from the checkpoint before the step. Steps are asked
for in ascending order, so one pass over the training serves them all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "sample_logs"), str(ROOT)]
from record import mlp_wine_exact  # noqa: E402  (where it lies was only just said)


def train() -> Iterator[dict[str, torch.Tensor]]:
    """Yield the gradient of each step by parameter name."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, optimizer, batches = mlp_wine_exact()
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        yield {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()


_steps = enumerate(train())


def gradient(step: int) -> dict[str, torch.Tensor]:
    """Gradient of a step; steps must be asked for in ascending order."""
    return next(g for t, g in _steps if t == step)
