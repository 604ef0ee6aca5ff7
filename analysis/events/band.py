"""The running band of a series: where its values usually lie, judged by the steps before alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from gradlog.analysis.common.types import Float64

if TYPE_CHECKING:
    import pandas as pd

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


def band(values: ArrayLike, window: int = WINDOW) -> Band:
    """Judge each value of a series by up to ``window`` values before it.

    A value is compared with the running median of those before it, and its distance with the usual distances: their
    running median, which a trend moves away from 0, and their median absolute deviation from that. A positive series
    is judged by its logarithm, as norms and losses vary by factors. Values that are NaN or infinite, and the zeros of
    a positive series, are passed over.

    Parameters
    ----------
    values : array_like (rows,)
    window : int

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
    import pandas as pd

    series = np.asarray(values, np.float64)
    finite = series[np.isfinite(series)]
    positive = len(finite) > 0 and bool((finite >= 0).all())
    with np.errstate(divide="ignore", invalid="ignore"):
        compared = np.log(series) if positive else series
    known = np.isfinite(compared)
    away = pd.Series(compared[known])
    away -= _before(away, window, LEAST)
    off = away - _before(away, window, LEAST // 2)
    usual = NORMAL * _before(off.abs(), window, LEAST // 2)
    score, ratio = np.full_like(series, np.nan), np.full_like(series, np.nan)
    score[known] = np.where(off == 0, 0.0, off / usual)  # a constant series has no deviation
    if positive:
        ratio[known] = np.exp(away)
    return Band(score, ratio)


def _before(x: pd.Series[float], window: int, least: int) -> pd.Series[float]:
    return x.rolling(window, min_periods=least).median().shift(1)
