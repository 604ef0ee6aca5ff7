"""Long columns of numbers made short enough to draw, without hiding their extremes."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.reading.run import Run

BINS, RAW = 240, 512
"""Stretches of a long column; rows up to which a column is drawn as it is."""


@dataclasses.dataclass(frozen=True)
class Series:
    """A column over steps, binned.

    Attributes
    ----------
    first, last : int64 (bins,)
        Steps at the ends of each bin.
    middle, low, high : float64 (bins,)
        Median, smallest and largest finite value of a bin, NaN where there is none.
    rows : int
        Rows behind the widest bin; 1 when every row is its own bin.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    middle: Float64
    low: Float64
    high: Float64
    rows: int

    @property
    def step(self) -> Float64:
        """Middle step of each bin."""
        return (self.first + self.last) / 2

    @property
    def least(self) -> float:
        """Smallest value of all rows; NaN where there is none."""
        return float(np.nanmin(self.low)) if np.isfinite(self.low).any() else float("nan")

    @property
    def most(self) -> float:
        """Largest value of all rows; NaN where there is none."""
        return float(np.nanmax(self.high)) if np.isfinite(self.high).any() else float("nan")


def binned(steps: NDArray[np.int64], values: Float64, bins: int | None = None) -> Series:
    """Cut rows into ``bins`` stretches of nearly equal length; by default 240, or none of up to 512 rows.

    Parameters
    ----------
    steps : int64 (rows,)
    values : float64 (rows,)
        NaN and inf are left out.

    Examples
    --------
    >>> s = binned(np.arange(4), np.array([1.0, 5.0, 2.0, np.nan]), bins=2)
    >>> s.middle, s.high
    (array([3., 2.]), array([5., 2.]))
    """
    if bins is None:
        bins = BINS if len(steps) > RAW else len(steps)
    edges = np.unique(np.linspace(0, len(steps), min(bins, len(steps)) + 1).round().astype(int))
    finite = np.where(np.isfinite(values), values, np.nan)
    stretches = [finite[a:b] for a, b in pairwise(edges)]
    kept = [s[~np.isnan(s)] for s in stretches]
    found = np.array([(np.median(s), s.min(), s.max()) if len(s) else (np.nan,) * 3 for s in kept]).reshape(-1, 3)
    middle, low, high = found.T
    rows = int(np.diff(edges).max(initial=0))
    return Series(steps[edges[:-1]], steps[edges[1:] - 1], middle, low, high, rows)


def scalar(run: Run, name: str, bins: int | None = None) -> Series | None:
    """Bin a logged scalar; None where it was never logged."""
    column = run.scalar_columns.get(name)
    return None if column is None or not np.isfinite(column).any() else binned(run.steps, column, bins)


def gradient_norm(run: Run, bins: int | None = None) -> Series:
    """Bin the norm of the whole gradient."""
    return binned(run.steps, np.sqrt(run.group_norm2.sum(axis=1)), bins)
