"""How often the fluctuation within a run holds the mean: of stationary processes, and over the seeds of trainings.

``OPENBLAS_NUM_THREADS=1 python benchmarks/fluctuation_coverage.py [--draws N] [--seeds N]`` prints Markdown. A process
is an AR(1) series of errors about its mean; a training is a small perceptron in numpy, its gradients seen in full, each
seed with its own start and batches; there the interval of each seed is asked for the mean of kappa over all seeds.
Minutes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy.signal import lfilter  # noqa: E402

from gradlog.analysis.measures.fluctuation import Blocks, Ratios, wider  # noqa: E402
from gradlog.analysis.measures.predictors import needs, parse  # noqa: E402
from gradlog.analysis.streaming import sections  # noqa: E402
from gradlog.analysis.streaming.kernel import summarise  # noqa: E402
from gradlog.analysis.streaming.recipe import Recipe  # noqa: E402
from gradlog.analysis.streaming.summary import Summary  # noqa: E402

Float64 = NDArray[np.float64]

PREDICTORS = ("last", "ema(0.9)", "trend", "ar(8)")
LENGTHS, PHIS = (200, 400, 1000, 4000), (0.0, 0.5, 0.8, 0.9)
TRAININGS = {
    "SGD 0.1": ("sgd", 0.1), "SGD 0.5": ("sgd", 0.5), "momentum 0.05": ("momentum", 0.05), "Adam 3e-3": ("adam", 3e-3),
}  # fmt: skip


def blocks(values: Float64, length: int) -> Float64:
    """Sums over sections."""
    return np.asarray(np.add.reduceat(values, np.arange(0, len(values), length)))


def stationary(T: int, phi: float, draws: int, seed: int = 0) -> float:
    """Coverage of the mean of an AR(1) series of correlation phi, by the ratio of its sum to a constant one."""
    r, length, hits = np.random.default_rng(seed), sections.length(T), 0
    for _ in range(draws):
        noise = np.sqrt(1 - phi * phi) * r.standard_normal(T + 200)
        N = 3 + lfilter([1.0], [1.0, -phi], noise)[200:]
        D = np.ones(T)
        half = wider(blocks(N, length), blocks(D, length), length)
        hits += abs(N.mean() - 3) <= half
    return hits / draws


def gradients(optimizer: str, rate: float, seed: int, T: int, batch: int = 32) -> Iterator[Float64]:
    """Minibatch gradients of a 20-16-4 perceptron on made classes; data are the same for all seeds."""
    fixed = np.random.default_rng(12345)
    X = fixed.standard_normal((2000, 20))
    labels = np.argmax(np.tanh(X @ fixed.standard_normal((20, 8))) @ fixed.standard_normal((8, 4)), axis=1)
    r = np.random.default_rng(seed)
    A, B = r.standard_normal((20, 16)) / np.sqrt(20), r.standard_normal((16, 4)) / 4
    m = v = np.zeros(A.size + B.size)
    for t in range(1, T + 1):
        rows = r.integers(0, len(X), batch)
        h = np.tanh(X[rows] @ A)
        p = np.exp(h @ B - (h @ B).max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(batch), labels[rows]] -= 1
        p /= batch
        g = np.concatenate([(X[rows].T @ (p @ B.T * (1 - h * h))).ravel(), (h.T @ p).ravel()])
        yield g
        step = g
        if optimizer == "momentum":
            m = 0.9 * m + g
            step = m
        elif optimizer == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        A = A - rate * step[: A.size].reshape(A.shape)
        B = B - rate * step[A.size :].reshape(B.shape)


def kappas(G: Float64) -> tuple[Float64, Float64]:
    """Kappa and its half-width within the run, (predictor,), by the analyzer's own sections."""
    asked, length = parse(PREDICTORS), sections.length(len(G))
    recipe = Recipe(1, G.shape[1], gram="none", section=length, **needs(asked, 4))
    whole = Summary.gap(recipe)
    whole.absorb(sections.gap(recipe, 0))
    for start in range(0, len(G), length):
        part = summarise(np.ascontiguousarray(G[start : start + length], np.float32), recipe)
        part.sections = sections.of(part, start)
        whole.absorb(part)
    found = Blocks.of([s.totals for s in sections.totals([whole])], sections.thin(recipe).betas, length)
    ratios = Ratios.of(found, asked, 4)
    return ratios.paths.sum(axis=1) / ratios.energy.sum(), ratios.kappas()


def over_seeds(name: str, T: int, seeds: int) -> tuple[Float64, Float64]:
    """Share of seeds whose interval holds the mean over seeds; and the sd over seeds over that of the fluctuation."""
    optimizer, rate = TRAININGS[name]
    each = [kappas(np.array(list(gradients(optimizer, rate, seed, T)))) for seed in range(seeds)]
    value, half = (np.array(x) for x in zip(*each, strict=True))
    inside = (np.abs(value - value.mean(axis=0)) <= half).mean(axis=0)
    return inside, 2 * value.std(axis=0, ddof=1) / np.median(half, axis=0)


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=40)
    o = parser.parse_args()
    print(line(["steps", *(f"phi = {p:g}" for p in PHIS)]) + "\n" + line(["---"] * 5), flush=True)
    for T in LENGTHS:
        print(line([str(T), *(f"{stationary(T, p, o.draws):.3f}" for p in PHIS)]), flush=True)
    print("\n" + line(["training", "steps", *PREDICTORS, "2 sd over seeds / half-width"]))
    print(line(["---"] * 7), flush=True)
    every = []
    for name in TRAININGS:
        for T in (400, 1000):
            inside, ratio = over_seeds(name, T, o.seeds)
            every.append(inside)
            shown = " ".join(f"{x:.2f}" for x in ratio)
            print(line([name, str(T), *(f"{c:.2f}" for c in inside), shown]), flush=True)
    print(f"\n{o.seeds} seeds a training: mean {np.mean(every):.3f}, least {np.min(every):.2f}")


if __name__ == "__main__":
    main()
