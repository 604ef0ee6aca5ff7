"""The summary of one unbroken block of rows held in memory: the arithmetic of the pass, in numpy.

Rows X are C-ordered float32 (rows, n). Work goes tile by tile so that a tile and its increments stay in the
cache; sums over at most 32 rows (Grams: a tile) are float32, everything above float64. The EMA error recursion
r_t = h_t + beta r_{t-1} runs over 32 steps for all segments of a tile at once, once their starts are known: those
come from one small product with the powers of beta.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.summary import Float32, Float64, Recipe, Summary

SEGMENT = 32
"""Steps of an EMA segment and rows of a float32 sum."""

_CACHE = 2**18
"""Floats of a tile: 1 MiB, half of a usual level-2 cache."""


def tile_rows(n: int) -> int:
    """Rows of a tile of n columns."""
    return int(np.clip(_CACHE // n, 256, 8192)) // SEGMENT * SEGMENT


def summarise(X: Float32, recipe: Recipe) -> Summary:
    """Summary of rows that follow each other without a gap.

    Parameters
    ----------
    X : float32 array (rows, n), C order, finite
    recipe : Recipe

    Returns
    -------
    Summary
        Without history before the first row: that is what merging adds.
    """
    summary = Summary(recipe)
    if len(X) == 0:
        return summary
    q = recipe.history
    summary.head, summary.tail = X[:q].copy(), X[-q:].copy()
    ema = Ema(recipe, len(X))
    rows = tile_rows(recipe.n)
    H = np.zeros((min(rows, len(X)) + 1, recipe.n), np.float32)  # a first row of the tile before
    for start in range(0, len(X), rows):
        stop = min(start + rows, len(X))
        h = H[: stop - start + 1]
        _tile(X, start, stop, h, summary)
        ema.advance(h[1:], start)
        H[0] = h[-1]
    summary.sums["rows"] += len(X)
    summary.sums["pairs"] += len(X) - 1
    ema.finish(summary)
    return summary


def _tile(X: Float32, start: int, stop: int, h: Float32, summary: Summary) -> None:
    """Everything but the EMAs for rows [start, stop); leaves their increments in h[1:] (0 for the very first)."""
    s, recipe = summary.sums, summary.recipe
    x = X[start:stop]
    first = max(start, 1)
    np.subtract(X[first:stop], X[first - 1 : stop - 1], out=h[1 + first - start :])
    add_grams(s, "", h[1:], recipe)
    if recipe.scatter:
        add_grams(s, "_rows", x, recipe)
    if not recipe.columns:
        return
    s["energy"] += squares(x, x)
    s["total"] += sums(x)
    increment = squares(h[1:], h[1:])
    s["increment"] += increment
    s["last"] += increment
    skip = max(2 - start, 0)  # rows 0 and 1 have no second difference yet
    if skip < stop - start:
        second = h[1 + skip :] - h[skip:-1]
        s["trend"] += squares(second, second)
    for lag in range(1, recipe.lags + 1):
        low = max(start, lag)
        if low < stop:
            s["lag"][lag - 1] += squares(X[low:stop], X[low - lag : stop - lag])
            s["lag_pairs"][lag - 1] += stop - low


def add_grams(s: dict[str, Float64], suffix: str, h: Float32, recipe: Recipe) -> None:
    """Add the Gram of the rows h in every form the recipe asks for."""
    if recipe.gram == "full":
        s["gram" + suffix] += h.T @ h
    elif recipe.gram == "groups":
        for g in range(recipe.groups):
            block = h[:, g * recipe.k : (g + 1) * recipe.k]
            s["gram" + suffix][g] += block.T @ block
    if recipe.pooled:
        pooled = h.reshape(len(h), recipe.groups, recipe.k).sum(axis=1)
        s["pooled" + suffix] += pooled.T @ pooled
    if recipe.test is not None:
        s["image" + suffix] += h.T @ (h @ recipe.test)


def squares(a: NDArray[Any], b: NDArray[Any]) -> Float64:
    """Column sums of a * b, float32 over at most 32 rows, then float64."""
    whole = len(a) // SEGMENT * SEGMENT
    shape = (-1, SEGMENT, a.shape[1])
    out: Float64 = np.einsum("stn,stn->sn", a[:whole].reshape(shape), b[:whole].reshape(shape)).sum(0, dtype=np.float64)
    if whole < len(a):
        out += np.einsum("tn,tn->n", a[whole:], b[whole:])
    return out


def sums(a: Float32) -> Float64:
    """Column sums, float32 over at most 32 rows, then float64."""
    whole = len(a) // SEGMENT * SEGMENT
    out: Float64 = a[:whole].reshape(-1, SEGMENT, a.shape[1]).sum(1).sum(0, dtype=np.float64)
    out += a[whole:].sum(0, dtype=np.float64)
    return out


class Ema:
    """Error recursions of all betas over one block, its first error taken as 0 (the open end rho)."""

    def __init__(self, recipe: Recipe, rows: int) -> None:
        self.rows, self.n = rows, recipe.n
        self.betas = np.asarray(recipe.betas, np.float64)
        B = len(self.betas)
        self.r = np.zeros((B, self.n), np.float32)
        self.p0, self.v = np.zeros((B, self.n)), np.zeros((B, self.n))
        i = np.arange(SEGMENT)
        self.within = (self.betas[:, None] ** (SEGMENT - 1 - i)).astype(np.float32)  # (B, 32)
        self.beta = self.betas.astype(np.float32)[:, None, None]
        self.across: dict[int, Float32] = {}

    def advance(self, h: Float32, start: int) -> None:
        """Take the increments of rows start, start + 1, ... of the block."""
        if not len(self.betas):
            return
        if self.betas.max() ** start > 1e-20:
            weights = self._weights(start, len(h))
            self.v += weights @ h[: weights.shape[1]]
        segments = len(h) // SEGMENT
        if segments:
            cube = h[: segments * SEGMENT].reshape(segments, SEGMENT, self.n)
            starts = self._starts(cube)
            self.p0 += self._run(starts, cube)
            self.r = starts[:, -1].copy()
        if len(h) % SEGMENT:
            starts = self.r[:, None].copy()
            self.p0 += self._run(starts, h[None, segments * SEGMENT :])
            self.r = starts[:, 0]

    def finish(self, summary: Summary) -> None:
        """Leave the open ends in the summary."""
        b = self.betas[:, None]
        summary.sums["p0"] += self.p0
        summary.v, summary.r = self.v, self.r.astype(np.float64)
        summary.c = np.where(b < 1, (1 - b ** (2 * self.rows)) / (1 - b * b), self.rows)
        summary.d = b ** (self.rows - 1)

    def _weights(self, start: int, rows: int) -> Float32:
        """Return the weights of v = sum_t b^t r_t, linear in the increments.

        Row i of N has weight b^i (1 - b^{2(N-i)}) / (1 - b^2); those below 1e-20 are left out.
        """
        i = np.arange(start, start + rows)
        b = self.betas[:, None]
        weights = b**i * (1 - b ** (2 * (self.rows - i))) / (1 - b * b)
        alive = int(np.count_nonzero(np.any(weights > 1e-20, axis=0)))
        return weights[:, :alive].astype(np.float32)

    def _starts(self, cube: Float32) -> Float32:
        """Errors just before each segment, (B, segments, n)."""
        S = len(cube)
        ends = np.empty((len(self.betas), S, self.n), np.float32)
        ends[:, 0] = self.r
        if S > 1:
            np.matmul(self.within, cube[:-1], out=ends[:, 1:].transpose(1, 0, 2))
        starts: Float32 = np.matmul(self._across(S), ends)
        return starts

    def _across(self, S: int) -> Float32:
        if S not in self.across:
            lag = np.arange(S)[:, None] - np.arange(S)
            powers = np.where(lag >= 0, self.betas[:, None, None] ** (SEGMENT * np.maximum(lag, 0)), 0.0)
            self.across[S] = powers.astype(np.float32)
        return self.across[S]

    def _run(self, r: Float32, cube: Float32) -> Float64:
        """Sum of squared errors of each beta, (B, n); r becomes the last error of every segment."""
        total, square = np.zeros_like(r), np.empty_like(r)
        for step in range(cube.shape[1]):
            np.multiply(r, self.beta, out=r)
            np.add(r, cube[:, step], out=r)
            np.multiply(r, r, out=square)
            np.add(total, square, out=total)
        return np.asarray(total.sum(axis=1, dtype=np.float64))
