"""Record the shipped runs, and the exact answers beside them.

    python sample_logs/record.py [NAME ...] [--out DIR] [--steps N]

Run it from the project's root. Four runs are made by the scripts in ``examples/paper``, two by the few lines below,
each with one ``gradlog.attach`` line. Of the small models every full gradient is kept as it stands in ``p.grad`` and
handed to ``oracle.py``, which knows nothing of gradlog; of the two large ones ``examples/paper/exact.py`` keeps running
sums. Fixed seeds: on one machine the numbers repeat exactly, on another until training has amplified the rounding.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project's root, for examples.paper

import gradlog
from examples.paper import gpt2, mlp_tabular, resnet18, tiny_transformer
from gradlog.analysis import open_run

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run: ``train(path, steps)`` makes it; ``streamed`` if its full gradients do not fit in memory together."""

    train: Callable[[Path, int], None]
    steps: int
    streamed: bool = False


def script(main: Callable[..., None], *flags: str, **options: Any) -> Callable[[Path, int], None]:
    """Train with a script of ``examples/paper``; ``options`` are those of ``gradlog.attach``."""

    def train(path: Path, steps: int) -> None:
        main([*flags, f"--steps={steps}", f"--out={path}"], **options)

    return train


def here(
    build: Callable[[], tuple[nn.Module, torch.optim.Optimizer, Batches]], notes: dict[str, Any], **options: Any
) -> Callable[[Path, int], None]:
    """Train what ``build`` gives."""

    def train(path: Path, steps: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model, optimizer, batches = build()
        common = {"hostname": False, "on_error": "raise", "mode": "w", "notes": notes}
        with gradlog.attach(optimizer, path, model=model, **common, **options) as log:
            for x, y in itertools.islice(batches, steps):
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                log.annotate(loss=loss.item(), batch_size=len(x))

    return train


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


HALVES = {"embedding": "token|place", "layer.0": r"layers\.0", "layer.1": r"layers\.1", "head": "head"}

RECIPES = {
    "tiny_sort_rmsprop": Recipe(
        script(
            tiny_transformer.main, "--task=sort", "--optimizer=rmsprop", "--lr=1e-3", "--batch=32", "--threads=1",
            groups=HALVES, chunk=64,
        ),
        400,
    ),
    "mlp_synth_adamw": Recipe(script(mlp_tabular.main, "--threads=1", k=96, chunk=512), 2000),
    "cnn_digits_sgd": Recipe(
        here(
            cnn_digits_sgd,
            {
                "task": "10 digits", "data": "sklearn load_digits 8 x 8", "optimizer": "SGD, momentum 0.9",
                "steps_per_epoch": 28,
            },
            k=256,
            chunk=64,
        ),
        300,
    ),
    "mlp_wine_exact": Recipe(
        here(
            mlp_wine_exact,
            {"task": "3 cultivars", "data": "sklearn load_wine 13 features", "optimizer": "SGD", "steps_per_epoch": 5},
            k="exact",
            chunk=128,
        ),
        300,
    ),
    "resnet18_photo100_adamw": Recipe(script(resnet18.main, "--threads=2", "--exact", chunk=64), 200, streamed=True),
    "gpt2_manual_adamw": Recipe(script(gpt2.main, "--threads=2", "--exact", chunk=16), 50, streamed=True),
}  # fmt: skip


def record(name: str, path: Path, steps: int | None = None) -> dict[str, Any]:
    """Train, log to ``path``, and return what the full gradients say."""
    recipe = RECIPES[name]
    shutil.rmtree(path, ignore_errors=True)
    if recipe.streamed:
        recipe.train(path, steps or recipe.steps)
        answers = path.with_suffix(".exact.json")
        found: dict[str, Any] = json.loads(answers.read_text())
        answers.unlink()
        return found | {"null": {p: oracle.null(p, found["c"], found["steps"]) for p in oracle.PREDICTORS}}
    gradients: list[np.ndarray] = []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        held = [p.grad.numpy().ravel() for group in optimizer.param_groups for p in group["params"]]
        gradients.append(np.concatenate(held))

    hook = register_optimizer_step_pre_hook(keep)
    try:
        recipe.train(path, steps or recipe.steps)
    finally:
        hook.remove()
    header = open_run(path).header
    owner = np.repeat([t.group for t in header.tensors], [t.size for t in header.tensors])
    G = np.stack(gradients)
    by_group = {g: oracle.truth(G[:, owner == i]) for i, g in enumerate(header.groups)}
    return {**oracle.truth(G), "by_group": by_group}


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
        print(f"{name:24s} {kappas}  rank {expected[name].get('rank', 'not known')}")
        answers.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
