"""Signal and noise of the gradient from lag products: steps draw their minibatches independently.

<g_t, g_{t-a}> for a >= 1 has no noise energy in its mean, only <grad F_t, grad F_{t-a}>. A straight line through
the mean lag products of lags 1..4, read off at lag 0, estimates ||grad F||^2; what the squared norm has above it is
the trace of the noise covariance. With a logged batch size b the simple noise scale is b tr(Sigma) / ||grad F||^2
(McCandlish et al. 2018). With the share s = ||grad F||^2 / E||g||^2 that is b (1 / s - 1): its interval is that of s
turned around, with no upper end where s may be 0. The intervals cover the sketch's error, not the sampling of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradlog.analysis.intervals import jackknife, pool
from gradlog.analysis.predictors import Evidence
from gradlog.analysis.summary import Float64

LAGS = 4


def signal_weights(lags: int) -> Float64:
    """Weights on mean lag products 1..lags whose sum is a least-squares line's value at lag 0.

    >>> signal_weights(2)
    array([ 2., -1.])
    """
    design = np.stack([np.ones(lags), np.arange(1, lags + 1)], axis=1)
    weights: Float64 = np.linalg.pinv(design)[0] if lags > 1 else np.ones(1)
    return weights.round(12)


def signal_and_noise(
    evidence: Evidence, k: int, exact: bool, batch: float = float("nan"), exact_groups: Sequence[bool] = ()
) -> dict[str, float]:
    """Mean squared gradient free of noise, its share, the noise trace and the noise scale, with intervals.

    NaN where no two rows follow each other; the noise scale, or an end of its interval, where the signal may be 0.
    """
    rows, pairs = float(evidence.totals["rows"]), evidence.totals["lag_pairs"]
    lags = min(LAGS, int(np.count_nonzero(pairs[:LAGS])))
    if lags == 0:
        nan = float("nan")
        return {
            f"{n}{e}": nan for n in ("signal", "signal_share", "noise", "noise_scale") for e in ("", "_low", "_high")
        }
    energy = pool(evidence.of("energy"), k, exact_groups) / rows
    products = pool(evidence.of("lag")[:lags], k, exact_groups) / pairs[:lags, None]
    signal = signal_weights(lags) @ products
    found = {
        "signal": jackknife(lambda s: s, signal, exact=exact),
        "signal_share": jackknife(np.divide, signal, energy, exact=exact),
        "noise": jackknife(lambda s, e: e - s, signal, energy, exact=exact),
    }
    share, least, most = found["signal_share"]
    found["noise_scale"] = _scale(share, batch), _scale(most, batch), _scale(least, batch)
    return {name + end: v for name, value in found.items() for end, v in zip(("", "_low", "_high"), value, strict=True)}


def _scale(share: float, batch: float) -> float:
    """Noise scale at a signal share; NaN where that is not positive."""
    return batch * max(1 / share - 1, 0.0) if share > 0 else float("nan")
