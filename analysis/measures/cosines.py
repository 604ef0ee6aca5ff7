"""Cosines between sketched rows, with the interval that the sketch leaves them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import leave_one_out, pool, quantile, spread
from gradlog.analysis.common.types import Float64


def cosine_intervals(
    X: NDArray[np.float32], Y: NDArray[np.float32], exact: Sequence[bool]
) -> tuple[Float64, Float64, Float64]:
    """Cosine of each pair of rows (rows, groups, k) with its interval; ``exact``: groups without a sketch error."""
    pairs = ((X, Y), (X, X), (Y, Y))
    k = X.shape[2]
    products = (np.multiply(u, v, dtype=np.float64, casting="same_kind").reshape(len(X), -1) for u, v in pairs)
    xy, xx, yy = (pool(p, k, exact) for p in products)
    value = _cosine(xy.sum(1), xx.sum(1), yy.sum(1))
    if all(exact):
        return value, value, value
    if k < 4:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    half = quantile(k) * spread(_cosine(*(leave_one_out(s) for s in (xy, xx, yy))))
    return value, np.maximum(value - half, -1), np.minimum(value + half, 1)


def _cosine(xy: Float64, xx: Float64, yy: Float64) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(xy / np.sqrt(xx * yy), -1, 1))
