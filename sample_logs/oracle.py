"""Exact answers for the shipped runs, from their full gradients: slow, float64, sharing no code with gradlog.

Rows are steps: G is (T, d) with the gradients as the optimizer saw them. Every sum is written as it is defined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]

PREDICTORS = ("zero", "last", "ema(0.9)", "ema(0.99)", "trend")
EPS = (0.1, 0.05, 0.01)


def truth(G: Matrix) -> dict[str, Any]:
    """Energy, path lengths, noise baseline and increment spectrum of one run."""
    energy = sum(float(g @ g) for g in rows(G))
    path = {name: path_length(G, name) for name in PREDICTORS}
    total = sum(rows(G), np.zeros(G.shape[1]))
    c = (float(total @ total) - energy) / ((len(G) - 1) * energy)
    power = spectrum(G) ** 2
    share = power / power.sum()
    share = share[share > 0]
    return {
        "steps": len(G),
        "dimension": G.shape[1],
        "energy": energy,
        "path_length": path,
        "kappa": {name: value / energy for name, value in path.items()},
        "c": c,
        "null": {name: null(name, c, len(G)) for name in PREDICTORS},
        "increment_energy": float(power.sum()),
        "singular_values": np.sqrt(power[:64]).tolist(),
        "rank": {str(eps): rank(power, eps) for eps in EPS},
        "rank_measures": {
            "stable": float(power.sum() / power[0]),
            "participation": float(power.sum() ** 2 / np.sum(power**2)),
            "entropy": float(np.exp(-np.sum(share * np.log(share)))),
        },
    }


def rows(G: Matrix) -> Iterator[NDArray[np.float64]]:
    """One gradient after the other, in float64."""
    for g in G:
        yield g.astype(np.float64)


def path_length(G: Matrix, name: str) -> float:
    """P = sum_t ||g_t - m_t||^2, where m_t knows g_0 .. g_{t-1} only."""
    beta = float(name[4:-1]) if name.startswith("ema") else 0.0
    m = np.zeros(G.shape[1])
    before: NDArray[np.float64] | None = None
    length = 0.0
    for g in rows(G):
        length += float((g - m) @ (g - m))
        if name.startswith("ema"):
            m = beta * m + (1 - beta) * g
        elif name == "last":
            m = g
        elif name == "trend":
            m = g if before is None else 2 * g - before
        before = g
    return length


def null(name: str, c: float, steps: int) -> float:
    """Mean kappa of the same gradients in random order: the average over t of E||g_t - m_t||^2 / E||g||^2."""
    total = 0.0
    for t in range(steps):
        w = weights(name, t)
        total += 1 - 2 * c * w.sum() + c * w.sum() ** 2 + (1 - c) * (w @ w)
    return float(total / steps)


def weights(name: str, t: int) -> NDArray[np.float64]:
    """Weights of g_{t-1}, g_{t-2}, .. in m_t."""
    if name == "zero" or t == 0:
        return np.zeros(1)
    if name == "last" or (name == "trend" and t == 1):
        return np.ones(1)
    if name == "trend":
        return np.array([2.0, -1.0])
    beta = float(name[4:-1])
    return (1 - beta) * beta ** np.arange(t, dtype=np.float64)


def spectrum(G: Matrix, columns: int = 8192) -> NDArray[np.float64]:
    """Singular values of the increments, descending, from their (T-1, T-1) row Gram."""
    gram = np.zeros((len(G) - 1, len(G) - 1))
    for start in range(0, G.shape[1], columns):
        H = np.diff(G[:, start : start + columns].astype(np.float64), axis=0)
        gram += H @ H.T
    return np.sqrt(np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None))


def rank(power: NDArray[np.float64], eps: float) -> int:
    """Smallest r with sum_{i>r} sigma_i^2 <= eps sum_i sigma_i^2."""
    for r in range(len(power) + 1):
        if power[r:].sum() <= eps * power.sum():
            return r
    raise AssertionError("unreachable: the empty tail is zero")
