"""Cosines between the mean gradients of stretches of steps, free of the noise of the steps.

The mean of a stretch holds the noise of its rows over their number. Products of the means of different stretches are
free of it, as their noises are independent. The squared norm of one mean is not. The mean product of different quarters
of the stretch is, and stands in its place; it is too small where the direction turns within a quarter, and the cosine
then too large. The sketch keeps products without bias. Its error and the noise show in the spread over the k
coordinates, each nearly an estimate of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import leave_one_out, pool, quantile, spread
from gradlog.analysis.common.types import Float64
from gradlog.analysis.directions.stretches import PARTS, Stretches, stretches
from gradlog.analysis.reading.same_map import require_same_map

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run


@dataclasses.dataclass(frozen=True)
class DirectionMap:
    """Cosines between the mean gradients of stretches of steps, of one run or of two.

    Attributes
    ----------
    first, last : int64 (stretches,)
        Steps at their ends; of two runs, those of the first.
    other_first, other_last : int64 (stretches,)
        The same of the columns: those of the second run, of one run its own.
    cosine, low, high : float64 (stretches, stretches)
        Cosine and the ends of its 95 % interval, which covers the sketch and the noise of the steps; NaN where the
        mean gradient of one of both cannot be told from zero.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    cosine: Float64
    low: Float64
    high: Float64
    other_first: NDArray[np.int64]
    other_last: NDArray[np.int64]

    def __repr__(self) -> str:
        return "<gradlog.analysis.DirectionMap: {} x {} stretches>".format(*self.cosine.shape)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which stretches, rows of the map, have a mean gradient that can be told from zero."""
        return np.asarray(np.isfinite(self.cosine).any(axis=1))


def direction_map(
    run: Run, rows: int | None = None, group: str | None = None, scheduler: object = None, other: Run | None = None
) -> DirectionMap:
    """Compare the mean gradients of stretches of a run in direction, with each other or with those of another run.

    Parameters
    ----------
    run : Run
        Its sketch is read once.
    rows : int, optional
        Rows of a stretch; by default so many that there are 24 stretches, and at least 16. Rows that are left over at
        the end are left out.
    group : str, optional
        One parameter group instead of all.
    scheduler
        As of ``analyze``.
    other : Run, optional
        A run that was sketched by the same map, such as one with another learning rate and the same ``seed`` of the
        sketch. Cosines are then of its stretches, columns, with those of ``run``. If both runs drew the same batches
        at the same steps, their noise is the same too, and cosines there are too large.

    Returns
    -------
    DirectionMap

    Raises
    ------
    TooFewStepsError
        Fewer than two stretches.
    SpecMismatchError
        The other run was sketched by another map, or its groups are others.
    ValueError
        Fewer than 4 rows in a stretch, no such group, or a sketch of fewer than four coordinates. A view whose steps go
        back at a rewind: a stretch would hold rows of both branches.

    Examples
    --------
    >>> found = direction_map(open_run("run.zarr"))         # doctest: +SKIP
    >>> found.cosine[0, -1]                                 # doctest: +SKIP
    0.12
    """
    if other is not None:
        require_same_map(run, other)
    parts = [stretches(one, rows, scheduler=scheduler).of(group) for one in (run, other) if one is not None]
    return map_of(*parts)


def map_of(one: Stretches, other: Stretches | None = None) -> DirectionMap:
    """Map of the stretches of a run, or of those of two runs that were sketched by one map."""
    parts, count = [x.means.reshape(len(x.first), PARTS, -1) for x in (one, other) if x is not None], len(one.first)
    found = cosines(np.concatenate(parts), one.k, one.exact)
    if other is None:
        return DirectionMap(one.first, one.last, *found, one.first, one.last)
    cosine, low, high = (x[:count, count:] for x in found)
    return DirectionMap(one.first, one.last, cosine, low, high, other.first, other.last)


def cosines(parts: Float64, k: int, exact: Sequence[bool] = ()) -> tuple[Float64, Float64, Float64]:
    """Cosines between stretches, with the ends of their intervals, each (stretches, stretches).

    Parameters
    ----------
    parts : float64 (stretches, parts, groups x k)
        Mean rows of equal parts of each stretch.
    k : int
        Coordinates of a group, at least 4.
    exact : sequence of bool
        Groups that the sketch shows without error.

    Examples
    --------
    Two stretches whose parts agree, at a right angle:

    >>> parts = np.array([[[1.0, 1, 1, 1]] * 4, [[2.0, -2, 2, -2]] * 4])
    >>> cosines(parts, 4)[0]
    array([[1., 0.],
           [0., 1.]])
    """
    means, own, count = parts.mean(axis=1), np.arange(len(parts)), parts.shape[1]
    products = pool(means[:, None] * means[None, :], k, exact)
    different = (means * means - np.square(parts).mean(axis=1) / count) * count / (count - 1)
    products[own, own] = pool(different, k, exact)
    value = _cosine(products.sum(axis=-1)[..., None])[..., 0]
    half = quantile(k) * spread(_cosine(leave_one_out(products)))
    norms = products[own, own]
    noise = np.sqrt(k / (k - 1) * np.square(norms - norms.mean(axis=-1, keepdims=True)).sum(axis=-1))
    known = norms.sum(axis=-1) > quantile(k) * noise
    shown = np.clip(np.where(known[:, None] & known, value, np.nan), -1, 1)
    return shown, np.maximum(shown - half, -1), np.minimum(shown + half, 1)


def _cosine(sums: Float64) -> Float64:
    """Cosines from products (stretches, stretches, ...), 1 on the diagonal."""
    own = np.arange(len(sums))
    norms = sums[own, own]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = sums / np.sqrt(norms[:, None] * norms[None, :])
    found[own, own] = 1.0
    return np.asarray(found)
