"""The summary of one unbroken block of rows held in memory: the arithmetic of the pass.

Rows X are C-ordered float32 (rows, n). Work goes tile by tile so that a tile and its increments stay in the
cache; sums over at most 32 rows (Grams: see ``grams``) are float32, everything above float64. The column sums are
numpy's, here and in ``ema``, or those of compiled loops, in ``compiled_kernel``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.streaming.ema import Ema, settle
from gradlog.analysis.streaming.epoch_sums import EpochSums
from gradlog.analysis.streaming.grams import Grams
from gradlog.analysis.streaming.recipe import PAIRS, Recipe
from gradlog.analysis.streaming.summary import Summary

SUM = 32
"""Rows of a float32 sum."""

_CACHE = 2**19
"""Floats of a tile: 2 MiB. For Grams it has 512 rows at least: each goes through the whole memory of the Grams."""


WORTH = 2**26
"""Values from which on compiled loops save more than it takes to load them."""


@cache
def compiled() -> Callable[..., None] | None:
    """``add_tile`` by compiled loops; None where numba is missing, broken, or has no place to keep compiled code."""
    if find_spec("numba") is None:
        return None
    try:
        loops: Callable[..., None] = import_module("gradlog.analysis.streaming.compiled_kernel").add_tile
    except Exception:  # of what it imports itself, anything may be raised
        return None
    return loops


def tile_rows(n: int, least: int = 512) -> int:
    """Rows of a tile of n columns."""
    return int(np.clip(_CACHE // n, least, 8192)) // SUM * SUM


class Workspace:
    """Memory that the blocks of a task use one after another, for new pages cost as much as what is done in them."""

    def __init__(self, recipe: Recipe) -> None:
        self.grams, self._betas = Grams(recipe), recipe.betas
        self.products = np.zeros((PAIRS if recipe.betas else 0, recipe.n))
        self._increments = np.empty((0, recipe.n), np.float32)

    def settle(self, sums: dict[str, Float64]) -> None:
        """Add what the products of segments stand for to a summary's sums."""
        if self._betas:
            sums["p0"] += settle(self.products, self._betas)
            self.products[:] = 0

    def increments(self, rows: int) -> Float32:
        """Return room for those of a tile and for one before it, (rows + 1, n); the first two are zeros."""
        if len(self._increments) <= rows:
            self._increments = np.empty((rows + 1, self._increments.shape[1]), np.float32)
        self._increments[:2] = 0
        return self._increments[: rows + 1]


def summarise(
    X: Float32,
    recipe: Recipe,
    within: Summary | None = None,
    work: Workspace | None = None,
    epochs: NDArray[np.int64] | None = None,
) -> Summary:
    """Summary of rows that follow each other without a gap.

    Parameters
    ----------
    X : float32 array (rows, n), C order, finite
    recipe : Recipe
    within : Summary, optional
        The one that will absorb this one: they share the large sums.
    work : Workspace, optional
        Adds up the large sums of several calls; the caller that passes it settles it and its Grams in the end.
    epochs : int64 (rows,), optional
        Number of each row's epoch.

    Returns
    -------
    Summary
        Without history before the first row: that is what merging adds.
    """
    summary = Summary(recipe, within)
    if len(X) == 0:
        return summary
    q = recipe.history
    summary.head, summary.tail = X[:q].copy(), X[-q:].copy()
    path = np.zeros(len(X), np.float32)
    own = work or Workspace(recipe)
    ema = Ema(recipe, len(X), own.products)
    loops = compiled() if recipe.kernel == "numba" else None
    add = loops or add_tile
    summary.kernels = frozenset(["numba" if loops else "numpy"] if recipe.columns else [])
    grams, rows, few = own.grams, tile_rows(recipe.n), tile_rows(recipe.n, SUM)
    H = own.increments(min(rows, len(X)))
    for start in range(0, len(X), rows):
        stop = min(start + rows, len(X))
        h = H[: stop - start + 1]
        if recipe.columns:
            for low in range(start, stop, few):
                high = min(low + few, stop)
                add(X, low, high, h[low - start : high - start + 1], summary, ema, path)
        else:
            _differences(X, start, stop, h)
        grams.add(X[start:stop], h[1:], summary.sums)
        H[0] = h[-1]
    if work is None:
        grams.settle(summary.sums)
    _count(summary, len(X))
    ema.finish(summary)
    if epochs is not None:
        summary.epochs = EpochSums.of(X, epochs)
    if work is None:
        own.settle(summary.sums)
    if recipe.columns:
        summary.path = path[1:]
    return summary


def _differences(X: Float32, start: int, stop: int, h: Float32) -> None:
    """Increments of rows [start, stop) into h[1:], nothing for row 0."""
    first = max(start, 1)
    np.subtract(X[first:stop], X[first - 1 : stop - 1], out=h[1 + first - start :])


def add_tile(X: Float32, start: int, stop: int, h: Float32, summary: Summary, ema: Ema, path: Float32) -> None:
    """Leave the increments of rows [start, stop) in h[1:] and add every column sum and EMA to the summary.

    ``path`` (rows,) receives the squared norm of each increment.

    h[0] holds the increment before, h[1] zeros where there is none. Row 0 of a block has no increment, rows 0 and 1
    no second difference, until a merge adds them.
    """
    s, x = summary.sums, X[start:stop]
    _differences(X, start, stop, h)
    s["energy"] += squares(x, x)
    s["total"] += sums(x)
    increment = squares(h[1:], h[1:])
    s["increment"] += increment
    s["last"] += increment
    path[start:stop] = np.einsum("tn,tn->t", h[1:], h[1:])
    skip = max(2 - start, 0)
    if skip < stop - start:
        second = h[1 + skip :] - h[skip:-1]
        s["trend"] += squares(second, second)
    for lag in range(1, summary.recipe.lags + 1):
        low = max(start, lag)
        if low < stop:
            s["lag"][lag - 1] += squares(X[low:stop], X[low - lag : stop - lag])
    ema.advance(h[1:], start)


def _count(summary: Summary, rows: int) -> None:
    s = summary.sums
    s["rows"] += rows
    s["pairs"] += rows - 1
    s["lag_pairs"] += np.maximum(rows - np.arange(1, summary.recipe.lags + 1), 0)


def squares(a: Float32, b: Float32) -> Float64:
    """Column sums of a * b, float32 over at most 32 rows, then float64."""
    whole = len(a) // SUM * SUM
    shape = (-1, SUM, a.shape[1])
    out: Float64 = np.einsum("stn,stn->sn", a[:whole].reshape(shape), b[:whole].reshape(shape)).sum(0, dtype=np.float64)
    if whole < len(a):
        out += np.einsum("tn,tn->n", a[whole:], b[whole:])
    return out


def sums(a: Float32) -> Float64:
    """Column sums, float32 over at most 32 rows, then float64."""
    whole = len(a) // SUM * SUM
    out: Float64 = a[:whole].reshape(-1, SUM, a.shape[1]).sum(1).sum(0, dtype=np.float64)
    out += a[whole:].sum(0, dtype=np.float64)
    return out
