"""Two runs step by step: the angle between their gradients, and the step from which they go different ways.

Both runs must have been sketched by the same map, since only then <S a, S b> estimates <a, b>.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.cosines import cosine_intervals
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.reading.rows import buffer_rows
from gradlog.analysis.reading.run import Run
from gradlog.analysis.reading.same_map import require_same_map
from gradlog.errors import TooFewStepsError

SIMILARITY_THRESHOLD, MIN_CONSECUTIVE = 0.9, 3
"""Runs have parted where the cosine's interval lies below 0.9 at three steps in a row."""


@dataclasses.dataclass(frozen=True)
class Cosines:
    """Cosine similarity of two runs' gradients at the steps that both hold.

    Attributes
    ----------
    steps : int64 (rows,)
    value, low, high : float64 (rows,)
        Cosine with its sketch 95 % interval; NaN where a gradient is zero.
    identical : bool (rows,)
        Whether the two sketches are equal bit by bit.
    """

    steps: NDArray[np.int64]
    value: Float64
    low: Float64
    high: Float64
    identical: NDArray[np.bool_]

    @property
    def first_difference(self) -> int | None:
        """First step at which the recorded rows are not the same; None if there is none."""
        where = np.flatnonzero(~self.identical)
        return int(self.steps[where[0]]) if len(where) else None

    @property
    def parted(self) -> int | None:
        """First of three steps in a row whose intervals lie below 0.9; None if there is none."""
        dissimilar = np.nan_to_num(self.high, nan=1.0) < SIMILARITY_THRESHOLD
        if len(dissimilar) < MIN_CONSECUTIVE:
            return None
        where = np.flatnonzero(sliding_window_view(dissimilar, MIN_CONSECUTIVE).all(axis=1))
        return int(self.steps[where[0]]) if len(where) else None


def cosines(a: Run, b: Run) -> Cosines:
    """Cosine similarity by step, from one pass over both runs.

    Parameters
    ----------
    a, b : Run
        Recorded with the same sketch, groups, tensors and stage.

    Returns
    -------
    Cosines

    Raises
    ------
    SpecMismatchError
        The rows come from different maps.
    TooFewStepsError
        No finite step in common.

    Notes
    -----
    Delete-one jackknife over the k coordinates of <Sa, Sb> / (||Sa|| ||Sb||), groups pooled; exact rows, and
    groups that the sketch shows exactly, carry no error.

    Examples
    --------
    >>> found = cosines(open_run("one.zarr"), open_run("two.zarr"))       # doctest: +SKIP
    >>> found.parted                                                      # doctest: +SKIP
    312
    """
    require_same_map(a, b)
    steps, at_a, at_b = np.intersect1d(a.steps[a.finite], b.steps[b.finite], return_indices=True)
    if len(steps) == 0:
        raise TooFewStepsError(f"{a.where} and {b.where} have no finite step in common")
    rows_a, rows_b = np.flatnonzero(a.finite)[at_a], np.flatnonzero(b.finite)[at_b]
    size = buffer_rows(a.rows)
    shown = zip(exact_groups(a.whole_header), exact_groups(b.whole_header), strict=True)
    exact, parts = tuple(map(all, shown)), []
    for start in range(0, len(steps), size):
        X, Y = (_rows(r, which[start : start + size]) for r, which in ((a, rows_a), (b, rows_b)))
        parts.append((*cosine_intervals(X, Y, exact), (X == Y).all(axis=(1, 2))))
    value, low, high, identical = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Cosines(steps, value, low, high, identical.astype(bool))


def _rows(run: Run, which: NDArray[np.int64]) -> NDArray[np.float32]:
    first, last = int(which[0]), int(which[-1])
    block = run.rows.read(first, last + 1)[which - first]
    return block.reshape(len(which), run.n_groups, run.k)
