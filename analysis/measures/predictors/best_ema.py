"""The exponential moving average of the least path length, its beta fitted in hindsight."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import ClassVar

import numpy as np

from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.predictors.base import Evidence, Fitted
from gradlog.analysis.measures.predictors.registry import register_predictor
from gradlog.analysis.streaming.ema import BETA_NODES, COARSE_NODES, LONGEST, chebyshev_points

_GRID = np.linspace(1, -1, 351)
BETAS = 1 - LONGEST ** ((_GRID - 1) / 2)
"""Points between them, where the least path length is looked for, and their betas."""


@register_predictor("best-ema", shown_in=("analyze",), place=5, hindsight=True, fits_beta=True)
@dataclasses.dataclass(frozen=True)
class BestEMA:
    """ema(beta) of the least path length on these rows, beta anywhere in [0, 1 - 1 / LONGEST].

    As a function of y = log(1 - beta) the path length is sum_w S(w) |1 - e^{iw}|^2 / |1 - beta e^{iw}|^2, analytic in
    the strip |Im y| < pi / 2 whatever the gradients. So the polynomial through 28 Chebyshev points is within
    2e-5 of the energy of it, and far nearer for noise (Trefethen 2013, theorem 8.2); beta* is the
    vertex of a parabola through the lowest of 351 points. Evidence without all of them has ``COARSE_NODES``.
    """

    name: ClassVar[str] = "best-ema"
    betas: ClassVar[tuple[float, ...]] = BETA_NODES
    lags: ClassVar[int] = 0

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        nodes = BETA_NODES if set(BETA_NODES) <= set(evidence.betas) else COARSE_NODES
        paths = np.stack([evidence.ema(b) for b in nodes])
        beta = _best_beta(paths.sum(axis=-1))
        there = _weights_at(np.array([1 + 2 * np.log1p(-beta) / np.log(LONGEST)]), len(nodes))[0]
        return Fitted(np.maximum(there @ paths, 0.0), np.empty(0), beta, hindsight=True)


@cache
def _on_grid(nodes: int) -> Float64:
    return _weights_at(_GRID, nodes)


def _weights_at(x: Float64, nodes: int) -> Float64:
    """Barycentric weights (points, nodes) that give path lengths at x = 1 + 2 log(1 - beta) / log(LONGEST)."""
    scale = np.where(np.arange(nodes) % 2, -1.0, 1.0)
    scale[[0, -1]] /= 2
    away = x[:, None] - chebyshev_points(nodes)
    hit = np.asarray(np.abs(away) < 1e-12)
    weights = scale / np.where(hit, 1.0, away)
    weights = np.where(hit.any(axis=1, keepdims=True), hit, weights)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _best_beta(paths: Float64) -> float:
    """Beta of least path length from those at the nodes: a parabola through the lowest three."""
    curve = _on_grid(len(paths)) @ paths
    i = int(np.clip(np.argmin(curve), 1, len(_GRID) - 2))
    left, middle, right = curve[i - 1 : i + 2]
    bend = left - 2 * middle + right
    shift = np.clip((left - right) / (2 * bend), -1, 1) if bend > 0 else 0.0
    return max(float(1 - LONGEST ** ((_GRID[i] + shift * (_GRID[1] - _GRID[0]) - 1) / 2)), 0.0)
