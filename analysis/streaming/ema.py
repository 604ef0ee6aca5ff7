"""Path lengths of many exponential moving averages at once, in numpy.

The errors r_t = h_t + beta r_{t-1} of a segment of S increments are e_t + beta^{t+1} r, with r the error before it
and e_t those from r = 0. So their squares sum to Q + 2 v r + c r^2, where v is linear in the increments and Q is a
quadratic form in them. Summed over segments, Q needs the products h_j h_l of every column once, whatever the number
of betas. For v and for the error that a segment leaves, one small product each with the powers of beta is enough.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.streaming.recipe import PAIRS, Recipe, S
from gradlog.analysis.streaming.summary import Summary

SUM, VALUES = 32, 2**20
"""Most segments of a float32 sum, and most values that their linear parts may hold."""

NEGLIGIBLE = 1e-14
"""Power of beta at which the open end is forgotten."""


class Ema:
    """Errors of all betas over one block of rows, its first error taken as 0 (the open end rho).

    ``u`` sums beta^{t+1} r_t, which is beta v. ``shared`` (pairs, n) adds up products of segments.
    """

    def __init__(self, recipe: Recipe, rows: int, shared: Float64) -> None:
        self.rows, self.n = rows, recipe.n
        self.betas = np.asarray(recipe.betas, np.float64)
        shape = (len(self.betas), self.n)
        self.r = np.zeros(shape, np.float32)
        self.p0, self.u = np.zeros(shape), np.zeros(shape)
        self._segment = _weights(tuple(self.betas))
        self._shared, self._products = shared, np.zeros((0, self.n))

    def advance(self, h: Float32, start: int) -> None:
        """Take the increments of rows start, start + 1, ... of the block."""
        if not len(self.betas):
            return
        if not len(self._products):
            self._products = np.zeros((PAIRS, self.n))
        whole = len(h) // S * S
        cube = h[:whole].reshape(-1, S, self.n)
        step = segments_at_once(len(self.betas), self.n)
        for first in range(0, len(cube), step):
            self._add(cube[first : first + step], start + first * S)
        for t, row in enumerate(h[whole:], start + whole):
            self.r = row + self.betas.astype(np.float32)[:, None] * self.r
            self.p0 += np.square(self.r)
            self.u += self.betas[:, None] ** (t + 1) * self.r

    def finish(self, summary: Summary) -> None:
        """Leave the open ends in the summary; what belongs to the products, ``settle`` adds."""
        b = self.betas[:, None]
        summary.sums["p0"] += self.p0
        if len(self._products):
            self._shared += self._products
            if "segments" in summary.sums:
                summary.sums["segments"] += summary.recipe.fold(self._products, by_group=True)
        summary.v = np.divide(self.u, b, out=np.zeros_like(self.u), where=b > 0)
        summary.r = self.r.astype(np.float64)
        summary.c = (1 - b ** (2 * self.rows)) / (1 - b * b)
        summary.d = b ** (self.rows - 1)

    def _add(self, cube: Float32, start: int) -> None:
        w, B = self._segment, len(self.betas)
        self._products += np.concatenate([np.einsum("sjn,sjn->jn", cube[:, : S - a], cube[:, a:]) for a in range(S)])
        linear = np.matmul(w.linear, cube)
        before = np.empty((len(cube), B, self.n), np.float32)
        for s, left in enumerate(linear[:, :B]):
            before[s] = self.r
            np.multiply(self.r, w.power, out=self.r)
            np.add(self.r, left, out=self.r)
        v = linear[:, B:]
        self.p0 += 2 * np.einsum("sbn,sbn->bn", before, v)
        self.p0 += w.c * np.einsum("sbn,sbn->bn", before, before)
        decay = (self.betas ** (start + S * np.arange(len(cube))[:, None])).astype(np.float32)
        first = int(np.argmax(np.append(decay[0] > NEGLIGIBLE, True)))  # betas ascend: these are the slow ones
        if first < B:
            product = partial(np.einsum, "sb,sbn->bn", decay[:, first:])
            self.u[first:] += product(v[:, first:]) + w.c[first:] * product(before[:, first:])


def settle(products: Float64, betas: tuple[float, ...]) -> Float64:
    """Squared errors (B, ...) that products of segments (pairs, ...) stand for."""
    return np.asarray(_weights(betas).square @ products)


def segments_at_once(betas: int, n: int) -> int:
    """Segments whose linear parts are held together."""
    return max(1, min(SUM, VALUES // max(2 * betas * n, 1)))


class _Segment:
    """Weights of a segment: ``linear`` (2B, S) gives the error left and v; ``square`` those of Q, lag by lag."""

    def __init__(self, betas: Float64) -> None:
        b, j = betas[:, None], np.arange(S)
        rest = (1 - b ** (2 * (S - j))) / (1 - b * b)  # (B, S): sum of b^{2i} over the rows i >= 0 that follow j
        self.linear = np.concatenate([b ** (S - 1 - j), b ** (j + 1) * rest]).astype(np.float32)
        self.square = np.concatenate([(2.0 if a else 1.0) * b**a * rest[:, a:] for a in range(S)], axis=1)
        self.c = b * b * rest[:, :1]
        self.power = (b**S).astype(np.float32)


@lru_cache(maxsize=8)
def _weights(betas: tuple[float, ...]) -> _Segment:
    return _Segment(np.array(betas))


NODES, LONGEST = 28, 1024.0
"""EMAs measured for best-ema, and the longest averaging length 1 / (1 - beta) that it considers."""


def chebyshev_points(nodes: int) -> Float64:
    """Chebyshev points from 1 to -1."""
    return np.asarray(np.cos(np.pi * np.arange(nodes) / (nodes - 1)))


BETA_NODES = tuple((1 - LONGEST ** ((chebyshev_points(NODES) - 1) / 2)).tolist())
"""Their betas: Chebyshev points in log(1 - beta), from 0 to 1 - 1 / LONGEST."""


COARSE_NODES = BETA_NODES[::3]
"""Ten of them, Chebyshev points too: for sums of which a hundredth matters little."""
