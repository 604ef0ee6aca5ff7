"""What one pass collects: a recipe, and the sums that it asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property

import numpy as np

from gradlog.analysis.common.types import Float32, Float64

S = 16
PAIRS = S * (S + 1) // 2
"""Increments of a segment, over which ``ema`` runs all at once, and the products of two of them."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a pass collects.

    Attributes
    ----------
    groups, k : int
        Layout of the n = groups x k columns.
    betas : tuple of float
        EMAs, each in [0, 1).
    lags : int
        Lag products <g_t, g_{t-a}> for a = 1..lags.
    gram : {"full", "groups", "none"}
        Gram of the increments: n x n, or one k x k block a group.
    pooled : bool
        Also the k x k Gram of the SUM of the groups' sketches.
    scatter : bool
        Also the Gram of the rows themselves, in the same form, for the rank of shuffled steps.
    test : float32 array (n, l), or None
        Test matrix Omega: collect (H^T H) Omega, for spectra too wide for a Gram.
    columns : bool
        Whether to collect the per-column sums; a further pass for the spectrum alone does not need them.
    epoch : (int, int), or None
        Steps of an epoch, and the number of a step at which one begins: collect sums by epoch.
    kernel : {"numpy", "numba"}
        What shall add up the columns; where numba is missing, numpy does, and ``Summary.kernels`` says so.
    section : int
        Also the sums of every so many rows of the view, by group (see ``sections``); 0 for none.
    by_group : bool
        Keep the small sums by group instead of by column.
    """

    groups: int
    k: int
    betas: tuple[float, ...] = ()
    lags: int = 2
    gram: str = "full"
    pooled: bool = False
    scatter: bool = False
    test: Float32 | None = None
    columns: bool = True
    epoch: tuple[int, int] | None = None
    kernel: str = "numpy"
    section: int = 0
    by_group: bool = False

    @property
    def n(self) -> int:
        """Columns."""
        return self.groups * self.k

    def split(self) -> tuple[Recipe, Recipe]:
        """Return two that collect the same between them: one without Grams, small, and one with Grams alone."""
        light = dataclasses.replace(self, gram="none", pooled=False)
        return light, dataclasses.replace(self, betas=(), lags=0, test=None, columns=False, epoch=None, section=0)

    def fold(self, per_column: Float64, by_group: bool = False) -> Float64:
        """Return sums as the recipe keeps them: (..., n), or (..., groups)."""
        if not (by_group or self.by_group):
            return per_column
        return np.asarray(per_column.reshape(*per_column.shape[:-1], self.groups, self.k).sum(axis=-1))

    @property
    def history(self) -> int:
        """Rows kept at both ends of a summary."""
        return max(2, self.lags)

    @property
    def beta(self) -> Float64:
        """The betas as a column, to broadcast over columns of rows."""
        return np.asarray(self.betas, np.float64)[:, None]

    @cached_property
    def basis(self) -> tuple[Float64, Float64]:
        """Orthonormal (n, l) and triangular (l, l) factor of the test matrix."""
        assert self.test is not None
        Q, R = np.linalg.qr(self.test.astype(np.float64))
        return Q, R

    def zeros(self, shared: dict[str, Float64] | None = None) -> dict[str, Float64]:
        """Return sums of no rows; every entry adds up over rows. Large ones that are shared are the same arrays."""
        return {
            name: shared[name] if shared and SUMS[name].large else np.zeros(shape)
            for name, shape in self.shapes().items()
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the sums that are asked for."""
        shapes = ((name, one.shape(self)) for name, one in SUMS.items())
        return {name: shape for name, shape in shapes if shape is not None}


@dataclasses.dataclass(frozen=True)
class Sum:
    """A sum over rows that a pass collects.

    Attributes
    ----------
    about : str
    shape : callable
        Its shape under a recipe, None where that does not ask for it.
    large : bool
        Held once for all blocks of a task.
    product : bool
        A product of matrices, added up by ``grams``.
    triangle : bool
        Symmetric: while it is added up, its upper triangle alone counts.
    count : bool
        A number of rows, the same for every column.
    """

    about: str
    shape: Callable[[Recipe], tuple[int, ...] | None]
    large: bool = False
    product: bool = False
    triangle: bool = False
    count: bool = False


def _column(r: Recipe) -> tuple[int, ...]:
    return (r.groups if r.by_group else r.n,)


def _gram(r: Recipe) -> tuple[int, ...] | None:
    return {"full": (r.n, r.n), "groups": (r.groups, r.k, r.k)}.get(r.gram)


def _pooled(r: Recipe) -> tuple[int, ...] | None:
    return (r.k, r.k) if r.pooled else None


def _image(r: Recipe) -> tuple[int, ...] | None:
    return None if r.test is None else (r.n, r.test.shape[1])


def _products(about: str, shape: Callable[[Recipe], tuple[int, ...] | None], triangle: bool) -> tuple[Sum, Sum]:
    """Of the increments, and of the rows themselves where their scatter is asked for."""
    of_rows = Sum(f"{about}, of the rows themselves", lambda r: shape(r) if r.scatter else None, True, False, triangle)
    return Sum(f"{about}, of the increments", shape, True, True, triangle), of_rows


SUMS: dict[str, Sum] = {
    "rows": Sum("finite rows", lambda r: (), count=True),
    "pairs": Sum("increments", lambda r: (), count=True),
    "energy": Sum("g^2", _column),
    "total": Sum("g", _column),
    "last": Sum("(g_t - g_{t-1})^2, first rows of chains with g_{t-1} = 0", _column),
    "trend": Sum("(g_t - 2 g_{t-1} + g_{t-2})^2, likewise", _column),
    "increment": Sum("h^2, no first rows", _column),
    "lag": Sum("g_t g_{t-a}, by lag a", lambda r: (r.lags, *_column(r))),
    "lag_pairs": Sum("number of such products, by lag", lambda r: (r.lags,), count=True),
    "edge": Sum("what the ends of chains take off them, see moments", lambda r: (r.lags, r.lags, *_column(r)), True),
    "p0": Sum("squared errors of EMAs whose history is known, by beta", lambda r: (len(r.betas), *_column(r))),
    "segments": Sum("products of segments, see ema", lambda r: (PAIRS, r.groups) if r.section and r.betas else None),
}
"""Every sum: sections of code that add one up name it by its key."""
SUMS["gram"], SUMS["gram_rows"] = _products("h h', whole or by group", _gram, True)
SUMS["pooled"], SUMS["pooled_rows"] = _products("h h' of the sum of the groups' sketches", _pooled, True)
SUMS["image"], SUMS["image_rows"] = _products("h (h Omega)'", _image, False)
