"""Slow, obvious oracles: float64 loops that read like the definitions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]

# --- predictors, path lengths, rank ------------------------------------------------------------------------


def errors(G: Rows, name: str, weights: Sequence[float] = ()) -> Rows:
    """g_t - m_t of one unbroken chain of rows, by the definition of the predictor ``name``."""
    m = np.zeros_like(G)
    for t in range(1, len(G)):
        if name == "last":
            m[t] = G[t - 1]
        elif name.startswith("ema("):
            beta = float(name[4:-1])
            m[t] = beta * m[t - 1] + (1 - beta) * G[t - 1]
        elif name == "trend":
            m[t] = 2 * G[t - 1] - G[t - 2] if t >= 2 else G[0]
        elif name == "linear":
            for j, w in enumerate(weights, start=1):
                if t - j >= 0:
                    m[t] += w * G[t - j]
    return G - m


def chains_of(steps: Sequence[int], finite: Sequence[bool], every: int = 1) -> list[tuple[int, int]]:
    """Row ranges without gap and without non-finite rows."""
    chains: list[tuple[int, int]] = []
    for t in range(len(steps)):
        if not finite[t]:
            continue
        if chains and chains[-1][1] == t and steps[t] - steps[t - 1] == every:
            chains[-1] = (chains[-1][0], t + 1)
        else:
            chains.append((t, t + 1))
    return chains


def path_length(G: Rows, chains: Sequence[tuple[int, int]], name: str, weights: Sequence[float] = ()) -> Rows:
    """Sum of squared errors, per column, over all chains."""
    return sum((np.square(errors(G[a:b], name, weights)).sum(0) for a, b in chains), np.zeros(G.shape[1]))


def ar_weights(G: Rows, chains: Sequence[tuple[int, int]], p: int) -> Rows:
    """Least-squares weights on p lags, missing history = 0."""
    rows, targets = [], []
    for a, b in chains:
        for t in range(a, b):
            rows.append(np.stack([G[t - j] if t - j >= a else np.zeros(G.shape[1]) for j in range(1, p + 1)], 1))
            targets.append(G[t])
    w: Rows = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]
    return w


def increments(G: Rows, chains: Sequence[tuple[int, int]]) -> Rows:
    """All g_t - g_{t-1} within chains, as rows."""
    return np.concatenate([np.diff(G[a:b], axis=0) for a, b in chains])


def rank_at(H: Rows, eps: float) -> int:
    """Smallest r whose tail of squared singular values is at most eps of the energy."""
    energies = np.linalg.svd(H, compute_uv=False) ** 2
    r = 0
    while energies[r:].sum() > eps * energies.sum():
        r += 1
    return r


def fewest_for(parts: Rows, share: float) -> int:
    """Fewest of the parts whose sum reaches a share of all."""
    taken = 0.0
    for count, part in enumerate(sorted(parts, reverse=True), start=1):
        taken += part
        if taken >= share * parts.sum():
            return count
    return 0


def shuffled_kappa(G: Rows, error: Callable[[Rows], Rows], draws: int, seed: int = 0) -> float:
    """Mean kappa of a predictor over random orders of the rows."""
    rng = np.random.default_rng(seed)
    values = [np.square(error(G[rng.permutation(len(G))])).sum() / np.square(G).sum() for _ in range(draws)]
    return math.fsum(values) / draws


def shuffled_gram(G: Rows, draws: int, seed: int = 0) -> Any:
    """Mean Gram of the increments over random orders of the rows."""
    rng = np.random.default_rng(seed)
    total = np.zeros((G.shape[1], G.shape[1]))
    for _ in range(draws):
        H = np.diff(G[rng.permutation(len(G))], axis=0)
        total += H.T @ H
    return total / draws


def shuffled_ranks(G: Rows, lengths: Any, eps: Sequence[float], draws: int, seed: int = 0) -> Rows:
    """r*(eps) of the increments within chains of these lengths, for random orders of the rows (draws, eps)."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(lengths)
    chains = list(zip(ends - lengths, ends, strict=True))
    found = []
    for _ in range(draws):
        energies = np.linalg.svd(increments(G[rng.permutation(len(G))], chains), compute_uv=False) ** 2
        tails = energies.sum() - np.cumsum(energies)
        found.append([1 + np.count_nonzero(tails > e * energies.sum()) for e in eps])
    return np.array(found, float)


def fold_hash_matrix(spec, name, size, begins=None):
    """The dense S (k, size) of tensor ``name``, which may begin at a place, one entry at a time by its definition."""
    k, m = spec.k, spec.m
    base = f"{spec.kind}|seed={spec.seed}|m={m}"

    def words(key, n):
        stream = hashlib.shake_256(key.encode()).digest(8 * n)
        return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(n)]

    def sign(word):
        return -1.0 if word % 2 else 1.0

    t = [sign(u) for u in words(f"{base}|t", m)]
    entry = words(f"{base}|k={k}", m)
    block = (lambda i: i // k) if spec.kind == "fold-hash/2" else (lambda i: 0)
    place = {i: rank for rank, i in enumerate(sorted(range(m), key=lambda i: (block(i), entry[i] // 2)))}
    rows = words(f"{base}|tensor={name}", size // m + 1)
    S = np.zeros((k, size))
    for j in range(size):
        q, i = divmod(j, m)
        e = (i + ((rows[q] // 2) % m if q or begins is None else begins)) % m
        S[place[e] % k, j] = sign(rows[q]) * t[i] * sign(entry[e])
    return S
