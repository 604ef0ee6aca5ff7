"""Sums of rows over epochs, and of their squares: a monoid in step order, like ``summary``, of which it is a part.

An epoch is a range of step numbers; its rows add up whether or not a block or a gap ends inside it. The first and the
last epoch of a stretch may go on in its neighbours: their sums are kept; of all between, the squares.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64


class EpochSums(NamedTuple):
    """What is known of the epochs of a stretch of rows; n columns, of which there are none where epochs are not known.

    Attributes
    ----------
    squares : float64 (n,)
        Sum over the epochs between the first and the last of the squared sum of their rows.
    pairs : float
        Sum over them of their squared number of rows.
    number, rows : int64 (at most 2,)
        Number of the first and of the last epoch, where that is another, and how many rows are known of each.
    sums : float64 (at most 2, n)
        Their sums.
    """

    squares: Float64
    pairs: float
    number: NDArray[np.int64]
    rows: NDArray[np.int64]
    sums: Float64

    @classmethod
    def none(cls, n: int) -> EpochSums:
        """Of no rows."""
        nothing = np.empty(0, np.int64)
        return cls(np.zeros(n), 0.0, nothing, nothing, np.empty((0, n)))

    @classmethod
    def of(cls, X: NDArray[np.float32], number: NDArray[np.int64]) -> EpochSums:
        """Of rows (rows, n), each in the epoch of this number."""
        starts = np.flatnonzero(np.diff(number, prepend=number[:1] - 1))
        ends = np.append(starts[1:], len(X))
        sums = np.empty((len(starts), X.shape[1]))
        for a, b, out in zip(starts, ends, sums, strict=True):
            X[a:b].sum(axis=0, dtype=np.float64, out=out)
        return cls.none(X.shape[1])._with(number[starts], ends - starts, sums)

    def merge(self, other: EpochSums) -> EpochSums:
        """Of both, in order of rows."""
        number, rows, sums = (np.concatenate(x) for x in zip(self[2:], other[2:], strict=True))
        seam = len(self.number)
        if 0 < seam < len(number) and number[seam - 1] == number[seam]:
            rows[seam - 1] += rows[seam]
            sums[seam - 1] += sums[seam]
            number, rows, sums = (np.delete(x, seam, axis=0) for x in (number, rows, sums))
        both = EpochSums(self.squares + other.squares, self.pairs + other.pairs, number[:0], rows[:0], sums[:0])
        return both._with(number, rows, sums)

    def _with(self, number: NDArray[np.int64], rows: NDArray[np.int64], sums: Float64) -> EpochSums:
        """Close the epochs between the first and the last of these."""
        squares = self.squares + np.square(sums[1:-1]).sum(axis=0)
        ends = [0, -1][: len(number)]
        pairs = self.pairs + float(np.square(rows[1:-1], dtype=np.float64).sum())
        return EpochSums(squares, pairs, number[ends], rows[ends], sums[ends])

    def closed(self) -> tuple[Float64, float]:
        """Sum of squared sums (n,), and of squared numbers of rows, over all epochs."""
        return self.squares + np.square(self.sums).sum(axis=0), self.pairs + float(np.square(self.rows).sum())
