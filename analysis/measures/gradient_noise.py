"""Signal and noise of the gradient: ||grad F||^2, the trace of the minibatch noise covariance, and the noise scale.

From half batches: let g_a and g_b be the gradients of the two halves of a batch at one theta, g their mean. Their
noises are independent, so E<g_a, g_b> = ||grad F||^2 at any step size, and E||(g_a - g_b) / 2||^2 = tr Sigma, that of
the noise of g. As <g_a, g_b> = ||g||^2 - ||(g_a - g_b) / 2||^2, squared norms are enough, without sketch error. With
a logged batch size b the noise scale b tr Sigma / ||grad F||^2 estimates the critical batch size (McCandlish et al.
2018). With the share s = ||grad F||^2 / E||g||^2 it is b (1 / s - 1): its interval is that of s turned around, with no
upper end where s may be 0.

From lags: <g_t, g_{t-a}> for a >= 1 is in the mean <grad F_t, grad F_{t-a}> only where the steps do not react to their
own noise. They do: theta_t holds -eta noise_{t-a}, which lowers the product by about eta tr(H Sigma), most at lag 1. So
the lag coherence, the mean product over the mean squared norm, is a fact about the log. A straight line through lags
1..4, read off at lag 0, is taken for the signal only where the products are positive and fall with the lag.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import ENDS, Control, jackknife, named, pool, quantile
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.fluctuation import half_width
from gradlog.analysis.measures.predictors import Evidence

LAGS = 4
NAMES = ("signal", "signal_share", "noise", "noise_scale")

BLOCKS, FEWEST = 40, 5
"""Blocks of steps that intervals from half batches come from, and the least rows in each."""

FLAT = 1e-6
"""Differences of lag coherences that count as rounding."""

Interval = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class HalfBatches:
    """Sums over rows of known half batches, by block of steps: equal parts of a scope, in order.

    Attributes
    ----------
    rows : float64 (blocks,)
    energy, noise : float64 (blocks,)
        Sums of ||g||^2 and of ||(g_a - g_b) / 2||^2.
    sketched : int
        Coordinates of the sketch that both come from, 0 where they are exact.
    """

    rows: Float64
    energy: Float64
    noise: Float64
    sketched: int = 0


def signal_weights(lags: int) -> Float64:
    """Weights on mean lag products 1..lags whose sum is a least-squares line's value at lag 0.

    >>> signal_weights(2)
    array([ 2., -1.])
    """
    design = np.stack([np.ones(lags), np.arange(1, lags + 1)], axis=1)
    weights: Float64 = np.linalg.pinv(design)[0] if lags > 1 else np.ones(1)
    return weights.round(12)


def lag_coherence(
    evidence: Evidence, k: int, exact: bool, exact_groups: Sequence[bool] = (), control: Control | None = None
) -> dict[str, Float64]:
    """Mean product of rows at lags 1..4 over their mean squared norm, with the sketch's interval, each (lag,).

    NaN where no two rows are so far apart. ``control`` is the energy of these rows, if that is known.
    """
    energy, products, pairs = _lag_products(evidence, k, exact_groups)
    found = np.full((3, LAGS), np.nan)
    for lag in np.flatnonzero(pairs):
        found[:, lag] = jackknife(np.divide, products[lag] / pairs[lag], energy, exact=exact, control=control)
    return named("lag_coherence", found)


def withheld(coherence: Mapping[str, Float64 | float], steps_per_epoch: int = 0) -> str:
    """Say why lags do not tell signal from noise; "" where they do.

    Drawing without replacement from an epoch of m batches lowers the product of neighbours too, by 1 / (m - 1) of the
    noise; it may be a tenth of the coherence at most.
    """
    value, low = (np.atleast_1d(coherence[f"lag_coherence{end}"]) for end in ENDS[:2])
    if np.isnan(value).any():
        return f"no energy, or no rows {LAGS} steps apart"
    if not (low > 0).all():
        return "lag coherence is not above zero"
    if (np.diff(value) > FLAT).any():
        return "lag coherence does not fall with the lag"
    if steps_per_epoch > 1 and (1 - value[0]) / (steps_per_epoch - 1) > 0.1 * value[0]:
        return f"epochs of {steps_per_epoch} steps hide it"
    return ""


def from_lags(
    evidence: Evidence,
    k: int,
    exact: bool,
    batch: float = float("nan"),
    exact_groups: Sequence[bool] = (),
    control: Control | None = None,
) -> dict[str, float]:
    """Signal, its share, noise trace and noise scale from lag products that are not ``withheld``."""
    energy, products, pairs = _lag_products(evidence, k, exact_groups)
    signal = signal_weights(LAGS) @ (products / pairs[:, None])
    with_interval = partial(jackknife, exact=exact, control=control)
    found = {
        "signal": with_interval(lambda s: s, signal),
        "signal_share": with_interval(np.divide, signal, energy),
        "noise": with_interval(lambda s, e: e - s, signal, energy),
    }
    return _named(found, batch)


def from_half_batches(halves: HalfBatches, batch: float = float("nan")) -> dict[str, float]:
    """Signal, its share, noise trace and noise scale, with intervals for what other minibatches would have given."""
    product = halves.energy - halves.noise
    found = {
        "signal": _ratio(product, halves.rows, halves),
        "signal_share": _ratio(product, halves.energy, halves),
        "noise": _ratio(halves.noise, halves.rows, halves),
    }
    return _named(found, batch)


def batch_size(noise: Mapping[str, float | None]) -> float:
    """Batch size behind a noise scale and a signal share; NaN where one of them is not known.

    >>> batch_size({"noise_scale": 96.0, "signal_share": 0.25})
    32.0
    """
    for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
        scale, share = noise.get(f"noise_scale{end}"), noise.get(f"signal_share{other}")
        if scale and share and math.isfinite(scale) and 0 < share < 1:
            return scale * share / (1 - share)
    return math.nan


def beside(batch: float, noise: Mapping[str, float | None]) -> str:
    """Say on which side of a noise scale a batch size surely lies: "below", "above"; "" where its interval holds it.

    >>> beside(32, {"noise_scale_low": 80.0, "noise_scale_high": None})
    'below'
    """
    low, high = (noise.get(f"noise_scale{end}") for end in ENDS[1:])
    if low is not None and low > batch:
        return "below"
    return "above" if high is not None and high < batch else ""


def unknown() -> dict[str, float]:
    """NaN for every number."""
    return {f"{name}{end}": float("nan") for name in NAMES for end in ENDS}


def _ratio(numerator: Float64, denominator: Float64, halves: HalfBatches) -> Interval:
    """Ratio of sums, with the wider of the intervals from the finest blocks and from those of two such.

    Fewer and larger blocks where rows are few; no interval below 50 rows.
    """
    value = float(numerator.sum() / denominator.sum())
    rows = halves.rows.sum()
    widths: list[float] = []
    for join in (1, 2, 4):
        count = BLOCKS // join
        if rows >= FEWEST * count and len(widths) < 2:
            parts = (x.reshape(count, join).sum(axis=1) for x in (numerator, denominator))
            widths.append(float(half_width(*parts)))
    if not widths:
        return value, float("nan"), float("nan")
    half = max(widths)
    if halves.sketched:  # Var <Sx, Sy> <= 2 / k for unit vectors, and all rows share the map
        half = float(np.hypot(half, quantile(halves.sketched) * np.sqrt(2 / halves.sketched) * abs(value)))
    return value, value - half, value + half


def _lag_products(evidence: Evidence, k: int, exact: Sequence[bool]) -> tuple[Float64, Float64, NDArray[np.float64]]:
    """Mean squared norm (k,), sums of lag products (LAGS, k), and their numbers (LAGS,)."""
    energy = pool(evidence.of("energy"), k, exact) / float(evidence.totals["rows"] or np.nan)
    return energy, pool(evidence.of("lag")[:LAGS], k, exact), evidence.totals["lag_pairs"][:LAGS]


def _named(found: dict[str, Interval], batch: float) -> dict[str, float]:
    """Put names to the ends; no squared norm is negative, no share above 1; a noise scale needs a positive share."""
    most = {"signal_share": 1.0}
    clipped = {name: np.clip(ends, 0.0, most.get(name)).tolist() for name, ends in found.items()}
    share, low, high = clipped["signal_share"]
    clipped["noise_scale"] = [_scale(share, batch), _scale(high, batch), _scale(low, batch)]
    return {key: v for name, ends in clipped.items() for key, v in named(name, ends).items()}


def _scale(share: float, batch: float) -> float:
    """Noise scale at a signal share; NaN where that is not positive."""
    return batch * max(1 / share - 1, 0.0) if share > 0 else float("nan")
