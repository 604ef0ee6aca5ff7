"""Rows that drift under noise, and their kappa by the definition."""

from __future__ import annotations

import numpy as np

from tests.helpers import reference


def smooth(T, groups=2, k=8, noise=1.0, seed=0):
    r = np.random.default_rng(seed)
    X = np.cumsum(r.standard_normal((T, groups, k)), 0) * 0.3 + noise * r.standard_normal((T, groups, k))
    return X.astype(np.float32)


def oracle_kappa(G, chains, name):
    E = sum(np.square(G[a:b]).sum() for a, b in chains)
    if name == "two":
        P = reference.path_length(G, chains, "linear", (0.5, 0.5))
    elif name.startswith("ar"):
        P = reference.path_length(G, chains, "linear", reference.ar_weights(G, chains, 3))
    else:
        P = reference.path_length(G, chains, name)
    return P.sum() / E
