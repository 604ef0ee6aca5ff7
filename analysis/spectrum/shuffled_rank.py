"""Rank of the increments of shuffled rows: its distribution over random orders.

It is not the rank of the expected Gram. Sums of leading eigenvalues are convex, so that rank lies above the rank of
nearly every single order, unless there are many more rows than directions. For 200 rows of independent noise in 256
columns it is 113 instead of 91. So random orders are drawn.

Rows G about their mean are U diag(sqrt tau) W^T, tau the eigenvalues of their scatter. A random order turns U, and so
does a random rotation that keeps the vector of ones; both give the same ranks to a fraction of a direction, and the
rotation needs nothing but tau. With D the differences within chains of rows, the increments then have the spectrum of

    diag(sqrt tau) V^T diag(mu) V diag(sqrt tau),   V uniform among N x m matrices with orthonormal columns,

mu the N = T - 1 eigenvalues of D^T D beside the one of the ones. V^T diag(mu) V does not depend on tau: scopes of the
same shape share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import stdtrit

from gradlog.analysis.common.types import Float64
from gradlog.analysis.spectrum.rank import ROUNDING, Spectrum

MANY = 1000
"""Rows per direction from which on all orders show the rank of the expected Gram, to one direction of 256. At 50 rows
per direction it would be 2 of 256 too high for independent noise, 5 for equal directions."""

MOST = 512
"""Directions that are drawn. More are drawn as fewer rows at the same number of rows per direction, each direction the
mean of several: of 1,024 directions that errs by one or two (``docs/low-rank-or-noise.md``)."""

NEGLIGIBLE = 0.01
"""Share of the smallest eps: directions that hold no more of the energy together are not drawn."""

NEAR = 0.25
"""Standard error of the mean, in directions, from which on no more orders are drawn."""

KEPT = 2
"""Shapes whose rotations are kept."""

AGREE = 0.05
"""Relative distance within which the likely and the upper end of a bracket have a mean."""

METHODS = ("none", "closed form", "rotations", "reduced rotations", "bracket")


@dataclasses.dataclass(frozen=True)
class ShuffledRank:
    """Distribution of r*(eps) over random orders.

    Attributes
    ----------
    mean, low, high : float64 (eps,)
        Mean, and the range of 9 in 10 orders; NaN where it is not known.
    method : str
        One of ``METHODS``.
    """

    mean: Float64
    low: Float64
    high: Float64
    method: str

    def where(self, known: NDArray[np.bool_], other: ShuffledRank) -> ShuffledRank:
        """Take the other's numbers where these are not ``known``."""
        ends = zip((self.mean, self.low, self.high), (other.mean, other.low, other.high), strict=True)
        mean, low, high = (np.where(known, own, instead) for own, instead in ends)
        return ShuffledRank(mean, low, high, self.method)


def unknown(count: int) -> ShuffledRank:
    """Nothing is known, for so many eps."""
    nothing = np.full(count, np.nan)
    return ShuffledRank(nothing, nothing, nothing, "none")


class Rotations:
    """Random rotations of rows, the same for all scopes of the same shape."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._kept: dict[tuple[bytes, int, int], tuple[np.random.Generator, list[Float64]]] = {}
        self._last: tuple[bytes, Float64] = b"", np.empty(0)

    def rank(self, scatter: Spectrum, lengths: NDArray[np.int64], eps: tuple[float, ...]) -> ShuffledRank:
        """Distribution of the rank, from the spectrum of the rows about their mean.

        Parameters
        ----------
        scatter : Spectrum
            Of at most ``scatter.size`` directions. Where some are missing, the rank is drawn for the fewest and for the
            most directions that can hold the energy: a bracket.
        lengths : int64 (chains,)
            Rows of each chain.
        eps : tuple of float

        Examples
        --------
        >>> Rotations().rank(Spectrum(np.ones(3), 3.0, size=3), np.array([9000]), (0.5,)).method
        'closed form'
        """
        ends = [self._drawn(tau, scatter.size, lengths, eps) for tau in _completed(scatter)]
        few, likely, most = ends[0], ends[len(ends) // 2], ends[-1]
        known = np.array(eps) * scatter.total > scatter.rounding
        near = most.mean - likely.mean <= np.maximum(1.0, AGREE * most.mean)
        mean, method = np.where(near, (likely.mean + most.mean) / 2, np.nan), few.method if likely is few else "bracket"
        return ShuffledRank(mean, few.low, most.high, method).where(known, unknown(len(eps)))

    def _drawn(self, tau: Float64, size: int, lengths: NDArray[np.int64], eps: tuple[float, ...]) -> ShuffledRank:
        total = float(tau.sum())
        left = total - np.cumsum(tau)
        tau = tau[: 1 + int(np.count_nonzero(left > max(NEGLIGIBLE * min(eps), ROUNDING) * total))]
        if int(lengths.sum()) > MANY * len(tau):
            return _spread(_ranks(tau, total, eps)[None], size, "closed form")
        shape, mu = self._differences(lengths)
        if len(tau) <= MOST:
            return _spread(self._ranks(shape, mu, tau, min(size, MOST), total, eps), size, "rotations")
        step = -(-len(tau) // MOST)
        means = np.append(tau, np.zeros(-len(tau) % step)).reshape(-1, step).mean(axis=1)
        count = -(-len(mu) // step)
        fewer = np.quantile(mu, (np.arange(count) + 0.5) / count)
        ranks = self._ranks(shape, fewer, means, len(means), total, eps, step)
        if (coarse := ranks.mean(axis=0) < MOST / 8).any():  # a mean of several says little of a small rank
            leading = self._ranks(shape, mu, tau[:MOST], MOST, total, eps)
            return _spread(ranks, size, "reduced rotations").where(~coarse, _spread(leading, size, ""))
        return _spread(ranks, size, "reduced rotations")

    def _differences(self, lengths: NDArray[np.int64]) -> tuple[bytes, Float64]:
        """Return what names the shape, and its mu; scopes of one shape follow each other."""
        shape = lengths.tobytes()
        if self._last[0] != shape:
            self._last = shape, differences(lengths)
        return self._last

    def _ranks(
        self,
        shape: bytes,
        mu: Float64,
        tau: Float64,
        width: int,
        total: float,
        eps: tuple[float, ...],
        step: int = 1,
    ) -> Float64:
        """r*(eps) of every draw, (draws, eps); each tau stands for ``step``, those of the total left out for none."""
        root, m = np.sqrt(tau), len(tau)
        missing = (total - step * float(tau.sum())) * float(mu.mean())

        def draw(i: int) -> Float64:
            turned = self._turned(shape, mu, width, i)[:m, :m] * (root[:, None] * root)
            energies = np.linalg.eigvalsh(turned)[::-1].clip(0)
            return _ranks(energies, step * float(energies.sum()) + missing, eps, step)

        return _repeated(draw, width)

    def _turned(self, shape: bytes, mu: Float64, m: int, i: int) -> Float64:
        """Return the i-th V^T diag(mu) V, (m, m), of this shape; any leading columns of V are a draw of so many."""
        key = shape, len(mu), m
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = np.random.default_rng(self._seed), []
        rng, drawn = self._kept[key]
        while len(drawn) <= i:
            drawn.append(rotated(mu, m, rng))
        return drawn[i]


def differences(lengths: NDArray[np.int64]) -> Float64:
    """Eigenvalues of the squared differences within chains, ascending, without that of the vector of ones.

    A chain of l rows has 4 sin^2(pi j / 2 l), j = 0..l-1.

    Examples
    --------
    >>> differences(np.array([2, 1])).round(9)
    array([0., 2.])
    """
    j = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(np.sort(4 * np.square(np.sin(np.pi * j / (2 * np.repeat(lengths, lengths)))))[1:])


def rotated(mu: Float64, m: int, rng: np.random.Generator) -> Float64:
    """Draw V^T diag(mu) V, (m, m), V uniform among len(mu) x m matrices with orthonormal columns.

    V = X R^-1 of normal X = V R. If there are many mu, a symmetric matrix of normal entries has the same mean and
    variance. The free cumulants of V^T diag(mu) V are (m / N)^(n-1) times those of mu (Nica and Speicher 1996), so a
    cube of that matrix corrects the fourth; those of odd order are small.
    """
    N = len(mu)
    if 2.5 * m > N:
        X = rng.standard_normal((N, m))
        R = np.linalg.qr(X, mode="r")
        half = solve_triangular(R, X.T @ (mu[:, None] * X), trans="T")
        return np.asarray(solve_triangular(R, half.T, trans="T"))
    Z = rng.standard_normal((m, m))
    Z = (Z + Z.T) / np.sqrt(2 * m)
    fourth = np.mean((mu - mu.mean()) ** 4) / mu.var() ** 2 - 2 if mu.var() > 0 else 0.0
    Z += fourth * m / (4 * N) * (Z @ Z @ Z - 2 * Z)
    return np.asarray(mu.mean() * np.eye(m) + np.sqrt(mu.var() * m / N) * Z)


def stretched(scatter: Spectrum, size: int) -> Spectrum:
    """Spectrum of the same shape with ``size`` directions, as that of a few more rows would be."""
    if not scatter.complete or size <= scatter.size or scatter.size < 2:
        return scatter
    at = np.linspace(0, scatter.size - 1, size)
    energies = np.interp(at, np.arange(scatter.size), scatter.energies)
    return dataclasses.replace(scatter, energies=energies, total=float(energies.sum()), size=size)


def _completed(scatter: Spectrum) -> list[Float64]:
    """All energies; where some are missing, three ways to hold the rest.

    What is listed are lower bounds. The rest may belong to the first direction, which gives the fewest; or to all that
    are listed, in proportion; or to the others alone, evenly, which gives the most.
    """
    seen, free = scatter.energies, scatter.size - len(scatter.energies)
    rest = scatter.total - float(seen.sum())
    if scatter.complete or rest <= scatter.rounding:
        return [seen]
    first = np.append(seen[0] + rest, seen[1:])
    shared = seen * (scatter.total / float(seen.sum()))
    return [first, shared, np.append(seen, np.full(free, rest / free)) if free > 0 else shared]


def draws(size: int) -> tuple[int, int]:
    """Return the least and the most number of draws of a matrix of this size: more where they cost little."""
    return int(np.clip(2 * MOST // max(size, 1), 4, 24)), 8 if size > MOST // 2 else 24


def kept_bytes(rows: int, columns: int) -> int:
    """Memory that the rotations take that are kept."""
    m = min(columns, rows, MOST)
    return 8 * (KEPT * draws(m)[1] + 8) * m * m + 8 * 5 * min(rows, MANY * m)


def _repeated(draw: Callable[[int], Float64], size: int) -> Float64:
    """Draw ranks (draws, eps) until their mean is known to ``NEAR``, or the most are drawn."""
    least, most = draws(size)
    found: list[Float64] = []
    while len(found) < least or (len(found) < most and np.std(found, axis=0).max() > NEAR * np.sqrt(len(found))):
        found.append(draw(len(found)))
    return np.array(found)


def _ranks(energies: Float64, total: float, eps: tuple[float, ...], step: int = 1) -> Float64:
    """r*(eps) of descending energies that stand for ``step`` each; all where what is listed does not suffice."""
    led = step * np.cumsum(energies)
    found = []
    for e in eps:
        need = (1 - e) * total * (1 - 1e-12)
        i = int(np.searchsorted(led, need))
        before = led[i - 1] if i else 0.0
        within = min(max(np.ceil((need - before) / energies[i]), 1.0), step) if i < len(led) else 0.0
        found.append(step * i + within)
    return np.array(found)


def _spread(ranks: Float64, size: int, method: str) -> ShuffledRank:
    """Mean and 90 % range of the next draw, by Student's t, from ranks (draws, eps)."""
    draws = len(ranks)
    mean = ranks.mean(axis=0)
    if draws == 1:
        return ShuffledRank(mean, mean, mean, method)
    half = ranks.std(axis=0, ddof=1) * np.sqrt(1 + 1 / draws) * stdtrit(draws - 1, 0.95)
    half = np.maximum(half, 0.5)  # few draws of a whole number may all be the same
    low, high = np.ceil(mean - half - 0.5), np.floor(mean + half + 0.5)  # whole numbers; of halves the outer one
    return ShuffledRank(mean, np.maximum(low, np.minimum(mean, 1.0)), np.minimum(high, size), method)


RESOLUTION = 1e-4
"""What is left of the energy when its mean is taken out must be more than this share: sums of float32 products are
right to 1e-6, so that less would be rounding by more than a hundredth."""


def shuffled_gram(rows_gram: Float64, total: Float64, rows: int) -> Float64:
    """Return the expected Gram of shuffled rows' increments, up to the factor pairs / (rows - 1).

    E[(g_i - g_j)(g_i - g_j)^T] over i != j is 2 / (rows - 1) times the centred scatter matrix.
    """
    return 2 * (rows_gram - np.multiply.outer(total, total) / rows)


def resolved(spectrum: Spectrum, energy: float) -> Spectrum | None:
    """Spectrum of shuffled rows of this energy; None where the rows are too nearly equal to tell it from rounding."""
    rounding = 2 * ROUNDING * energy  # what the products of the rows themselves leave
    known = spectrum.total > 2 * RESOLUTION * energy
    return dataclasses.replace(spectrum, rounding=max(spectrum.rounding, rounding)) if known else None
