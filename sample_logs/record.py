"""Record the shipped runs, and the exact answers beside them.

    python sample_logs/record.py [NAME ...] [--out DIR] [--steps N]

Run it from the project's root. Each run trains a small model as any script would, with one ``gradlog.attach``
line; apart from that, the script keeps every full gradient as it stands in ``p.grad`` and hands them to
``oracle.py``, which knows nothing of gradlog. One thread and fixed seeds: on one machine the numbers repeat exactly,
on another they agree until rounding has been amplified by training.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import torch
from torch import nn

import gradlog

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run: what is trained, for how long, and how it is logged."""

    build: Callable[[], tuple[nn.Module, torch.optim.Optimizer, Batches]]
    steps: int
    options: dict[str, Any]
    notes: dict[str, Any]


class Sorter(nn.Module):
    """Encoder of 2 layers x 64 that puts 16 digits in order."""

    def __init__(self, tokens: int = 10, length: int = 16, width: int = 64) -> None:
        super().__init__()
        self.token = nn.Embedding(tokens, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.token(x) + self.place))


def tiny_sort_rmsprop() -> tuple[nn.Module, torch.optim.Optimizer, Batches]:
    rng = np.random.default_rng(0)

    def batches() -> Batches:
        while True:
            x = torch.from_numpy(rng.integers(0, 10, (32, 16)))
            yield x, x.sort(dim=1).values

    model = Sorter()
    return model, torch.optim.RMSprop(model.parameters(), lr=1e-3), batches()


def mlp_synth_adamw() -> tuple[nn.Module, torch.optim.Optimizer, Batches]:
    from sklearn.datasets import make_classification

    x, y = make_classification(10_000, 32, n_informative=16, n_classes=4, random_state=0)
    model = stack(
        first=nn.Linear(32, 64), relu1=nn.ReLU(), second=nn.Linear(64, 64), relu2=nn.ReLU(), head=nn.Linear(64, 4)
    )
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3), epochs(x, y, 128)


def cnn_digits_sgd() -> tuple[nn.Module, torch.optim.Optimizer, Batches]:
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    x = images.reshape(-1, 1, 8, 8) / 16
    model = stack(
        conv1=nn.Conv2d(1, 16, 3, padding=1), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(16, 32, 3, padding=1), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
        flat=nn.Flatten(), head=nn.Linear(128, 10),
    )  # fmt: skip
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), epochs(x, y, 64)


def mlp_wine_exact() -> tuple[nn.Module, torch.optim.Optimizer, Batches]:
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    model = stack(hidden=nn.Linear(13, 8), tanh=nn.Tanh(), head=nn.Linear(8, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1), epochs(x, y, 32)


def stack(**layers: nn.Module) -> nn.Sequential:
    """Layers in order, under names that make readable groups."""
    return nn.Sequential(OrderedDict(layers))


def epochs(x: np.ndarray, y: np.ndarray, batch: int) -> Batches:
    """Shuffle anew each epoch; the last, smaller batch is left out."""
    rng = np.random.default_rng(1)
    inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(y).long()
    while True:
        order = rng.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            yield inputs[rows], labels[rows]


RECIPES = {
    "tiny_sort_rmsprop": Recipe(
        tiny_sort_rmsprop,
        400,
        {
            "k": 256,
            "chunk": 64,
            "groups": {"embedding": "token|place", "layer.0": r"layers\.0", "layer.1": r"layers\.1", "head": "head"},
        },
        {"task": "sort 16 random digits", "data": "drawn anew each step", "optimizer": "RMSprop"},
    ),
    "mlp_synth_adamw": Recipe(
        mlp_synth_adamw,
        2000,
        {"k": 96, "chunk": 512},
        {
            "task": "4 classes",
            "data": "sklearn make_classification 10,000 x 32",
            "optimizer": "AdamW",
        },
    ),
    "cnn_digits_sgd": Recipe(
        cnn_digits_sgd,
        300,
        {"k": 256, "chunk": 64},
        {"task": "10 digits", "data": "sklearn load_digits 8 x 8", "optimizer": "SGD, momentum 0.9"},
    ),
    "mlp_wine_exact": Recipe(
        mlp_wine_exact,
        300,
        {"k": "exact", "chunk": 128},
        {"task": "3 cultivars", "data": "sklearn load_wine 13 features", "optimizer": "SGD"},
    ),
}


def record(name: str, path: Path, steps: int | None = None) -> dict[str, Any]:
    """Train, log to ``path``, and return what the full gradients say."""
    recipe = RECIPES[name]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, optimizer, batches = recipe.build()
    options = {"hostname": False, "on_error": "raise", "mode": "w", "notes": recipe.notes, **recipe.options}
    gradients = []
    with gradlog.attach(optimizer, path, model=model, **options) as log:
        for x, y in itertools.islice(batches, steps or recipe.steps):
            loss = nn.functional.cross_entropy(model(x).flatten(0, -2), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            gradients.append(np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]))
            optimizer.step()
            log.annotate(loss=loss.item(), batch_size=len(x))
        header = log.header
    assert header is not None
    group_of = {t.name: header.groups[t.group] for t in header.tensors}
    owner = np.concatenate([np.full(p.numel(), group_of[n], object) for n, p in model.named_parameters()])
    G = np.stack(gradients)
    return {**oracle.truth(G), "by_group": {g: oracle.truth(G[:, owner == g]) for g in header.groups}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the shipped runs and their exact answers.")
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="default: all")
    parser.add_argument("--out", type=Path, default=Path("sample_logs"))
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    answers = options.out / "expected.json"
    expected = json.loads(answers.read_text()) if answers.exists() else {}
    for name in options.names or RECIPES:
        expected[name] = record(name, options.out / f"{name}.zarr", options.steps)
        kappas = "  ".join(f"{k} {v:.3f}" for k, v in expected[name]["kappa"].items())
        print(f"{name:20s} {kappas}  rank {expected[name]['rank']}")
        answers.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
