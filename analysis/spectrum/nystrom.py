"""Randomized SVD out of core: a block-Krylov Nystrom approximation that knows how good it is.

One pass over the rows of H applies A = H^T H to a block of vectors. From a test basis X and its image Y = A X, the
Nystrom approximation Y (X^T Y)^+ Y^T never exceeds A, so its eigenvalues bound the sigma_i^2 from below; with
||H||_F^2 known exactly the unseen energy bounds them from above (``rank.rank_interval``). The first pass uses a
random block Omega (Tropp, Yurtsever, Udell and Cevher 2017); each further pass adds the orthonormalised image of
the last, which spans a block Krylov space (Musco and Musco 2015). Data float32, sums and factorisations float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.linalg import solve_triangular

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.spectrum.rank import ROUNDING, Spectrum, rank_interval

Apply = Callable[[Float32], Float64]
"""V -> (H^T H) V, by a pass over the rows."""


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """Leading right singular vectors of H and what is certain about its spectrum.

    Attributes
    ----------
    components : float64 (n, r)
        Orthonormal columns, in order of explained variance (H's right singular vectors).
    spectrum : Spectrum
        Lower bounds of sigma_i^2.
    passes : int
        Passes over the rows.
    """

    components: Float64
    spectrum: Spectrum
    passes: int


def test_matrix(n: int, block: int, seed: int) -> Float32:
    """Orthonormal random test block (n, min(block, n))."""
    draws = np.random.default_rng(seed).standard_normal((n, min(block, n)))
    basis: Float32 = np.linalg.qr(draws)[0].astype(np.float32)
    return basis


def refine(
    apply: Apply,
    omega: Float32,
    image: Float64,
    energy: float,
    passes: int,
    eps: tuple[float, ...] = (),
    *,
    rows: int,
    leading: Float64 | None = None,
) -> Decomposition:
    """Continue from a first pass ``image = A omega`` until every r*(eps) is certain, or ``passes`` are spent.

    ``leading`` are further lower bounds that the spectrum shall have, see ``Spectrum``.
    """
    X, Y = omega.astype(np.float64), image
    size = min(rows, len(omega))
    used = 1
    while True:
        values, vectors = nystrom(np.linalg.qr(X), Y)
        spectrum = dataclasses.replace(randomized(values, energy, size), leading=leading)
        found = Decomposition(vectors[:, :size], spectrum, used)
        if used >= passes or X.shape[1] >= X.shape[0] or _certain(found.spectrum, eps):
            return found
        block = np.linalg.qr(image)[0]
        block = np.linalg.qr(block - X @ np.linalg.lstsq(X, block, rcond=None)[0])[0]
        block = block[:, : X.shape[0] - X.shape[1]].astype(np.float32)
        image = apply(block)
        X, Y = np.hstack([X, block.astype(np.float64)]), np.hstack([Y, image])
        used += 1


def nystrom(basis: tuple[Float64, Float64], Y: Float64) -> tuple[Float64, Float64]:
    """Eigenvalues (descending) and eigenvectors of the Nystrom approximation from X = Q R and Y = A X."""
    Q, R = basis
    Y = solve_triangular(R, Y.T, trans="T").T
    core = Q.T @ Y
    shift = 1e-7 * float(np.linalg.norm(core, 2)) or 1e-300
    Y += shift * Q
    w, V = np.linalg.eigh((core + core.T) / 2 + shift * np.eye(core.shape[0]))
    B = Y @ (V / np.sqrt(np.maximum(w, shift)))
    del Y
    values, W = (x[..., ::-1] for x in np.linalg.eigh(B.T @ B))  # none is below the shift: no square is lost
    return np.maximum(values - shift, 0.0), B @ (W / np.sqrt(np.maximum(values, shift)))


def randomized(energies: Float64, total: float, size: int) -> Spectrum:
    """Incomplete spectrum from a Nystrom approximation, of at most ``size`` energies."""
    return Spectrum(energies, total, complete=False, rounding=ROUNDING * total).within(size)


def _certain(spectrum: Spectrum, eps: tuple[float, ...]) -> bool:
    return bool(eps) and all(low == high for low, high in (rank_interval(spectrum, e) for e in eps))
