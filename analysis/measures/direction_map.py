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

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import leave_one_out, pool, quantile, spread
from gradlog.analysis.common.types import Float64


@dataclasses.dataclass(frozen=True)
class DirectionMap:
    """Cosines between the mean gradients of stretches of steps.

    Attributes
    ----------
    first, last : int64 (stretches,)
        Steps at their ends.
    cosine, low, high : float64 (stretches, stretches)
        Cosine and the ends of its 95 % interval, which covers the sketch and the noise of the steps; NaN where the
        mean gradient of one of both cannot be told from zero.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    cosine: Float64
    low: Float64
    high: Float64

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which stretches have a mean gradient that can be told from zero."""
        return ~np.isnan(np.diagonal(self.cosine))


PARTS = 4
"""Parts of a stretch, whose products make the squared norm of its mean."""


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
