"""The column sums of a tile as loops over rows, for numba. Imported by ``fast`` alone.

Sums run over at most 32 rows in float32 and over strips of columns whose sums fit a level-1 cache. Four rows at a time
stay in registers. Rows are cut as ``X[t][left:right]``, from which numba knows that they are contiguous.
"""

from __future__ import annotations

import numba
import numpy as np

from gradlog.analysis.common.types import Float32, Float64

SUM, STRIP = 32, 256

# numba does not annotate its decorators: hence the ignored types below
_jit = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})


@_jit  # type: ignore[untyped-decorator]
def differences(X: Float32, first: int, last: int, start: int, left: int, right: int, h: Float32) -> None:
    """Increments of rows [first, last) into h, whose row 1 belongs to ``start``."""
    for t in range(max(first, 1), last):
        x, y, d = X[t][left:right], X[t - 1][left:right], h[t - start + 1][left:right]
        for j in range(right - left):
            d[j] = x[j] - y[j]


@_jit  # type: ignore[untyped-decorator]
def products(A: Float32, B: Float32, a: int, b: int, rows: int, left: int, right: int, out: Float32) -> None:
    """Add the column sums of A_{a+t} B_{b+t}, t < rows, to out."""
    n, whole = right - left, rows // 4 * 4
    for t in range(0, whole, 4):
        a0, a1 = A[a + t][left:right], A[a + t + 1][left:right]
        a2, a3 = A[a + t + 2][left:right], A[a + t + 3][left:right]
        b0, b1 = B[b + t][left:right], B[b + t + 1][left:right]
        b2, b3 = B[b + t + 2][left:right], B[b + t + 3][left:right]
        for j in range(n):
            out[j] += a0[j] * b0[j] + a1[j] * b1[j] + a2[j] * b2[j] + a3[j] * b3[j]
    for t in range(whole, rows):
        a0, b0 = A[a + t][left:right], B[b + t][left:right]
        for j in range(n):
            out[j] += a0[j] * b0[j]


@_jit  # type: ignore[untyped-decorator]
def energies(
    X: Float32, h: Float32, first: int, last: int, start: int, left: int, right: int, sums: Float32, path: Float32
) -> None:
    """Add sums of g, of g^2, of h^2 and of second differences squared to sums[:4], and each row's h^2 to path."""
    n = right - left
    g, energy, increment, trend = sums[0], sums[1], sums[2], sums[3]
    for t in range(first, last):
        x, d, e = X[t][left:right], h[t - start + 1][left:right], h[t - start][left:right]
        square, second = np.float32(0), np.float32(t >= 2)
        for j in range(n):
            g[j] += x[j]
            energy[j] += x[j] * x[j]
            increment[j] += d[j] * d[j]
            square += d[j] * d[j]
            trend[j] += second * (d[j] - e[j]) * (d[j] - e[j])
        path[t] += square


@_jit  # type: ignore[untyped-decorator]
def errors(h: Float32, beta: np.float32, a: int, b: int, r: Float32, left: int, squares: Float32) -> None:
    """Run r = h + beta r over rows [a, b) of h and add the column sums of r^2 to squares."""
    n, whole = len(r), a + (b - a) // 4 * 4
    right = left + n
    for t in range(a, whole, 4):
        h0, h1, h2, h3 = h[t][left:right], h[t + 1][left:right], h[t + 2][left:right], h[t + 3][left:right]
        for j in range(n):
            r0 = h0[j] + beta * r[j]
            r1 = h1[j] + beta * r0
            r2 = h2[j] + beta * r1
            r3 = h3[j] + beta * r2
            squares[j] += r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3
            r[j] = r3
    for t in range(whole, b):
        d = h[t][left:right]
        for j in range(n):
            r[j] = d[j] + beta * r[j]
            squares[j] += r[j] * r[j]


@_jit  # type: ignore[untyped-decorator]
def open_errors(
    h: Float32,
    beta: np.float32,
    power: np.float32,
    a: int,
    b: int,
    r: Float32,
    left: int,
    squares: Float32,
    out: Float32,
) -> None:
    """Do what ``errors`` does, and add the sums of beta^t r_t to out, where beta^t is power at row a."""
    n, whole = len(r), a + (b - a) // 4 * 4
    right = left + n
    for t in range(a, whole, 4):
        h0, h1, h2, h3 = h[t][left:right], h[t + 1][left:right], h[t + 2][left:right], h[t + 3][left:right]
        w1 = power * beta
        w2 = w1 * beta
        w3 = w2 * beta
        for j in range(n):
            r0 = h0[j] + beta * r[j]
            r1 = h1[j] + beta * r0
            r2 = h2[j] + beta * r1
            r3 = h3[j] + beta * r2
            squares[j] += r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3
            out[j] += power * r0 + w1 * r1 + w2 * r2 + w3 * r3
            r[j] = r3
        power = w3 * beta
    for t in range(whole, b):
        d = h[t][left:right]
        for j in range(n):
            r[j] = d[j] + beta * r[j]
            squares[j] += r[j] * r[j]
            out[j] += power * r[j]
        power = power * beta


@_jit  # type: ignore[untyped-decorator]
def tile(
    X: Float32,
    start: int,
    stop: int,
    h: Float32,
    betas: Float32,
    powers: Float64,
    r: Float32,
    sums: Float64,
    path: Float32,
) -> None:
    """Rows [start, stop) of X: increments into h[1:], column sums into sums (4 + lags + 2 betas, n).

    ``powers`` (segments, betas) holds beta^{t+1} of the first row of every 32, 0 where that is negligible.
    """
    width, B = X.shape[1], len(betas)
    lags = sums.shape[0] - 4 - 2 * B
    part = np.empty((len(sums), min(STRIP, width)), np.float32)
    for left in range(0, width, STRIP):
        right = min(left + STRIP, width)
        for first in range(start, stop, SUM):
            last = min(first + SUM, stop)
            part[:] = 0
            differences(X, first, last, start, left, right, h)
            energies(X, h, first, last, start, left, right, part, path)
            for a in range(1, min(lags, last - 1) + 1):
                low = max(first, a)
                products(X, X, low, low - a, last - low, left, right, part[3 + a])
            low, high = first - start + 1, last - start + 1
            for i in range(B):
                error, row, power = r[i][left:right], 4 + lags + i, np.float32(powers[(first - start) // SUM, i])
                if power > 0:
                    open_errors(h, betas[i], power, low, high, error, left, part[row], part[row + B])
                else:
                    errors(h, betas[i], low, high, error, left, part[row])
            sums[:, left:right] += part[:, : right - left]
