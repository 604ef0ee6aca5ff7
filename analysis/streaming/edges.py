"""What completes the sums of a summary: products past the end of a chain, and Grams whose upper triangle is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def edge(tail: NDArray[Any], lags: int) -> Float64:
    """Return sums of g_{s-i} g_{s-j} over the rows s past a chain's end, i, j = 1..lags, as (lags, lags, n).

    With M_ij = sum over the chain's rows t of g_{t-i} g_{t-j} and R_a = sum g_t g_{t-a}, zero history:
    M_ij = R_|i-j| - edge_ij, where edge_ij sums the last min(i, j) products of lag |i-j|.
    """
    rows = tail.astype(np.float64)
    out = np.zeros((lags, lags, rows.shape[1]))
    for lag in range(lags):
        products = rows[lag:] * rows[: max(len(rows) - lag, 0)]
        for i in range(1, lags - lag + 1):
            last = products[max(len(products) - i, 0) :].sum(axis=0)
            out[i - 1, i + lag - 1] = out[i + lag - 1, i - 1] = last
    return out


def mirrored(upper: Float64) -> Float64:
    """Whole Grams from their upper triangles."""
    whole: Float64 = np.triu(upper) + np.swapaxes(np.triu(upper, 1), -1, -2)
    return whole
