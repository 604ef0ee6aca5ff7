"""How often ``turns`` finds a planted change of direction, and one where there is none; how often intervals hold.

``OMP_NUM_THREADS=1 python benchmarks/turns.py [--seeds 20] [--first 100] [--steps 960]`` makes gradients of 512
numbers, sketched to 64. Their mean has a fixed direction, turns steadily or turns at one step, under noise of several
sizes, light and heavy-tailed. Others are those of a small perceptron, frozen or with its classes permuted at a step. It
prints Markdown, in a minute of processor time. The constants of ``gradlog.analysis.directions.turns`` were chosen on
seeds 0 to 9.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gradlog
from gradlog.analysis import autocorrelation, open_run, turns

SIZE, K = 512, 64
Rows = NDArray[np.float32]


def made(
    seed: int, steps: int, noise: float, angle: float, steady: bool = False, heavy: bool = False
) -> tuple[Rows, int]:
    """Gradients whose mean turns by an angle, at one step or over the whole run; and the step."""
    rng = np.random.default_rng(seed)
    u, v = np.linalg.qr(rng.normal(size=(SIZE, 2)))[0].T
    at = int(rng.integers(steps // 4, 3 * steps // 4))
    turned = np.linspace(0, angle, steps) if steady else angle * (np.arange(steps) >= at)
    mean = np.cos(turned)[:, None] * u + np.sin(turned)[:, None] * v
    of = rng.standard_t(3, size=(steps, SIZE)) / np.sqrt(3) if heavy else rng.normal(size=(steps, SIZE))
    return (mean + noise / np.sqrt(SIZE) * of).astype(np.float32), at


def trained(seed: int, steps: int, permuted: bool) -> tuple[Rows, int]:
    """Gradients of a perceptron: with frozen parameters, or while it learns classes that are permuted at a step."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    teacher = torch.randn(16, 5)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 5))
    at, rows = steps // 4 + seed * 13 % (steps // 2), []
    for step in range(steps):
        x = torch.randn(64, 16)
        y = (x @ teacher).argmax(1)
        y = (y + 1) % 5 if permuted and step >= at else y
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        rows.append(np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]))
        with torch.no_grad():
            for p in model.parameters():
                p -= (0.01 if permuted else 0.0) * p.grad
    return np.stack(rows), at


def sketched(rows: Rows, folder: Path) -> str:
    """Record them."""
    path = str(folder / "run.zarr")
    with gradlog.open(path, like={"w": rows[0]}, k=K, mode="w") as log:
        for row in rows:
            log.step({"w": row})
    return path


CASES: dict[str, tuple[Callable[[int, int], tuple[Rows, int]], bool]] = {
    **{f"fixed, noise {n}": (lambda s, T, n=n: made(s, T, n, 0.0), False) for n in (0.5, 2, 6)},
    "fixed, heavy-tailed noise 2": (lambda s, T: made(s, T, 2, 0.0, heavy=True), False),
    "turns steadily by 180 degrees, noise 2": (lambda s, T: made(s, T, 2, np.pi, steady=True), False),
    "perceptron, frozen": (lambda s, T: trained(s, T, permuted=False), False),
    **{f"turned by 90 degrees, noise {n}": (lambda s, T, n=n: made(s, T, n, np.pi / 2), True) for n in (0.5, 2, 6)},
    "turned by 45 degrees, noise 2": (lambda s, T: made(s, T, 2, np.pi / 4), True),
    "turned by 90 degrees, heavy-tailed noise 2": (lambda s, T: made(s, T, 2, np.pi / 2, heavy=True), True),
    "perceptron, classes permuted": (lambda s, T: trained(s, T, permuted=True), True),
}


def coverage(seeds: range, steps: int, folder: Path) -> str:
    """Share of autocorrelations whose interval holds that of the means, which noise does not touch."""
    held: dict[str, list[bool]] = {"one lag": [], "mean over lags": []}
    above = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        mean = np.zeros((steps, SIZE))
        for t in range(1, steps):
            mean[t] = 0.98 * mean[t - 1] + 0.2 * rng.normal(size=SIZE)
        noise = 2 * rng.normal(size=(steps, SIZE))
        found = autocorrelation(open_run(sketched((mean + noise).astype(np.float32), folder)))
        square = np.square(mean).sum(1).mean() + 4 * SIZE
        part = steps // 96
        parts = mean[: 96 * part].reshape(96, part, SIZE).mean(axis=1)
        for i, lag in enumerate(found.lag.astype(int)):
            one = i < found.single
            d = lag // part
            true = np.mean(np.sum((mean[lag:] * mean[:-lag]) if one else (parts[d:] * parts[:-d]), axis=1)) / square
            held["one lag" if one else "mean over lags"].append(bool(found.low[i] <= true <= found.high[i]))
        pure = autocorrelation(open_run(sketched(noise.astype(np.float32), folder)))
        above += (np.abs(pure.value) > pure.floor).tolist()
    shares = "; ".join(f"{name}: {np.mean(x):.3f} of {len(x)}" for name, x in held.items())
    return f"Intervals that held the truth: {shares}. Values of noise alone above the floor: {np.mean(above):.3f}."


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--steps", type=int, default=960)
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.seeds)
    print("| gradients | runs | not known | turn found | at the step | other turns |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        for case, (make, planted) in CASES.items():
            unknown = right = exactly = wrong = 0
            for seed in seeds:
                rows, at = make(seed, asked.steps)
                found = turns(open_run(sketched(rows, Path(name))))
                if found is None:
                    unknown += 1
                    continue
                near = [t for t in found if planted and abs(t.step - at) <= asked.steps // 24]
                right, wrong = right + bool(near), wrong + len(found) - len(near)
                exactly += any(abs(t.step - at) <= asked.steps // 96 for t in near)
            told = (f"{right}", f"{exactly}") if planted else ("", "")
            print(f"| {case} | {len(seeds)} | {unknown} | {told[0]} | {told[1]} | {wrong} |", flush=True)
        print(f"\n{coverage(seeds, asked.steps, Path(name))}")


if __name__ == "__main__":
    main()
