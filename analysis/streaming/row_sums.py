"""Sums over the blocks of a dask array of rows; of short runs, the Grams of all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.reading.rows import RowSource
from gradlog.analysis.streaming.schedule import fold


def reduce_rows(H: Any, function: Callable[..., Any], *args: Any) -> Any:
    """Sum of function(block, *args) over the row blocks of a dask array."""
    from dask import delayed

    blocks = H.rechunk({1: -1}).to_delayed().ravel().tolist()
    parts = [delayed(function)(block, *args) for block in blocks]
    with single_threaded():
        return fold(parts, lambda a, b: delayed(np.add)(a, b)).compute()


@dataclasses.dataclass(frozen=True)
class RowGrams:
    """Grams of the rows themselves and of the increments, with the view row of each increment.

    ``rows`` is (T, T) over all view rows, zero at non-finite ones; ``increments`` is H H^T.
    """

    rows: NDArray[np.float64]
    increments: NDArray[np.float64]
    increment_rows: NDArray[np.int64]


def row_grams(source: RowSource, chains: NDArray[np.int64]) -> RowGrams:
    """H H^T and G G^T of a short run, all rows in memory, float32 products of 1024 columns summed in float64."""
    good = np.zeros(len(source), bool)
    index = []
    for start, stop in chains:
        good[start:stop] = True
        index.append(np.arange(start + 1, stop))
    G = source.read(0, len(source))
    G[~good] = 0
    which = np.concatenate(index)
    grams = np.zeros((len(G), len(G))), np.zeros((len(which), len(which)))
    with single_threaded():
        for low in range(0, source.n, 1024):
            X = np.ascontiguousarray(G[:, low : low + 1024])
            H = X[which] - X[which - 1]
            for gram, block in zip(grams, (X, H), strict=True):
                gram += block @ block.T
    return RowGrams(*grams, which)
