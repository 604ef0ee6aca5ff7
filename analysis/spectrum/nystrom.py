"""Randomized SVD out of core: a block-Krylov Nystrom approximation that knows how good it is.

One pass over the rows of H applies A = H^T H to a block of vectors. From a test basis X and its image Y = A X, the
Nystrom approximation Y (X^T Y)^+ Y^T never exceeds A, so its eigenvalues bound the sigma_i^2 from below; with
||H||_F^2 known exactly the unseen energy bounds them from above (``rank.rank_interval``). The first pass uses a
random block Omega (Tropp, Yurtsever, Udell and Cevher 2017); each further pass adds the orthonormalised image of
the last, which spans a block Krylov space (Musco and Musco 2015). Data float32, sums and factorisations float64.

Operators work on rows: (T, n), T large, n the width of the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.spectrum.rank import ROUNDING, Spectrum, rank_interval

Apply = Callable[[Float32], Float64]

_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """Leading right singular vectors of H and what is certain about its spectrum.

    Attributes
    ----------
    components : float64 (n, r)
        Orthonormal columns, in order of explained variance (H's right singular vectors).
    explained_variance : float64 (r,)
        Lower bounds of sigma_i^2.
    total_variance : float
        ||H||_F^2.
    passes, block, seed : int
        Passes over the rows, columns of a block, seed of Omega.
    size : int
        How many singular values there can be.
    """

    components: Float64
    explained_variance: Float64
    total_variance: float
    passes: int
    block: int
    seed: int
    size: int

    @property
    def spectrum(self) -> Spectrum:
        """For rank_interval and the other rank measures."""
        total = self.total_variance
        return Spectrum(self.explained_variance, total, complete=False, size=self.size, rounding=ROUNDING * total)

    @property
    def singular_values(self) -> Float64:
        """Lower bounds of sigma_i."""
        return np.sqrt(self.explained_variance)

    @property
    def explained_variance_ratio(self) -> Float64:
        """Shares of the total."""
        return self.explained_variance / self.total_variance

    @property
    def certificate(self) -> float:
        """Share of the energy left unseen: no sigma_i^2 / E is underestimated by more."""
        return self.spectrum.unseen / self.total_variance if self.total_variance > 0 else 0.0

    def scores(self, H: Any) -> Any:
        """Temporal modes H V, (T, r); lazy when H is a dask array."""
        return H @ self.components


def test_matrix(n: int, block: int, seed: int) -> Float32:
    """Orthonormal random test block (n, min(block, n))."""
    draws = np.random.default_rng(seed).standard_normal((n, min(block, n)))
    basis: Float32 = np.linalg.qr(draws)[0].astype(np.float32)
    return basis


def rsvd(
    H: Any,
    block: int = 48,
    passes: int = 2,
    eps: tuple[float, ...] = (),
    seed: int = 0,
) -> Decomposition:
    """Leading singular values and right singular vectors of a tall matrix, with a certificate.

    Parameters
    ----------
    H : array (T, n), dask array, or operator
        An operator has ``shape``, ``matmat``, ``rmatmat`` (scipy's LinearOperator) and its squared Frobenius norm is
        taken from an attribute ``energy``.
    block : int
        Columns of Omega; every pass adds as many.
    passes : int
        Most passes over H.
    eps : tuple of float
        Stop early once r*(eps) is certain for all of these.
    seed : int

    Returns
    -------
    Decomposition

    Raises
    ------
    ValueError
        An argument out of range, or an operator without ``energy``.

    Examples
    --------
    >>> H = np.outer(np.arange(5.0), [3.0, 4.0])
    >>> rsvd(H, block=1).singular_values.round(3)
    array([27.386])
    """
    if block < 1 or passes < 1:
        raise ValueError(f"block and passes must be at least 1, got {block} and {passes}")
    if len(H.shape) != 2 or 0 in H.shape:
        raise ValueError(f"expected a non-empty matrix (T, n), got shape {H.shape}")
    apply, energy = operator(H)
    omega = test_matrix(int(H.shape[1]), block, seed)
    return refine(apply, omega, apply(omega), energy(), passes, eps, seed, rows=int(H.shape[0]))


def refine(
    apply: Apply,
    omega: Float32,
    image: Float64,
    energy: float,
    passes: int,
    eps: tuple[float, ...] = (),
    seed: int = 0,
    *,
    rows: int,
) -> Decomposition:
    """Continue from a first pass ``image = A omega`` until every r*(eps) is certain, or ``passes`` are spent."""
    X, Y = omega.astype(np.float64), image
    size = min(rows, len(omega))
    used = 1
    while True:
        values, vectors = nystrom(np.linalg.qr(X), Y)
        found = Decomposition(vectors[:, :size], values[:size], energy, used, omega.shape[1], seed, size)
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


def operator(H: Any) -> tuple[Apply, Callable[[], float]]:
    """V -> (H^T H) V in float64, and ||H||_F^2, of an array, a dask array or an operator."""
    if hasattr(H, "matmat"):
        if not hasattr(H, "energy"):
            raise ValueError("an operator needs an attribute 'energy', its squared Frobenius norm")
        return lambda V: np.asarray(H.rmatmat(H.matmat(V)), np.float64), lambda: float(H.energy)
    if hasattr(H, "dask"):
        from gradlog.analysis.streaming.row_sums import reduce_rows

        return lambda V: reduce_rows(H, _image, V), lambda: float(reduce_rows(H, _energy))
    H = np.asarray(H)
    return lambda V: _image(H, V), lambda: _energy(H)


def _image(H: Any, V: Float32) -> Float64:
    V = V.astype(H.dtype, copy=False)
    out = np.zeros(V.shape)
    for start in range(0, len(H), _ROWS):
        rows = H[start : start + _ROWS]
        out += rows.T @ (rows @ V)
    return out


def _energy(H: Any) -> float:
    return float(sum(np.einsum("tn,tn->t", r, r).sum(dtype=np.float64) for r in np.array_split(H, len(H) // _ROWS + 1)))


def _certain(spectrum: Spectrum, eps: tuple[float, ...]) -> bool:
    return bool(eps) and all(low == high for low, high in (rank_interval(spectrum, e) for e in eps))
