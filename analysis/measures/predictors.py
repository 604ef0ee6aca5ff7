"""Predictors m_t of the next gradient from past ones, and their path lengths from the sums of one pass.

Missing history counts as zero, m_0 = 0; trend starts with m_1 = g_0. Source: arXiv 2601.04270, section on
predictors; ar and best-ema are the best members of their classes in hindsight, P*_T.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.streaming.ema import BETA_NODES, COARSE_NODES, LONGEST, _knots
from gradlog.analysis.streaming.summary import Totals, moments

DEFAULT = ("zero", "last", "ema(0.9)", "ema(0.99)", "trend", "ar(8)", "best-ema")


_GRID = np.linspace(1, -1, 351)
BETAS = 1 - LONGEST ** ((_GRID - 1) / 2)
"""Points between them, where the least path length is looked for, and their betas."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Totals of some rows, restricted to the columns of some groups.

    Attributes
    ----------
    totals : dict
        Of ``summary.contributions``.
    betas : tuple of float
        Of the rows of ``p0``.
    columns : slice
    """

    totals: Totals
    betas: tuple[float, ...]
    columns: slice = dataclasses.field(default_factory=lambda: slice(None))

    def of(self, name: str) -> Float64:
        """One per-column sum, columns last."""
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

    def mean_weights(self, ages: NDArray[np.int64]) -> tuple[Any, Any, Any]:
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
    Fixed weights need no class of their own: see ``Linear``.

    Examples
    --------
    The best multiple of the last row, m_t = w g_{t-1}, from two lag products:

    >>> class Scaled:
    ...     name, betas, lags = "scaled", (), 1
    ...     def fit(self, evidence):
    ...         M = evidence.moments(1)             # sums of g_{t-i} g_{t-j}, (2, 2, columns)
    ...         w = M[0, 1].sum() / M[1, 1].sum()
    ...         return Fitted(M[0, 0] - 2 * w * M[0, 1] + w * w * M[1, 1], np.array([w]), hindsight=True)
    >>> [p.name for p in parse([Scaled(), "last"])]
    ['scaled', 'last']
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
class Zero:
    """m_t = 0, so that kappa = 1."""

    name: ClassVar[str] = "zero"
    betas: ClassVar[tuple[float, ...]] = ()
    lags: ClassVar[int] = 0

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        return Fitted(evidence.of("energy"), np.empty(0))


@dataclasses.dataclass(frozen=True)
class Last:
    """m_t = g_{t-1}."""

    name: ClassVar[str] = "last"
    betas: ClassVar[tuple[float, ...]] = ()
    lags: ClassVar[int] = 0

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        return Fitted(evidence.of("last"), np.array([1.0]))


@dataclasses.dataclass(frozen=True)
class Trend:
    """m_t = 2 g_{t-1} - g_{t-2}, m_1 = g_0."""

    name: ClassVar[str] = "trend"
    betas: ClassVar[tuple[float, ...]] = ()
    lags: ClassVar[int] = 0

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        return Fitted(evidence.of("trend"), np.array([2.0, -1.0]), one_row=np.array([1.0]))


@dataclasses.dataclass(frozen=True)
class EMA:
    """m_t = beta m_{t-1} + (1 - beta) g_{t-1}, no bias correction."""

    beta: float
    lags: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise ValueError(f"ema needs 0 <= beta < 1, got {self.beta}")

    @property
    def name(self) -> str:
        """ema(beta)."""
        return f"ema({self.beta:g})"

    @property
    def betas(self) -> tuple[float, ...]:
        """See Predictor."""
        return (self.beta,)

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        return Fitted(evidence.ema(self.beta), np.empty(0), beta=self.beta)


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
        return _linear(evidence.moments(self.lags), self.weights)


@dataclasses.dataclass(frozen=True)
class AR:
    """m_t = sum_{j<=p} w_j g_{t-j} with the least-squares weights of these rows, shared by all columns."""

    lags: int
    betas: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.lags <= 256:
            raise ValueError(f"ar needs an order from 1 to 256, got {self.lags}")

    @property
    def name(self) -> str:
        """ar(p)."""
        return f"ar({self.lags})"

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        M = evidence.moments(self.lags)
        return dataclasses.replace(_linear(M, least_squares(M.sum(axis=-1))), hindsight=True)


@cache
def _on_grid(nodes: int) -> Float64:
    return _weights_at(_GRID, nodes)


def _weights_at(x: Float64, nodes: int) -> Float64:
    """Barycentric weights (points, nodes) that give path lengths at x = 1 + 2 log(1 - beta) / log(LONGEST)."""
    scale = np.where(np.arange(nodes) % 2, -1.0, 1.0)
    scale[[0, -1]] /= 2
    away = x[:, None] - _knots(nodes)
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


def least_squares(M: Float64) -> Float64:
    """Weights from moments (lags + 1, lags + 1), of least norm where they are not determined.

    >>> least_squares(np.array([[1.0, 0.5], [0.5, 1.0]])).round(9).tolist()
    [0.5]
    """
    weights: Float64 = np.linalg.pinv(M[1:, 1:], rcond=1e-10, hermitian=True) @ M[1:, 0]
    return weights


def _linear(products: Float64, weights: ArrayLike) -> Fitted:
    w = np.concatenate([[1.0], -np.asarray(weights, np.float64)])
    path = np.einsum("i,ijn,j->n", w, products, w, optimize=True)
    return Fitted(np.maximum(path, 0.0), -w[1:])


def parse(predictors: str | Predictor | Iterable[str | Predictor]) -> list[Predictor]:
    """Predictors from their names: zero, last, trend, ema(B), ar(P), best-ema; objects pass through.

    Examples
    --------
    >>> [p.name for p in parse("last, ema(0.5)")]
    ['last', 'ema(0.5)']
    """
    if isinstance(predictors, str):
        predictors = [part for part in re.split(r",\s*(?![^()]*\))", predictors) if part]
    elif not isinstance(predictors, Iterable):
        predictors = [predictors]
    found = [_parse(p.strip()) if isinstance(p, str) else p for p in predictors]
    names = [p.name for p in found]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"predictors must be named once each and at least one, got {names}")
    return found


def _parse(name: str) -> Predictor:
    plain: dict[str, Predictor] = {p.name: p for p in (Zero(), Last(), Trend(), BestEMA())}
    if name in plain:
        return plain[name]
    match = re.fullmatch(r"(ema|ar)\(\s*([0-9.eE+-]+)\s*\)", name)
    if match:
        try:
            return EMA(float(match[2])) if match[1] == "ema" else AR(int(match[2]))
        except ValueError as error:
            raise ValueError(f"bad predictor {name!r}: {error}") from error
    raise ValueError(f"unknown predictor {name!r}; known: {', '.join(DEFAULT)}, ema(B), ar(P)")


def needs(predictors: Sequence[Predictor], lags: int = 0) -> dict[str, Any]:
    """Betas and lags that a pass must collect for all of them."""
    betas = sorted({b for p in predictors for b in p.betas})
    return {"betas": tuple(betas), "lags": max([lags, *(p.lags for p in predictors)])}
