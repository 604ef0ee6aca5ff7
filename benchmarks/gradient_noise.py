"""Signal and noise of trainings whose full gradients and per-sample covariances are computed beside them.

``OMP_NUM_THREADS=1 python benchmarks/gradient_noise.py [--seeds 3] [--steps 300]`` trains a logistic regression and a
perceptron by SGD over a sweep of learning rates, with independent batches and in epochs, and prints Markdown: what the
line through the lags says and what the two halves of each batch say, over the truth along the same path; how often the
95 % interval from the halves holds it; the noise trace from the halves over that of the per-sample gradients; and how
often lags are withheld. Two minutes.

The truth of a step is ||grad F||^2 over all samples, and tr Sigma = (mean ||g_i||^2 - ||grad F||^2) / B for independent
draws, times (N - B) / (N - 1) for a batch without replacement.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call, grad, vmap

import gradlog
from gradlog.analysis import analyze
from gradlog.analysis.measures import gradient_noise

N, B, INPUTS, CLASSES = 640, 64, 20, 3
RATES = (0.0, 0.05, 0.2, 0.5)


def model_of(kind: str) -> torch.nn.Module:
    """Build a model with the random weights of torch's seed."""
    if kind == "logistic":
        return torch.nn.Linear(INPUTS, CLASSES)
    return torch.nn.Sequential(torch.nn.Linear(INPUTS, 16), torch.nn.Tanh(), torch.nn.Linear(16, CLASSES))


def batches(kind: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of one batch after the other, drawn anew each time or in epochs."""
    while True:
        if kind == "independent":
            yield rng.integers(0, N, B)
        else:
            yield from rng.permutation(N).reshape(-1, B)


def train(kind: str, draw: str, rate: float, steps: int, seed: int, path: Path) -> dict[str, float]:
    """Record a training with half batches; return the mean truth along its path."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = model_of(kind)
    x = torch.randn(N, INPUTS)
    y = (x @ torch.randn(INPUTS, CLASSES) + 2 * torch.randn(N, CLASSES)).argmax(1)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, torch.Tensor], one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(functional_call(model, p, (one[None],)), label[None])

    each = vmap(grad(loss), (None, 0, 0))
    signal = noise = 0.0
    with gradlog.open(path, params, k="exact", groups="all", on_error="raise") as log:
        for _, rows in zip(range(steps), batches(draw, rng), strict=False):
            all_ = each(params, x, y)
            flat = torch.cat([g.reshape(N, -1) for g in all_.values()], 1).double()
            full = flat.mean(0) @ flat.mean(0)
            spread = (flat.square().sum(1).mean() - full) / B
            signal += float(full) / steps
            noise += float(spread if draw == "independent" else spread * (N - B) / (N - 1)) / steps
            first = {n: g[rows[: B // 2]].mean(0) for n, g in all_.items()}
            mean = {n: g[rows].mean(0) for n, g in all_.items()}
            log.step(mean, half=first, batch_size=B)
            params = {n: p - rate * mean[n] for n, p in params.items()}
    return {"signal": signal, "noise": noise}


def read(path: Path, draw: str) -> dict[str, float]:
    """Signal from lags, whatever they look like, and all that the analysis says."""
    ds = analyze(
        str(path), ["last"], steps_per_epoch=0 if draw == "independent" else N // B, null_rank=False, cache=False
    )
    lags = ds.lag_coherence.values
    line = float(gradient_noise.signal_weights(gradient_noise.LAGS) @ lags * ds.energy / ds.rows)
    coherence = {f"lag_coherence{end}": ds[f"lag_coherence{end}"].values for end in ("", "_low", "_high")}
    epoch = 0 if draw == "independent" else N // B
    names = ("signal", "signal_low", "signal_high", "noise")
    return {n: float(ds[n]) for n in names} | {
        "lags": line,
        "withheld": float(bool(gradient_noise.withheld(coherence, epoch))),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Signal and noise against full gradients.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    o = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | batches | lr | lags / truth | withheld | halves / truth | interval holds | noise / truth |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in ("logistic", "perceptron"):
        for draw in ("independent", "epochs"):
            for rate in RATES:
                found = []
                for seed in range(o.seeds):
                    with tempfile.TemporaryDirectory() as folder:
                        path = Path(folder) / "r.zarr"
                        truth = train(kind, draw, rate, o.steps, seed, path)
                        r = read(path, draw)
                    inside = r["signal_low"] <= truth["signal"] <= r["signal_high"]
                    found.append(
                        [
                            r["lags"] / truth["signal"],
                            r["withheld"],
                            r["signal"] / truth["signal"],
                            inside,
                            r["noise"] / truth["noise"],
                        ]
                    )
                lags, withheld, halves, held, noise = np.mean(found, axis=0)
                print(
                    f"| {kind} | {draw} | {rate:g} | {lags:.2f} | {withheld * o.seeds:.0f} of {o.seeds} "
                    f"| {halves:.2f} | {held * o.seeds:.0f} of {o.seeds} | {noise:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
