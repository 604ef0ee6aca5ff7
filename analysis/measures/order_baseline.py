"""What a predictor would show if the same rows came in random order.

Let c = E<g_i, g_j>_{i != j} / E||g||^2. Let s1 and s2 be the sums of the weights in use at a row, and of their squares.
The row's expected error over E||g||^2 is 1 - 2 c s1 + c s1^2 + (1 - c) s2. Summed over the rows with the history
that each has, this is the exact permutation mean; far from the edges, for weights of sum 1, it is (1 - c)(1 + ||w||^2).

Where the minibatches of an epoch are drawn without replacement, the noise of steps is correlated by -1 / (m - 1) within
an epoch of m, also where no parameter moves: ``last`` loses 1 / m by it. So the order that serves as a baseline is
random within each epoch, and from epoch to epoch. With c_in, c_out the mean products of different rows of one epoch and
of two, over the mean squared norm, an error with weights w on past rows is expected to be, over E||g||^2,

    1 - 2 c_out s1 + c_out s1^2 + (1 - c_out) s2 + (c_in - c_out) (-2 W_0 + sum_e W_e^2 - s2),

where W_e is the sum of the weights on the epoch of e epochs ago. For ``last`` this is 2 (1 - q c_in - (1 - q) c_out).
Here q is the share of neighbours within an epoch.

Weights that were fitted to the rows are no baseline for them: steps in random order would be fitted with others. Those
are the best for the expected products of lags, which need c_in and c_out alone (``refitted``).
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.predictors import Fitted
from gradlog.analysis.measures.predictors.ar import least_squares
from gradlog.analysis.measures.predictors.best_ema import BETAS
from gradlog.analysis.spectrum.shuffled_rank import RESOLUTION

SHORT = 4
"""Steps of the shortest epoch that is thought of where epochs are not known."""

TRIED = 24
"""Lengths of epochs that a predictor is fitted to, at most."""


@dataclasses.dataclass(frozen=True)
class Order:
    """Which rows of a scope share an epoch.

    Attributes
    ----------
    ages : int64 (chains, 2)
        Past rows available, as a range [first, stop) for the counted rows of each chain.
    phases : int64 (chains,)
        Rows of its epoch that stand before the first of each chain.
    rows : int
        Rows of an epoch; 0 where epochs are not known.
    """

    ages: NDArray[np.int64]
    phases: NDArray[np.int64]
    rows: int = 0

    @property
    def kinds(self) -> Counter[tuple[int, int, int]]:
        """Number of chains by first and last age and phase: those of a sample are mostly alike."""
        return Counter(
            (first, stop, phase) for (first, stop), phase in zip(self.ages.tolist(), self.phases.tolist(), strict=True)
        )

    def assume(self, rows: int) -> Order:
        """Return the same with epochs of so many rows from each chain's first on."""
        return Order(self.ages, np.zeros_like(self.phases), rows)


def coherence(power: float, square: float, rows: int) -> float:
    """Return c of the module, 0 where it has no meaning.

    From the sum of the squares of ``rows`` rows, and the square of their sum.
    """
    pairs = power * (rows - 1)
    return (square - power) / pairs if pairs > 0 else 0.0


def coherences(power: Float64, square: Float64, epochs: Float64, rows: float, pairs: float) -> tuple[Float64, Float64]:
    """c_in and c_out from sums of squares, of the squared sum of all rows, and of the squared sums of the epochs.

    Where an epoch is all there is, or has but one row, the coherence that is not known is that of all rows.
    """
    within, between = pairs - rows, rows**2 - pairs
    c = (square - power) / (power * max(rows - 1, 1))
    return (
        (epochs - power) * (rows / within) / power if within else c,
        (square - epochs) * (rows / between) / power if between else c,
    )


def kappa_null(fitted: Fitted, c_in: Float64 | float, c_out: Float64 | float, order: Order) -> Float64:
    """Return the expected kappa of rows in random order, NaN where it is too small to be told from rounding."""
    a1, a11, a2 = fitted.mean_weights(order.ages)
    null = 1 - 2 * c_out * a1 + c_out * a11 + (1 - c_out) * a2
    if order.rows:
        null = null + (c_in - c_out) * shared(fitted, order, a2)
    return np.asarray(np.where(null > RESOLUTION * (1 + a2), null, np.nan))


def refitted(fitted: Fitted, c_in: float, c_out: float, order: Order) -> Fitted:
    """Return the best of its class for the same rows in random order, where it is the best for these; else itself.

    >>> order = Order(np.array([[0, 1000]]), np.array([0]))
    >>> fitted = Fitted(np.empty(0), np.array([1.9, -0.9]), hindsight=True)
    >>> refitted(fitted, 0.5, 0.5, order).weights.round(2)
    array([0.33, 0.33])
    """
    if not fitted.hindsight:
        return fitted
    if fitted.beta is None:
        M = expected_moments(fitted.weights.shape[-1], c_in, c_out, order)
        return dataclasses.replace(fitted, weights=least_squares(M))
    nulls = kappa_null(dataclasses.replace(fitted, beta=BETAS), c_in, c_out, order)
    return dataclasses.replace(fitted, beta=float(BETAS[np.argmin(np.nan_to_num(nulls, nan=np.inf))]))


def expected_moments(lags: int, c_in: float, c_out: float, order: Order) -> Float64:
    """Return the mean of <g_{t-i}, g_{t-j}> / E||g||^2 over rows in random order, (lags + 1, lags + 1).

    Missing history counts as zero.
    """
    first, stop = order.ages.T
    lag = np.arange(lags + 1)
    newer, older = np.minimum.outer(lag, lag), np.maximum.outer(lag, lag)
    reached = (stop - np.clip(lag[:, None], first, stop)).sum(axis=1)  # rows that have so much history
    M = np.asarray(c_out * reached[older])
    for (begin, end, phase), chains in order.kinds.items() if order.rows else ():
        places = (np.clip(older, begin, end) + phase - newer, end + phase - newer)
        low, high = (_late(place, older - newer, order.rows) for place in places)
        M += (c_in - c_out) * (chains * (high - low))
    np.fill_diagonal(M, reached)
    return np.asarray(M / reached[0])


def _late(count: NDArray[np.int64], place: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Numbers below ``count`` that are at least ``place`` modulo m: rows with so many before them in their epoch."""
    return np.asarray(count // m * np.maximum(m - place, 0) + np.maximum(count % m - place, 0))


def epoch_gain(fitted: Fitted, c: float, null: float, order: Order, gain: float) -> float:
    """Most that epochs of few steps with frozen parameters explain of a gain, where the baseline knows of none.

    The shortest epoch explains most, unless there are weights on several steps: those may fit any length up to about
    twice their number. A predictor that is fitted to the rows is fitted to epochs too; where it gains, only if its
    weights do in any epochs.
    """
    *_, a2 = fitted.mean_weights(order.ages)
    longest = max(SHORT, 2 * fitted.weights.shape[-1])
    end = max if gain > 0 else min
    most = end((1 - c) / (m - 1) * float(shared(fitted, order.assume(m), a2)) for m in range(SHORT, longest + 1)) / null
    if not fitted.hindsight or (gain > 0 and most <= 0):
        return most
    some = np.unique(np.geomspace(SHORT, longest, TRIED).astype(int))
    return end(_fitted_to_epochs(fitted, c, null, order.assume(int(m))) for m in some)


def _fitted_to_epochs(fitted: Fitted, c: float, null: float, order: Order) -> float:
    """Gain over ``null`` of a predictor that is fitted to such epochs, with frozen parameters."""
    between = c + (1 - c) / max(int(np.diff(order.ages).sum()) - 1, 1)  # c: over all pairs, of one epoch or of two
    inside = between - (1 - c) / (order.rows - 1)
    return float(1 - kappa_null(refitted(fitted, inside, between, order), inside, between, order) / null)


def shared(fitted: Fitted, order: Order, a2: Float64 | float) -> Float64:
    """Mean over rows of -2 W_0 + sum_e W_e^2 - s2; ``a2`` is the mean of s2."""
    count = (order.ages[:, 1] - order.ages[:, 0]).sum()
    total: Float64 | float = 0.0
    for (first, stop, phase), chains in order.kinds.items():
        if fitted.beta is not None:
            b, part = np.asarray(fitted.beta, np.float64), order.rows - phase
            until_stop, until_first = (_ema_until(b, age, part, order.rows) for age in (stop, first))
            total = total + chains * until_stop - chains * until_first
        else:
            total = total + chains * _linear_between(fitted, first, stop, phase, order.rows)
    return np.asarray(total / count - a2)


def _ema_until(b: Float64, n: int, part: int, m: int) -> Float64:
    """Sum of -2 W_0 + Q over the rows of ages 0..n-1, Q = sum_e W_e^2; the first epoch ends after ``part`` rows.

    At row p of an epoch W_0 = 1 - b^p and Q = b^{2p} Q_0 + W_0^2, Q_0 that at its first row; a whole epoch takes Q_0
    to b^{2m} Q_0 + (1 - b^m)^2.
    """

    def ones(r: int) -> Float64:  # sum of W_0 over r rows of an epoch
        return r - (1 - b**r) / (1 - b)

    def decay(r: int) -> Float64:
        return (1 - b ** (2 * r)) / (1 - b * b)

    def squares(r: int) -> Float64:  # sum of W_0^2
        return r - 2 * (1 - b**r) / (1 - b) + decay(r)

    begun = min(n, part)
    found = squares(begun) - 2 * ones(begun)
    whole, rest = divmod(n - begun, m)
    steady = (1 - b**m) / (1 + b**m)
    away = (1 - b**part) ** 2 - steady
    power = (1 - b ** (2 * m * whole)) / (1 - b ** (2 * m))
    found = found + (whole * steady + away * power) * decay(m) + whole * (squares(m) - 2 * ones(m))
    left = steady + away * b ** (2 * m * whole)
    return np.asarray(found + left * decay(rest) + squares(rest) - 2 * ones(rest))


def _linear_between(fitted: Fitted, first: int, stop: int, phase: int, m: int) -> Float64:
    """Sum of -2 W_0 + sum_e W_e^2 over the rows of ages first..stop-1.

    Rows with all their history come back after an epoch; those that have it in their own epoch are all alike.
    """
    L = fitted.weights.shape[-1]
    steady = max(first, min(L, stop))
    age = np.concatenate([np.arange(first, min(L, stop)), np.arange(steady, min(steady + m, stop))])
    often = np.where(age < L, 1, (stop - age + m - 1) // m)
    place = (age + phase) % m
    inside = (place >= L) & (age >= L)
    some = np.append(np.flatnonzero(~inside), np.flatnonzero(inside)[:1])
    often = np.append(often[~inside], often[inside].sum())[: len(some)]
    age, place = age[some], place[some]
    sums = np.insert(np.cumsum(fitted.weights, axis=-1), 0, 0.0, axis=-1)
    history = np.minimum(age, L)
    before = sums[..., np.minimum(place, history)]
    value = -2 * before + before**2
    for back in range(1, -(-L // m) + 1):
        until = sums[..., np.minimum(place + back * m, history)]
        value, before = value + (until - before) ** 2, until
    if fitted.one_row is not None and len(fitted.one_row):
        own = float(fitted.one_row[0])
        value = np.where(age == 1, np.where(place >= 1, -2 * own, 0.0) + own * own, value)
    return np.asarray(value @ often)


def chance(fitted: Fitted, freedom: float, rows: float) -> float:
    """Gain, up or down, that about 19 of 20 random orders of the same rows stay below; before division by kappa_null.

    Path length is the energy plus sum_a A_a sum_t <g_t, g_{t-a}>, A_a = -2 w_a + 2 sum_i w_i w_{i+a}. In random order
    the sums of different lags are uncorrelated, each with the variance of ``rows`` x ``freedom`` independent products:
    two standard deviations are 2 sqrt(sum_a A_a^2 / (rows freedom)). Weights fitted to the rows fit them better than
    those fitted to what is expected of a random order, by the sum of p squared normal values: p + 2 sqrt(2 p).

    Parameters
    ----------
    fitted : Fitted
        With the weights that it has for steps in random order.
    freedom : float
        Participation ratio of the rows' centred scatter: the number of independent coordinates of a row.
    rows : float
    """
    p = max(fitted.weights.shape[-1], 1) if fitted.hindsight else 0
    if fitted.beta is not None:  # A_a = -2 (1 - b) b^(a-1) / (1 + b)
        b = float(fitted.beta)
        squares = 4 * (1 - b) / (1 + b) ** 3
    else:
        w = fitted.weights
        overlap = np.correlate(w, w, "full")[len(w) :] if len(w) else w
        squares = float(np.square(-2 * w + 2 * np.append(overlap, np.zeros(min(len(w), 1)))).sum())
    size = rows * freedom
    return float(2 * np.sqrt(squares / size) + (p + 2 * np.sqrt(2 * p)) / size)


def movable(fitted: Fitted, ages: NDArray[np.int64]) -> float:
    """Gain that a perfect correlation of gradient and prediction would give; before division by kappa_null.

    Path length is E||g - m||^2 = E||g||^2 - 2 E<g, m> + E||m||^2, and order acts through the inner product of the parts
    about the mean, at most (1 - c) ||w|| E||g||^2 (Cauchy and Schwarz). An EMA of long memory moves kappa little.
    """
    return float(2 * np.sqrt(fitted.mean_weights(ages)[2]))
