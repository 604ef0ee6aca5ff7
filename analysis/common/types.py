"""Types that several wings share: float arrays, progress, and what is known of one logged scalar."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


Float64 = NDArray[np.float64]


EPS = (0.1, 0.05, 0.01)
"""Shares of energy that a rank may leave out, unless others are asked for."""

SMALLEST_SAMPLE = 2048
"""Rows of a sample of a run, at least."""

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Column:
    """A scalar over some rows, as far as it was logged and is finite: how many, sum, first, least and largest value."""

    count: int
    total: float
    first: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Float64) -> Column:
        """Of these values."""
        seen = values[np.isfinite(values)]
        first = float(seen[0]) if len(seen) else float("nan")
        with np.errstate(over="ignore"):  # a sum beyond float64 is inf
            total = float(seen.sum())
        return cls(len(seen), total, first, float(seen.min(initial=np.inf)), float(seen.max(initial=-np.inf)))

    @property
    def mean(self) -> float:
        """Mean, NaN where nothing was logged."""
        return self.total / self.count if self.count else float("nan")

    def add(self, later: Column) -> Column:
        """Of these rows and the later ones."""
        first = self.first if self.count else later.first
        ends = min(self.least, later.least), max(self.most, later.most)
        return Column(self.count + later.count, self.total + later.total, first, *ends)
