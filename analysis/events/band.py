"""The running band of a series: where its values usually lie, judged by the steps before alone."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from gradlog.analysis.common.types import Float64

WINDOW, LEAST = 64, 20
"""Values before a step that its band is made of, and the fewest that make one."""

NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclasses.dataclass(frozen=True)
class Band:
    """How far each value of a series lies from where the values before it lay.

    Attributes
    ----------
    score : float64 (rows,)
        Distance in usual deviations, upwards positive; NaN where fewer than 40 values came before.
    ratio : float64 (rows,)
        The value over the running median; NaN for a series that is not positive throughout.
    """

    score: Float64
    ratio: Float64


@dataclasses.dataclass(frozen=True)
class Departure:
    """A series that left its band.

    Attributes
    ----------
    series : str
        ``"loss"``, ``"norm"``, ``"change"``, ``"lr"``, ``"non-finite"``, or the name of a group, whose
        norm it is. The change is the norm of the difference from the gradient before.
    of_group : bool
        Whether it is the norm of a group.
    step : int
        First step of the event at which it was out of its band.
    score, ratio : float
        Usual deviations from the running median, and times the running median, where it was farthest; NaN where they
        mean nothing. Deviations are infinite where the series had not varied before, and both are for a loss of inf.
    """

    series: str
    of_group: bool
    step: int
    score: float
    ratio: float


def band(values: ArrayLike, window: int = WINDOW, positive: bool | None = None, least: float = 0.0) -> Band:
    """Judge each value of a series by up to ``window`` values before it.

    A value is compared with the running median of those before it, and its distance with the usual distances: their
    running median, which a trend moves away from 0, and their median absolute deviation from that. A positive series
    is judged by its logarithm, as norms and losses vary by factors. Values that are NaN or infinite, and the zeros of
    a positive series, are passed over.

    Parameters
    ----------
    values : array_like (rows,)
    window : int
    positive : bool, optional
        Whether no value of the series is negative. Default: what these values show.
    least : float
        Scores are left out, NaN, where no ratio reaches this.

    Returns
    -------
    Band

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> loss = 2 + 0.1 * rng.normal(size=100)
    >>> loss[80] = 5
    >>> found = band(loss)
    >>> int(np.nanargmax(found.score)), round(float(found.ratio[80]), 1)
    (80, 2.5)
    """
    series = np.asarray(values, np.float64)
    if positive is None:
        positive = never_negative(series)
    with np.errstate(divide="ignore", invalid="ignore"):
        compared = np.log(series) if positive else series
    known = np.isfinite(compared)
    away = _from_before(compared[known], window, LEAST)
    score, ratio = np.full_like(series, np.nan), np.full_like(series, np.nan)
    if positive:
        ratio[known] = np.exp(away)
        if not (ratio >= least).any():
            return Band(score, ratio)
    off = _from_before(away[LEAST:], window, LEAST // 2)
    usual = NORMAL * median_before(np.abs(off[LEAST // 2 :]), window, LEAST // 2)
    at, off = np.flatnonzero(known)[LEAST + LEAST // 2 :], off[LEAST // 2 :]
    with np.errstate(divide="ignore", invalid="ignore"):
        score[at] = np.where(off == 0, 0.0, off / usual)  # a constant series has no deviation
    return Band(score, ratio)


def median_before(x: Float64, window: int, least: int) -> Float64:
    """Median of up to ``window`` values before each, NaN where fewer than ``least`` came before.

    Infinite values of both signs stand in for what is missing at the beginning. Of an odd number of them one more is
    positive; then the lower of the two middle values is the median.

    >>> median_before(np.array([5.0, 1.0, 3.0, 2.0, 9.0]), 3, 1)
    array([nan,  5.,  3.,  3.,  2.])
    """
    from scipy.ndimage import rank_filter

    window = min(window, max(len(x), 1))  # all values before are no more than these
    pads = np.where(np.arange(window, 0, -1) % 2 == 1, np.inf, -np.inf)
    padded, upper = np.concatenate([pads, x]), window // 2
    ranks = (rank_filter(padded, rank, size=window, origin=-upper) for rank in (upper - 1, upper))
    lower, higher = (found[: len(x)] for found in ranks)
    counts = np.minimum(np.arange(len(x)), window)
    odd = higher if window % 2 else lower
    with np.errstate(invalid="ignore"):
        found = np.where(counts % 2, odd, (lower + higher) / 2)
    found[:least] = np.nan
    return np.asarray(found)


def _from_before(x: Float64, window: int, least: int) -> Float64:
    return x - median_before(x, window, least)


def never_negative(series: Float64) -> bool:
    """Whether a series has finite values and none below 0."""
    finite = series[np.isfinite(series)]
    return len(finite) > 0 and bool((finite >= 0).all())


class RunningBand:
    """The band of a series whose values come in pieces: the same as of all at once.

    Examples
    --------
    >>> whole, parts = np.exp(np.random.default_rng(0).normal(size=300)), RunningBand()
    >>> pieces = [parts.add(whole[start : start + 100]).score for start in (0, 100, 200)]
    >>> bool(np.array_equal(np.concatenate(pieces), band(whole).score, equal_nan=True))
    True
    """

    def __init__(self, window: int = WINDOW, positive: bool = True, least: float = 0.0) -> None:
        self.window, self.positive, self.least = window, positive, least
        self._known = np.empty(0)

    def add(self, values: Float64) -> Band:
        """Judge the next values."""
        series = np.concatenate([self._known, values])
        found, before = band(series, self.window, self.positive, self.least), len(self._known)
        known = series[np.isfinite(series) & ((series > 0) | (not self.positive))]
        self._known = known[-3 * self.window :]  # a median of medians of medians looks back so far
        return Band(found.score[before:], found.ratio[before:])
