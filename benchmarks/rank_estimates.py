"""How often the estimated rank of the gradients is withheld, and how often its range holds the truth where it is not.

``OPENBLAS_NUM_THREADS=1 python benchmarks/rank_estimates.py [--sketches 4] [--folder DIR]`` inverts sketches of
spectra that are known, for k = 64 to 512, n = 200, 600 and 2,000 increments and three eps, and of the trainings of
``known.py`` whole, in each group, and of random halves of their steps. The constants of ``spectrum.population`` were
chosen on ``TUNED``; ``HELD_OUT`` and the trainings are for judging alone. Prints Markdown. Five minutes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import known as known_gradients  # noqa: E402
import numpy as np  # noqa: E402
from known import KNOWN  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy import stats  # noqa: E402

from gradlog.analysis.spectrum.population import estimate  # noqa: E402

Float64 = NDArray[np.float64]
Spectrum = Callable[[Float64], Float64]
EPS = (0.1, 0.05, 0.01)
WIDTHS, COUNTS = (64, 128, 256, 512), (200, 600, 2000)


def power(a: float) -> Spectrum:
    """Energy of direction i falls as i^-a."""
    return lambda i: i**-a


def decay(length: float, exponent: float = 1.0, floor: float = 0.0) -> Spectrum:
    """Energy falls exponentially, or as a stretched exponential, to a floor."""
    return lambda i: np.exp(-((i / length) ** exponent)) + floor


def levels(*steps: tuple[int, float]) -> Spectrum:
    """``steps`` of (directions, energy), then ones."""

    def spectrum(i: Float64) -> Float64:
        upper = np.concatenate([np.full(count, energy) for count, energy in steps])
        return np.append(upper, np.ones(len(i)))[: len(i)]

    return spectrum


def lognormal(sigma: float) -> Spectrum:
    """Quantiles of a lognormal law."""
    return lambda i: np.exp(sigma * stats.norm.isf((i - 0.5) / len(i)))


TUNED: dict[str, Spectrum] = {
    **{f"power {a}": power(a) for a in (0.5, 0.65, 0.8, 1.0, 1.2, 1.5, 1.8, 2.0)},
    **{f"exponential {n}": decay(n) for n in (10, 50, 150)},
    "exponential 25 and floor": decay(25, floor=1e-3),
    "stretched 4": decay(4, 0.5),
    **{f"lognormal {s}": lognormal(s) for s in (1, 3)},
    **{f"two levels {n} x {e}": levels((n, e)) for n, e in ((5, 100), (30, 30), (30, 300), (80, 10))},
    "three levels": levels((5, 500), (40, 20)),
    "flat": np.ones_like,
    "linear": lambda i: len(i) + 1 - i,
}

HELD_OUT: dict[str, Spectrum] = {
    **{f"power {a}": power(a) for a in (0.9, 1.35, 1.65, 2.5)},
    **{f"exponential {n}": decay(n) for n in (20, 35, 90)},
    "exponential 15 and floor": decay(15, floor=3e-4),
    "stretched 10": decay(10, 0.7),
    "lognormal 2": lognormal(2),
    "two levels 15 x 60": levels((15, 60)),
    "two levels 60 x 5": levels((60, 5)),
    "two levels 20 x 1000": levels((20, 1000)),
    "four levels": levels((2, 2000), (10, 100), (60, 8)),
    "quadratic": lambda i: (1 - (i - 1) / len(i)) ** 2,
    "Student, 3 degrees": lambda i: np.square(stats.t.isf((i - 0.5) / len(i) / 2, 3)),
}


class Tally:
    """Counts of one line of the table: how many were asked for, and whether the ranges given hold the rank."""

    def __init__(self) -> None:
        self.asked = dict.fromkeys(WIDTHS, 0)
        self.held: dict[int, list[bool]] = {k: [] for k in WIDTHS}
        self.error: list[float] = []
        self.width: list[float] = []

    def add(self, gram: Float64, limit: float, truth: list[int]) -> None:
        """Estimate all eps from one Gram."""
        for found, r in zip(estimate(gram, EPS, limit), truth, strict=True):
            self.asked[len(gram)] += 1
            if np.isfinite(found.value):
                self.held[len(gram)].append(bool(np.floor(found.low) <= r <= np.ceil(found.high)))
                self.error.append(abs(found.value - r) / r)
                self.width.append((found.high - found.low) / 2 / found.value)

    def join(self, other: Tally) -> None:
        """Add another line's counts."""
        for k in WIDTHS:
            self.asked[k] += other.asked[k]
            self.held[k] += other.held[k]
        self.error += other.error
        self.width += other.width

    def sizes(self) -> str:
        """Say how far the estimates and their ranges go."""
        quantiles = ", ".join(f"{q:.0%}" for q in np.quantile(self.error, (0.5, 0.95, 1)))
        return f"error in the middle, at 19 of 20, at worst: {quantiles}; mean half-width {np.mean(self.width):.0%}"

    def cells(self) -> list[str]:
        """For each k: how many are withheld, and how many of the others hold the truth."""
        return [
            f"{1 - len(held) / self.asked[k]:.0%}; {sum(held)} of {len(held)}" if held else "100%"
            for k, held in self.held.items()
        ]


def ranks(energies: Float64) -> list[int]:
    """r*(eps) of a spectrum, any order."""
    tau = np.sort(energies)[::-1]
    left = tau.sum() - np.cumsum(tau)
    return [int(np.argmax(left <= e * tau.sum())) + 1 for e in EPS]


def spectra(families: dict[str, Spectrum], sketches: int, seed: int) -> Iterator[tuple[str, Tally]]:
    """Gaussian sketches of directions with known energies."""
    rng = np.random.default_rng(seed)
    for name, family in families.items():
        tally = Tally()
        for n in COUNTS:
            tau = family(np.arange(1.0, n + 1))
            for k in WIDTHS:
                for _ in range(sketches):
                    S = rng.standard_normal((k, n)) / np.sqrt(k)
                    tally.add((S * tau) @ S.T, n, ranks(tau))
        yield name, tally


def trainings(folder: Path, sketches: int, longest: int = 800) -> Iterator[tuple[str, Tally]]:
    """Increments of real gradients through the real sketch: whole and by group, all rows and random halves."""
    rng = np.random.default_rng(5)
    for name in list(KNOWN)[:4]:
        known, tally = known_gradients.gradients(name, folder), Tally()
        groups = range(len(known.groups))
        rows = min(known.steps - 1, longest)
        grams, sizes = [], []
        for g in groups:
            H = np.diff(known.full(g)[: rows + 1].astype(np.float64), axis=0)
            grams.append(H @ H.T)
            sizes.append(H.shape[1])
        scopes = [([g], sizes[g], grams[g]) for g in groups] + [(list(groups), sum(sizes), sum(grams))]
        parts = [np.arange(rows), *(np.sort(rng.choice(rows, rows // 2, replace=False)) for _ in range(2))]
        truths = {
            (i, j): ranks(np.linalg.eigvalsh(gram[np.ix_(part, part)]).clip(0))
            for i, (_, _, gram) in enumerate(scopes)
            for j, part in enumerate(parts)
        }
        for k in WIDTHS:
            for seed in range(sketches):
                D = np.diff(known_gradients.sketches(known, k, 500 + seed)[: rows + 1].astype(np.float64), axis=0)
                for (i, j), truth in truths.items():
                    H = D[:, scopes[i][0]].sum(axis=1)[parts[j]]
                    tally.add(H.T @ H, min(len(H), scopes[i][1]), truth)
        yield name, tally


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sketches", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("runs/known"))
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    together: dict[str, Tally] = {}
    print(f"| withheld; ranges with the truth | {' | '.join(f'k = {k}' for k in WIDTHS)} |\n|{'---|' * 5}")
    for title, lines in (
        ("trainings", trainings(o.folder, o.sketches)),
        ("held-out spectra", spectra(HELD_OUT, o.sketches, 1)),
        ("spectra tuned on", spectra(TUNED, o.sketches, 0)),
    ):
        together[title] = Tally()
        for name, tally in lines:
            together[title].join(tally)
            print(f"| {name} | {' | '.join(tally.cells())} |", flush=True)
        print(f"| **all {title}** | {' | '.join(together[title].cells())} |", flush=True)
    print("\n" + "\n".join(f"{title}: {tally.sizes()}" for title, tally in together.items()))


if __name__ == "__main__":
    main()
