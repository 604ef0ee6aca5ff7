"""Confidence intervals for the sketch's error: k coordinates are k nearly independent estimates of every sum.

Delete-one jackknife of a ratio or of any smooth function of pooled sums (Tukey 1958; Efron and Stein 1981), with the
degrees of freedom of what a coordinate contributes. To first order that is a quadratic form in one random direction,
whose excess kurtosis is at most 12, that of a single square (chi squared with one degree). A variance estimated from k
such values has a relative variance of up to 12 / k + 2 / (k - 1), as much as one of k / 7 normal values (Satterthwaite
1946). The usual k - 1 degrees undercover at small k; ``benchmarks/interval_coverage.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gradlog.analysis.summary import Float64

LEVEL = 0.95


def pool(per_column: Float64, k: int, exact: Sequence[bool] = ()) -> Float64:
    """Sum over groups: (..., groups x k) -> (..., k); ``exact`` as in ``by_group``."""
    pooled: Float64 = by_group(per_column, k, exact).sum(axis=-2)
    return pooled


def by_group(per_column: Float64, k: int, exact: Sequence[bool] = ()) -> Float64:
    """Cut into groups: (..., groups x k) -> (..., groups, k).

    The sums of ``exact`` groups do not vary with the sketch: each coordinate stands for the same part of them.

    >>> by_group(np.array([1.0, 3.0, 1.0, 3.0]), 2, exact=[True, False]).tolist()
    [[2.0, 2.0], [1.0, 3.0]]
    """
    parts: Float64 = per_column.reshape(*per_column.shape[:-1], -1, k)
    if not any(exact):
        return parts
    return np.where(np.asarray(exact)[:, None], parts.mean(axis=-1, keepdims=True), parts)


def quantile(k: int, level: float = LEVEL) -> float:
    """Half-width of a two-sided interval in standard errors estimated from k coordinates.

    >>> round(quantile(64), 2), round(quantile(256), 2)
    (2.26, 2.03)
    """
    from scipy import special  # the command's help does without

    return float(special.stdtrit(max((k - 1) / 7, 1), 0.5 + level / 2))


def leave_one_out(per_coordinate: Float64) -> Float64:
    """Return the sums without one coordinate each, scaled back to all: (..., k) -> (..., k)."""
    k = per_coordinate.shape[-1]
    left: Float64 = (per_coordinate.sum(axis=-1, keepdims=True) - per_coordinate) * (k / (k - 1))
    return left


def jackknife(
    statistic: Callable[..., Float64], *coordinates: Float64, exact: bool = False, level: float = LEVEL
) -> tuple[float, float, float]:
    """Value and confidence interval of a function of sums.

    Parameters
    ----------
    statistic : callable
        Maps sums (...,) to a value, elementwise.
    *coordinates : float64 (k,)
        Contribution of each sketch coordinate to each sum.
    exact : bool
        The coordinates are the gradient's own: no sketch error, low = high = value.

    Returns
    -------
    value, low, high : float
        NaN bounds when there are fewer than 4 coordinates.

    Examples
    --------
    >>> jackknife(np.divide, np.array([1.0, 2.0]), np.array([2.0, 2.0]), exact=True)
    (0.75, 0.75, 0.75)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*(x.sum(axis=-1) for x in coordinates)))
        if exact:
            return value, value, value
        k = coordinates[0].shape[-1]
        if k < 4:
            return value, float("nan"), float("nan")
        replicates = statistic(*(leave_one_out(x) for x in coordinates))
        spread = np.sqrt((k - 1) / k * np.square(replicates - replicates.mean()).sum())
    half = quantile(k, level) * float(spread)
    return value, value - half, value + half
