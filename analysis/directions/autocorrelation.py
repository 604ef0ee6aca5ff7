"""How long the gradient remembers its direction: the mean product of two gradients, by the steps between them.

A(a) = mean <g_t, g_{t-a}> / mean ||g||^2. Short lags have it from the products of rows that the pass adds up. Long ones
have it from the products of mean gradients of two parts of the run: means over all lags near the distance of the parts.
The noise of a step is independent of that of another: it is in the denominator alone. So A falls at once from 1
at lag 0 to about the share of the signal, and A over that share is the autocorrelation of the signal itself.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import jackknife, pool
from gradlog.analysis.common.types import Float64
from gradlog.analysis.directions.stretches import PARTS, Stretches, stretches
from gradlog.analysis.measures.fluctuation import LARGEST, wider

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

LAGS = 8
"""Lags that have a value each, as many as the default analysis collects; longer ones come from parts of the run."""

NORMAL = 1.96


@dataclasses.dataclass(frozen=True)
class Autocorrelation:
    """Mean product of two gradients over the mean squared norm, by lag.

    Attributes
    ----------
    lag : float64 (lags,)
        Steps between both. From ``single`` on values are means over lags about this one, triangular in weight, up to
        the rows of a part shorter and longer.
    single : int
        How many lags have a value of their own.
    value, low, high : float64 (lags,)
        Value and 95 % interval: of the sketch, and of the fluctuation within the run; NaN ends where the latter cannot
        be told.
    floor : float64 (lags,)
        What 19 of 20 runs of unrelated gradients of the same spread stay below, up or down.
    """

    lag: Float64
    single: int
    value: Float64
    low: Float64
    high: Float64
    floor: Float64


def autocorrelation(
    run: Run, rows: int | None = None, group: str | None = None, scheduler: object = None, lags: int = LAGS
) -> Autocorrelation:
    """Measure how alike gradients are by the number of steps between them.

    Parameters
    ----------
    run : Run
        Its sketch is read once.
    rows, group, scheduler
        As of ``direction_map``.
    lags : int
        Lags that get a value each; each of them makes the pass longer.

    Returns
    -------
    Autocorrelation

    Raises
    ------
    TooFewStepsError, ValueError
        As of ``direction_map``; a negative number of lags.

    Examples
    --------
    >>> found = autocorrelation(open_run("run.zarr"))        # doctest: +SKIP
    >>> found.lag[:3], found.value[:3]                       # doctest: +SKIP
    (array([1., 2., 3.]), array([0.31, 0.30, 0.30]))
    """
    if lags < 0:
        raise ValueError(f"lags: expected 0 or more, got {lags}")
    return autocorrelation_of(stretches(run, rows, lags, scheduler).of(group))


@np.errstate(divide="ignore", invalid="ignore")  # of no finite rows nothing is known
def autocorrelation_of(found: Stretches) -> Autocorrelation:
    """Autocorrelation of the rows behind some stretches."""
    length, good = found.size // PARTS, found.rows > 0
    means = np.where(good[:, None], found.means, 0.0)
    energy = pool(found.energy, found.k, found.exact)
    rows, pairs = found.rows.sum(), found.pairs.sum(axis=0)
    far = [d for d in distances(len(means)) if d * length > found.pairs.shape[1]]
    # the spread of products of parts: with n rows a part, that of two unrelated rows is n times as large
    products = means @ means.T
    apart = np.triu_indices(len(means), 2)
    spread = float(np.sqrt(np.mean(np.square(products[apart] - products[apart].mean())))) * length
    square = energy.sum() / rows if energy.any() else np.nan
    columns = []
    for a in range(found.pairs.shape[1]):
        own = _halves(pool(found.lag[:, a], found.k, found.exact)) * (rows / max(pairs[a], 1.0))
        floor = NORMAL * spread / square / np.sqrt(max(pairs[a], 1.0))
        columns.append((float(a + 1), *_ratio(own, _halves(energy), 2 * length, a + 1, all(found.exact)), floor))
    for d in far:
        both = good[d:] & good[:-d]
        own = pool(means[d:] * means[:-d], found.k, found.exact)[both]
        size = np.broadcast_to(energy.sum(axis=0) / rows, own.shape)
        floor = NORMAL * spread / square / length / np.sqrt(max(both.sum(), 1))
        columns.append((float(d * length), *_ratio(own, size, length, 0, all(found.exact)), floor))
    lag, value, low, high, floors = np.array(columns).reshape(-1, 5).T
    return Autocorrelation(lag * found.every, found.pairs.shape[1], value, low, high, floors)


def distances(parts: int) -> NDArray[np.int64]:
    """Distances of parts, about evenly spaced on a logarithmic scale, up to three quarters of the run."""
    return np.unique(np.geomspace(1, max(1, 3 * parts // 4), 12).round().astype(np.int64))


def _halves(of_parts: Float64) -> Float64:
    """Add up over half a stretch each: blocks of steps that are longer than the lags."""
    return np.asarray(of_parts.reshape(-1, 2, of_parts.shape[-1]).sum(axis=1))


def _ratio(own: Float64, size: Float64, length: int, memory: float, exact: bool) -> tuple[float, float, float]:
    """Ratio of sums over blocks (blocks, k), with its interval."""
    value, low, _ = jackknife(np.divide, own.sum(axis=0), size.sum(axis=0), exact=exact)
    n, d = own.sum(axis=1), size.sum(axis=1)
    told = len(n) >= 20 and d.max() <= LARGEST * d.sum()
    half = np.hypot(value - low, wider(n, d, length, memory) if told else np.nan)
    return value, value - half, value + half
