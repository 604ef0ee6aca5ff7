"""One thing changed at a time: what horizon, batch, learning rate and optimizer do to kappa.

    python -m examples.paper.studies [--runs DIR] [--figure FILE.svg]

Some thirty short runs of the two fastest models, under two minutes; those that are complete are not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from examples.paper.session import train_once
from gradlog.analysis import analyze, open_run

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
RATES = {"adamw": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "sgdmom": (0.01, 0.03, 0.1, 0.3, 1.0)}
LABELS = {"adamw": "AdamW", "sgdmom": "SGD with momentum"}
OPTIMIZERS = ("sgd", "sgdmom", "adam", "rmsprop", "muon")


@dataclasses.dataclass(frozen=True)
class Point:
    """Kappa of ``last`` with its interval and its shuffled baseline at one setting."""

    x: Any
    kappa: float
    low: float
    high: float
    null: float


Lines = dict[str, list[Point]]


def horizon(runs: Path) -> Lines:
    """Growing prefixes of three long runs."""
    made = {
        "MLP, AdamW": ("mlp_tabular", "--steps=2000"),
        "transformer, AdamW": ("tiny_transformer", "--steps=1000"),
        "transformer on sort, RMSprop": ("tiny_transformer", "--optimizer=rmsprop", "--task=sort", "--steps=1000"),
    }
    found: Lines = {}
    for i, (label, (script, *flags)) in enumerate(made.items()):
        run = open_run(train_once(script, runs / f"horizon_{i}.zarr", [*flags, "--threads=1"]))
        ds = analyze(run, predictors=["last"], by_group=False, null_rank=False, prefixes=20).isel(predictor=0)
        found[label] = [
            Point(int(p.prefix_last_step) + 1, *(float(p[f"prefix_{n}"]) for n in FIELDS))
            for p in (ds.isel(prefix=j) for j in range(ds.sizes["prefix"]))
        ]
    return found


def batch(runs: Path) -> Lines:
    """Batch size, all else as in the table."""
    sizes = {"MLP, AdamW": ("mlp_tabular", BATCHES), "transformer, AdamW": ("tiny_transformer", BATCHES[:5])}
    return {label: [last(runs, b, script, f"--batch={b}") for b in found] for label, (script, found) in sizes.items()}


def rate(runs: Path) -> Lines:
    """Learning rate, all else as in the table."""
    return {
        f"MLP, {LABELS[name]}": [last(runs, lr, "mlp_tabular", f"--optimizer={name}", f"--lr={lr}") for lr in rates]
        for name, rates in RATES.items()
    }


def optimizer(runs: Path) -> Lines:
    """Optimizers on fresh batches, and on one and the same batch."""
    return {
        "fresh batches": [last(runs, o, "mlp_tabular", f"--optimizer={o}") for o in OPTIMIZERS],
        "one fixed batch": [last(runs, o, "mlp_tabular", f"--optimizer={o}", "--fixed-batch") for o in OPTIMIZERS],
    }


STUDIES = {"steps recorded": horizon, "batch size": batch, "learning rate": rate, "optimizer": optimizer}
FIELDS = ("kappa", "kappa_low", "kappa_high", "kappa_null")


def last(runs: Path, x: Any, script: str, *flags: str) -> Point:
    """Train once with these flags, and measure the predictor ``last``."""
    name = "_".join([script, *(f.strip("-").replace("=", "_") for f in flags)])
    run = open_run(train_once(script, runs / f"{name}.zarr", [*flags, "--threads=1"]))
    ds = analyze(run, predictors=["last"], by_group=False, null_rank=False).isel(predictor=0)
    return Point(x, *(float(ds[n]) for n in FIELDS))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper.studies", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw them: .svg, .png or .pdf")
    o = parser.parse_args(argv)
    found = {title: study(o.runs) for title, study in STUDIES.items()}
    for title, lines in found.items():
        for label, points in lines.items():
            values = "  ".join(f"{p.x}: {p.kappa:.3f} ({p.null:.2f})" for p in points)
            print(f"{title}, {label}: {values}")
    print("kappa of last, and in brackets what the same gradients would show in random order")
    if o.figure:
        from examples.paper.figures import draw_studies

        draw_studies(found, o.figure)


if __name__ == "__main__":
    main()
