"""Do the leading directions persist? Principal angles between the increment subspaces of different windows."""

from __future__ import annotations

import numpy as np

from gradlog.analysis.common.types import Float64
from gradlog.analysis.spectrum.rank import ROUNDING


def overlap(A: Float64, B: Float64) -> float:
    """Mean squared cosine of the principal angles between the column spaces of A and B (orthonormal, (n, r)).

    1 for equal subspaces; r / n expected of random ones (Bjorck and Golub 1973 for the angles).

    Examples
    --------
    >>> overlap(np.eye(4)[:, :2], np.eye(4)[:, 1:3])
    0.5
    """
    return float(np.square(A.T @ B).sum() / min(A.shape[1], B.shape[1]))


def overlaps(bases: list[Float64]) -> Float64:
    """Overlap of every pair of windows, (windows, windows)."""
    return np.array([[overlap(a, b) for b in bases] for a in bases])


def leading(gram: Float64, r: int) -> Float64:
    """Orthonormal leading eigenvectors of a Gram matrix, (n, <= r): those with energy. NaN where none has any."""
    energies, vectors = np.linalg.eigh(gram)
    if not energies[-1] > 0:
        return np.full((len(gram), r), np.nan)
    last = min(r, int(np.count_nonzero(energies > ROUNDING * energies[-1])))
    found: Float64 = vectors[:, ::-1][:, :last]
    return found


def random_overlap(n: int, r: int) -> float:
    """Overlap expected of independent uniformly random r-dimensional subspaces of R^n."""
    return r / n
