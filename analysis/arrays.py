"""Rows of a run as dask arrays, and sums over their blocks; of short runs, the Grams of all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.blas import single_threaded
from gradlog.analysis.blocks import block_rows, fold
from gradlog.analysis.rows import RowSource


def sketch_array(source: RowSource) -> Any:
    """Rows as a dask array (step, group, k)."""
    import dask.array as da
    from dask import delayed

    rows = block_rows(source)
    parts = []
    for start in range(0, len(source), rows):
        stop = min(start + rows, len(source))
        read = delayed(_read_cube, pure=True)(source, start, stop)
        parts.append(da.from_delayed(read, (stop - start, source.groups, source.k), np.float32))
    return da.concatenate(parts)


def increments_array(source: RowSource, chains: NDArray[np.int64]) -> Any:
    """Increments within chains as a dask array (rows, n)."""
    import dask.array as da
    from dask import delayed

    follows = np.zeros(len(source), bool)
    for start, stop in chains:
        follows[start + 1 : stop] = True
    rows = block_rows(source)
    parts = []
    for start in range(0, len(source), rows):
        mask = follows[start : start + rows]
        count = int(np.count_nonzero(mask))
        if count:
            read = delayed(_read_increments, pure=True)(source, start, mask)
            parts.append(da.from_delayed(read, (count, source.n), np.float32))
    return da.concatenate(parts) if parts else da.zeros((0, source.n), dtype=np.float32)


def _read_cube(source: RowSource, start: int, stop: int) -> NDArray[np.float32]:
    return source.read(start, stop).reshape(stop - start, source.groups, source.k)


def _read_increments(source: RowSource, start: int, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    low = max(start - 1, 0)  # the halo row
    rows = np.diff(source.read(low, start + len(mask)), axis=0)
    return rows[mask if start else mask[1:]]


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
