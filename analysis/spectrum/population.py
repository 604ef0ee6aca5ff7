"""Rank of the gradients themselves: the spectrum behind a sketched one, by inverting the Marchenko-Pastur map.

The k x k Gram of sketched increments is a sample covariance: k random combinations of directions with population
energies tau_i = sigma_i^2. Its Stieltjes transform m(z) obeys, for large k (Silverstein 1995),

    z = -1/m + (1/k) sum_i tau_i / (1 + tau_i m).

With measured m(z) at many z this is linear in how many tau lie at each point of a grid, hence non-negative least
squares (El Karoui 2008). The law assumes ONE k-dimensional sketch of the whole vector, and directions that are not
aligned with its coordinates; where parts of the sketch disagree with the whole, nothing is claimed.

``benchmarks/rank_estimates.py`` counts how reliable it is, on gradients and spectra that no constant here was chosen
on: k = 64 to 512, 99 to 2,000 increments, eps of 0.1 to 0.01. At every k at least 98 in 100 of the ranges that were
given held the rank. Withheld were, by k, 87, 59, 27 and 11 % of spectra and 66, 27, 10 and 4 % of trainings.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from gradlog.analysis.common.jackknife import quantile, spread
from gradlog.analysis.common.types import Float64

GRID, POINTS = 120, 60
DEPTH = 1000
"""How far the grid goes below the mean energy of a direction: a steep spectrum's last per cent of energy lies there."""

HALVES = 6
AGREEMENT = 0.2
"""Largest relative spread of the estimates of sub-sketches that still counts as agreement."""

FEW = 128
"""Below this k the halves are so short that they agree by chance on ranks above k: those are withheld."""

MISS, BAND = 0.12, 0.1
"""What the range includes beside the spread: this relative error of the rank, and ranks at eps (1 +- BAND), which lie
far apart where a spectrum hardly falls. Both from sketches of known spectra, see ``benchmarks/rank_estimates.py``."""


@dataclasses.dataclass(frozen=True)
class Population:
    """Estimated population spectrum: ``count`` directions (real numbers) of energy ``energy`` each, descending."""

    energy: Float64
    count: Float64

    def rank(self, eps: float) -> float:
        """r*(eps), interpolated within a grid point."""
        led = np.cumsum(self.energy * self.count)
        if len(led) == 0 or led[-1] <= 0:
            return 0.0
        need = (1 - eps) * led[-1]
        i = int(np.searchsorted(led, need))
        before = led[i - 1] if i else 0.0
        return float(self.count[:i].sum() + (need - before) / self.energy[i])


class Estimate(NamedTuple):
    """Rank of the gradients with its range: the spread over sub-sketches and MISS; NaN when not identifiable."""

    value: float
    low: float
    high: float


NOT_IDENTIFIABLE = Estimate(float("nan"), float("nan"), float("nan"))


def population(eigenvalues: Float64, limit: float) -> Population:
    """Estimate the population spectrum behind the eigenvalues of a sketched Gram.

    Parameters
    ----------
    eigenvalues : float64 (k,)
    limit : float
        Largest possible rank, min(T - 1, d).
    """
    k, E = len(eigenvalues), float(eigenvalues.sum())
    top = float(eigenvalues.max())
    if not E > 0:
        return Population(np.empty(0), np.empty(0))
    tau = np.geomspace(1.1 * top, min(E / limit, top / 2) / DEPTH, GRID)
    low = max(float(eigenvalues.min()), 1e-4 * top)
    x = np.concatenate([np.geomspace(low / 4, 2 * top, POINTS), -np.geomspace(low / 4, 2 * top, POINTS // 4)])
    z = x + 1j * np.abs(x) * 0.25
    m = (1 / (eigenvalues[:, None] - z)).mean(axis=0)
    design = tau / (1 + tau * m[:, None]) / k
    target = z + 1 / m
    scale = 1 / np.abs(target)
    design, target = design * scale[:, None], target * scale
    strong = 30.0
    A = np.vstack([design.real, design.imag, strong * tau[None] / E])
    b = np.concatenate([target.real, target.imag, [strong]])
    units = np.linalg.norm(A, axis=0)
    count = nnls(A / units, b, maxiter=30 * GRID)[0] / units
    return Population(tau, count)


def estimate(gram: Float64, eps: tuple[float, ...], limit: float, seed: int = 0) -> list[Estimate]:
    """Estimated r*(eps) of the gradients from the Gram of one sketch.

    Parameters
    ----------
    gram : float64 (k, k)
    eps : tuple of float
    limit : float
        Largest possible rank, min(T - 1, d).
    seed : int
        Of the random halves.
    """
    k = len(gram)
    if k < 32 or not np.trace(gram) > 0:
        return [NOT_IDENTIFIABLE] * len(eps)
    whole = population(np.linalg.eigvalsh(gram).clip(0), limit)
    parts = [population(np.linalg.eigvalsh(2 * gram[np.ix_(i, i)]).clip(0), limit) for i in _halves(k, seed)]
    return [_agreed(whole, np.array([p.rank(e) for p in parts]), e, limit, k) for e in eps]


def _halves(k: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(HALVES // 2):
        order = rng.permutation(k)
        halves += [order[: k // 2], order[k // 2 : k // 2 * 2]]
    return halves


def _agreed(whole: Population, parts: Float64, eps: float, limit: float, k: int) -> Estimate:
    value = whole.rank(eps)
    spread = np.ptp(parts) / max(value, 1.0)
    shift = abs(parts.mean() - value) / max(value, 1.0)
    slack = 2.0 / max(value, 1.0)
    if spread > 1.5 * AGREEMENT + slack or shift > AGREEMENT + slack or (k < FEW and value > k):
        return NOT_IDENTIFIABLE
    low = min(value * (1 - MISS) - 1, float(parts.min()), whole.rank(eps * (1 + BAND)))
    high = max(value * (1 + MISS) + 1, float(parts.max()), whole.rank(eps * (1 - BAND)))
    return Estimate(min(value, limit), min(max(low, 1.0), limit), min(high, limit))


def participation(gram: Float64) -> tuple[float, float, float]:
    """Participation ratio E^2 / sum sigma^4 without the sketch's bias, with its interval.

    With a = sum tau and a2 = sum tau^2, a Gaussian sketch has E tr(G)^2 = a^2 + 2 a2 / k and E tr(G^2) = (1 + 1/k) a2 +
    a^2 / k, solved for a^2 and a2 (Srivastava 2005). Delete-one jackknife over the coordinates, on 1 / ratio: its upper
    end is NaN where a2 may be 0.

    Returns
    -------
    value, low, high : float
        NaN where a2 is not positive, or k < 4.
    """
    k = len(gram)
    of_row = np.square(gram).sum(axis=1)
    own = gram.diagonal()
    whole = _evenness(own.sum(), of_row.sum(), k) if k >= 4 else 0.0
    if not whole > 0:
        return float("nan"), float("nan"), float("nan")
    parts = _evenness(own.sum() - own, of_row.sum() - 2 * of_row + np.square(own), k - 1)
    half = quantile(k) * spread(parts)
    value, low, high = (1 / min(float(x), 1.0) if x > 0 else float("nan") for x in (whole, whole + half, whole - half))
    return value, low, high


def _evenness(trace: Float64, squares: Float64, k: int) -> Float64:
    """1 / participation ratio, from tr(G) and tr(G^2) of a sketch of k coordinates; 0 for a trace of 0."""
    trace = np.asarray(trace)
    share = np.divide(squares, np.square(trace), out=np.full(trace.shape, 1 / k), where=trace > 0)
    raw = (share - 1 / k) / ((1 - 1 / k) * (1 + 2 / k))
    return np.asarray(raw / (1 - 2 * raw / k))
