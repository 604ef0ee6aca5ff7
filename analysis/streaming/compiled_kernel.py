"""``kernel.add_tile`` as compiled loops, where the optional extra ``fast`` (numba) is installed.

The same sums by the plain recursions: float32 over 32 rows, float64 above. Strips of columns keep the sums in a level-1
cache, and four rows at a time stay in registers. Rows are cut as ``X[t][left:right]``, from which numba knows that they
are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.streaming.ema import NEGLIGIBLE, Ema
from gradlog.analysis.streaming.summary import Summary

SUM, STRIP = 32, 256
Loop = TypeVar("Loop", bound=Callable[..., None])

_jit: Callable[[Loop], Loop] = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})


def add_tile(X: Float32, start: int, stop: int, h: Float32, summary: Summary, ema: Ema, path: Float32) -> None:
    """Do what ``kernel.add_tile`` does."""
    s = summary.sums
    powers = ema.betas ** np.arange(start + 1, stop + 1, SUM)[:, None]  # beta^{t+1} of the first row of every 32
    powers[powers < NEGLIGIBLE] = 0
    before = s["increment"].copy()
    _sums(X, start, stop, h, s["total"], s["energy"], s["increment"], s["trend"], s["lag"], path)
    s["last"] += s["increment"] - before
    _emas(h, stop - start, ema.betas.astype(np.float32), powers.astype(np.float32), ema.r, ema.p0, ema.u)


@_jit
def _sums(
    X: Float32, start: int, stop: int, h: Float32, total: Float64, energy: Float64, increment: Float64, trend: Float64,
    lag: Float64, path: Float32,
) -> None:  # fmt: skip
    """Increments of rows [start, stop) of X into h[1:], and the column sums of these rows."""
    for left in range(0, X.shape[1], STRIP):
        right = min(left + STRIP, X.shape[1])
        part = np.empty((4, right - left), np.float32)
        g, g2, h2, second2 = part[0], part[1], part[2], part[3]
        for first in range(start, stop, SUM):
            last = min(first + SUM, stop)
            part[:] = 0
            for t in range(first, last):
                x, d, e = X[t][left:right], h[t - start + 1][left:right], h[t - start][left:right]
                y = X[max(t - 1, 0)][left:right]
                square, known = np.float32(0), np.float32(t >= 2)
                for j in range(right - left):
                    d[j] = x[j] - y[j]
                    g[j] += x[j]
                    g2[j] += x[j] * x[j]
                    h2[j] += d[j] * d[j]
                    square += d[j] * d[j]
                    second2[j] += known * (d[j] - e[j]) * (d[j] - e[j])
                path[t] += square
            total[left:right] += g
            energy[left:right] += g2
            increment[left:right] += h2
            trend[left:right] += second2
            for a in range(1, min(len(lag), last - 1) + 1):
                g[:] = 0
                for t in range(max(first, a), last):
                    x, y = X[t][left:right], X[t - a][left:right]
                    for j in range(right - left):
                        g[j] += x[j] * y[j]
                lag[a - 1, left:right] += g


@_jit
def _emas(h: Float32, rows: int, betas: Float32, powers: Float32, r: Float32, p0: Float64, u: Float64) -> None:
    """Run r = h + beta r over rows h[1:], and add the column sums of r^2 to p0 and of beta^{t+1} r to u."""
    for left in range(0, h.shape[1], STRIP):
        right = min(left + STRIP, h.shape[1])
        part = np.empty((2, right - left), np.float32)
        squares, weighted = part[0], part[1]  # unpacked, numba would not know that they are contiguous
        for a in range(0, rows, SUM):
            b = min(a + SUM, rows)
            for i in range(len(betas)):
                part[:] = 0
                _errors(h, a + 1, b + 1, betas[i], powers[a // SUM, i], left, r[i][left:right], squares, weighted)
                p0[i, left:right] += squares
                u[i, left:right] += weighted


@_jit
def _errors(
    h: Float32, a: int, b: int, beta: np.float32, w: np.float32, left: int, r: Float32, squares: Float32,
    weighted: Float32,
) -> None:  # fmt: skip
    """Do what ``_emas`` does for one beta and rows [a, b) of h; w is beta^{t+1} at row a, 0 if negligible."""
    right, whole = left + len(squares), a + (b - a) // 4 * 4
    for t in range(a, whole, 4):
        h0, h1, h2, h3 = h[t][left:right], h[t + 1][left:right], h[t + 2][left:right], h[t + 3][left:right]
        if w > 0:
            for j in range(len(squares)):
                r0 = h0[j] + beta * r[j]
                r1 = h1[j] + beta * r0
                r2 = h2[j] + beta * r1
                weighted[j] += w * (r0 + beta * (r1 + beta * (r2 + beta * (h3[j] + beta * r2))))
        for j in range(len(squares)):
            r0 = h0[j] + beta * r[j]
            r1 = h1[j] + beta * r0
            r2 = h2[j] + beta * r1
            r3 = h3[j] + beta * r2
            squares[j] += r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3
            r[j] = r3
        w *= beta * beta * beta * beta
    for t in range(whole, b):
        d = h[t][left:right]
        for j in range(len(squares)):
            r[j] = d[j] + beta * r[j]
            squares[j] += r[j] * r[j]
            weighted[j] += w * r[j]
        w *= beta
