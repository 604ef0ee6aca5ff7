"""What a predictor is: it names the sums that it needs, and makes path lengths and weights of them.

Missing history counts as zero, m_0 = 0. Source: arXiv 2601.04270, section on predictors; those fitted in hindsight are
the best members of their classes, P*_T.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.streaming.totals import Totals, moments


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Totals of some rows, restricted to the columns of some groups.

    Attributes
    ----------
    totals : dict
        Of ``streaming.totals.contributions``.
    betas : tuple of float
        Of the rows of ``p0``.
    columns : slice
    """

    totals: Totals
    betas: tuple[float, ...]
    columns: slice = dataclasses.field(default_factory=lambda: slice(None))

    def of(self, name: str) -> Float64:
        """One per-column sum, columns last; the names are those of ``streaming.recipe.SUMS``."""
        values: Float64 = self.totals[name][..., self.columns]
        return values

    def ema(self, beta: float) -> Float64:
        """Path length of ema(beta), per column."""
        path: Float64 = self.of("p0")[self.betas.index(beta)]
        return path

    def epochs(self) -> tuple[Float64, float]:
        """Sum over epochs of the squared sum of their rows, per column, and of their squared number of rows."""
        squares, pairs = self.totals["epochs"].closed()
        return squares[self.columns], pairs

    def moments(self, lags: int) -> Float64:
        """Return the sums over rows of g_{t-i} g_{t-j}, (lags + 1, lags + 1, columns)."""
        return moments(self.totals, lags, self.columns)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A predictor applied to some rows.

    Attributes
    ----------
    path : float64 (columns,)
        Path length of each column.
    weights : float64 (history,)
        Weights on g_{t-1}, g_{t-2}, ... (an EMA: empty, see ``beta``).
    beta : float, or several to compare, or None
    one_row : float64 (1,) or None
        Weights where only one row is known, if they are not the first of ``weights``.
    hindsight : bool
        Whether the weights, or beta, are the best ones of these rows: steps in random order have others.
    """

    path: Float64
    weights: Float64
    beta: float | Float64 | None = None
    one_row: Float64 | None = None
    hindsight: bool = False

    def mean_weights(self, ages: NDArray[np.int64]) -> tuple[Float64, Float64, Float64]:
        """Return the means over rows of s1, s1^2 and s2: sum and sum of squares of the weights in use at a row.

        ``ages`` (chains, 2) are ranges [first, stop) of the number of past rows: 0, 1, 2, ... in a whole chain.
        """
        first, stop = np.asarray(ages, np.int64).T
        rows = int((stop - first).sum())
        if self.beta is not None:
            b = np.asarray(self.beta)
            q = np.stack([b, b * b])[..., None]
            g1, g2 = ((q**first - q**stop) / (1 - q)).sum(axis=-1) / rows  # mean beta^age and beta^{2 age}
            return 1 - g1, 1 - 2 * g1 + g2, (1 - b) / (1 + b) * (1 - g2)
        w = self.weights
        s1, s2 = (np.cumsum(np.insert(x, 0, 0.0, axis=-1), axis=-1) for x in (w, w * w))
        if self.one_row is not None:
            s1[1], s2[1] = self.one_row.sum(), np.square(self.one_row).sum()
        age = np.arange(w.shape[-1])
        counts = np.array([np.count_nonzero((first <= a) & (a < stop)) for a in age], np.float64)
        share = np.append(counts, rows - counts.sum()) / rows
        return s1 @ share, (s1 * s1) @ share, s2 @ share


class Predictor(Protocol):
    """What the analyzer asks of a predictor: any object with these four will do.

    ``betas`` and ``lags`` name the sums that the pass has to collect for it; ``fit`` turns them into path lengths.
    Fixed weights need no class of their own: see ``Linear``. ``register_predictor`` gives it a name to be asked for.

    Examples
    --------
    The best multiple of the last row, m_t = w g_{t-1}, from two lag products:

    >>> class Scaled:
    ...     name, betas, lags = "scaled", (), 1
    ...     def fit(self, evidence):
    ...         M = evidence.moments(1)             # sums of g_{t-i} g_{t-j}, (2, 2, columns)
    ...         w = M[0, 1].sum() / M[1, 1].sum()
    ...         return Fitted(M[0, 0] - 2 * w * M[0, 1] + w * w * M[1, 1], np.array([w]), hindsight=True)
    >>> from gradlog.analysis import analyze
    >>> analyze("run.zarr", [Scaled(), "last"])                      # doctest: +SKIP
    """

    @property
    def name(self) -> str:
        """Label in tables and files."""

    @property
    def betas(self) -> tuple[float, ...]:
        """EMAs needed."""

    @property
    def lags(self) -> int:
        """Lag products needed."""

    def fit(self, evidence: Evidence) -> Fitted:
        """Path length on the evidence's rows and columns."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """Fixed weights on the most recent rows: m_t = sum_j weights[j-1] g_{t-j}.

    Examples
    --------
    >>> Linear("mean of two", (0.5, 0.5)).lags
    2
    """

    name: str
    weights: tuple[float, ...]
    betas: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        if not self.weights or not np.isfinite(self.weights).all():
            raise ValueError(f"{self.name}: weights must be finite numbers, at least one")

    @property
    def lags(self) -> int:
        """See Predictor."""
        return len(self.weights)

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        return fit_weights(evidence.moments(self.lags), self.weights)


def fit_weights(products: Float64, weights: ArrayLike) -> Fitted:
    """Path length of fixed weights from ``Evidence.moments``."""
    w = np.concatenate([[1.0], -np.asarray(weights, np.float64)])
    path = np.einsum("i,ijn,j->n", w, products, w, optimize=True)
    return Fitted(np.maximum(path, 0.0), -w[1:])
