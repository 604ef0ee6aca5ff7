"""Confidence intervals for the sketch's error: k coordinates are k nearly independent estimates of every sum.

One sum is known without error, the energy: norms are logged beside the sketch. What a sum's coordinates share with
those of the energy is taken out of it (a control variate: Lavenberg and Welch 1981; in surveys the regression
estimator, Cochran 1977), which leaves between an eighth and all of the error of a ratio to the sketched energy
(``docs/what-the-sketch-sees.md``).

Delete-one jackknife of a ratio or of any smooth function of pooled sums (Tukey 1958; Efron and Stein 1981), with the
degrees of freedom of what a coordinate contributes. To first order that is a quadratic form in one random direction,
whose excess kurtosis is at most 12, that of a single square (chi squared with one degree). A variance estimated from k
such values has a relative variance of up to 12 / k + 2 / (k - 1), as much as one of k / 7 normal values (Satterthwaite
1946). The usual k - 1 degrees undercover at small k; ``benchmarks/interval_coverage.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from gradlog.analysis.common.types import Float64

Number = TypeVar("Number")

ENDS = ("", "_low", "_high")
"""What the names of a value and of the ends of its interval end in."""

LEVEL = 0.95

ROUNDING = 1e-6
"""Relative differences of coordinates that are the rounding of float32 sums, and no sketch error."""


FEWEST = 16
"""Coordinates from which on a slope is worth fitting: it makes the variance about 1 / (k - 3) larger."""


class Control(NamedTuple):
    """A sum that is known: what each coordinate contributes to it, float64 (k,), and its exact value.

    Both methods take the contributions of each coordinate to other sums, (..., k). A sum less its regression on the
    known one is x - b (p - e), p the sketch's value of the known sum e, b the slope over the coordinates.

    Examples
    --------
    A sum that is twice the known one is known too, whatever the coordinates show:

    >>> control = Control(np.array([1.0, 2.0, 3.0, 1.0]), 8.0)
    >>> float(control.sums(np.array([2.0, 4.0, 6.0, 2.0])))
    16.0
    """

    power: Float64
    energy: float

    def sums(self, x: Float64) -> Float64:
        """Add up the coordinates, (...,)."""
        away = self.power - self.power.mean()
        slope = self._slope(x @ away, away @ away)
        return np.asarray(x.sum(axis=-1) - slope * (self.power.sum() - self.energy))

    def without_one(self, x: Float64) -> Float64:
        """Add up all coordinates but one, and scale to all, (..., k); the slope too is of the others."""
        k = len(self.power)
        away, apart = self.power - self.power.mean(), x - x.mean(axis=-1, keepdims=True)
        products = (x @ away)[..., None] - k / (k - 1) * apart * away
        slope = self._slope(products, away @ away - k / (k - 1) * away * away)
        return np.asarray(leave_one_out(x) - slope * (leave_one_out(self.power) - self.energy))

    def _slope(self, products: Float64, squares: Float64) -> Float64:
        known = squares > len(self.power) * (ROUNDING * self.power.mean()) ** 2
        return np.where(known, products / np.where(known, squares, 1.0), 0.0)


def named(name: str, ends: Iterable[Number]) -> dict[str, Number]:
    """Name a value and the ends of its interval.

    >>> named("kappa", (1.0, 0.9, 1.1))
    {'kappa': 1.0, 'kappa_low': 0.9, 'kappa_high': 1.1}
    """
    return {name + end: number for end, number in zip(ENDS, ends, strict=True)}


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


def total(x: Float64, control: Control | None = None) -> Float64:
    """Sum over the coordinates, (..., k) -> (...), as well as it is known.

    >>> float(total(np.array([1.0, 2.0])))
    3.0
    """
    return np.asarray(x.sum(axis=-1)) if control is None else control.sums(x)


def leave_one_out(per_coordinate: Float64) -> Float64:
    """Return the sums without one coordinate each, scaled back to all: (..., k) -> (..., k)."""
    k = per_coordinate.shape[-1]
    left: Float64 = (per_coordinate.sum(axis=-1, keepdims=True) - per_coordinate) * (k / (k - 1))
    return left


def spread(replicates: Float64) -> Float64:
    """Estimate the standard error of a value from what it is without one coordinate each: (..., k) -> (...).

    >>> float(spread(np.array([1.0, 3.0])))
    1.0
    """
    k = replicates.shape[-1]
    apart = replicates - replicates.mean(axis=-1, keepdims=True)
    return np.asarray(np.sqrt((k - 1) / k * np.square(apart).sum(axis=-1)))


def jackknife(
    statistic: Callable[..., Float64],
    *coordinates: Float64,
    exact: bool = False,
    level: float = LEVEL,
    control: Control | None = None,
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
    control : Control, optional
        A sum whose exact value is known.

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
        value = float(statistic(*(total(x, control) for x in coordinates)))
        if exact:
            return value, value, value
        k = coordinates[0].shape[-1]
        if k < 4:
            return value, float("nan"), float("nan")
        replicates = statistic(*(control.without_one(x) if control else leave_one_out(x) for x in coordinates))
        error = float(spread(replicates))
    half = quantile(k - (control is not None), level) * error  # a slope takes one degree of freedom
    return value, value - half, value + half
