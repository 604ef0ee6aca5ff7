"""What shuffled noise would show: kappa of a linear predictor, and the rank, when the same rows come in random order.

Let c = E<g_i, g_j>_{i != j} / E||g||^2, and let the weights in use at a row have the sum s1 and the square sum s2. The
row's expected error is (1 - 2 c s1 + c s1^2 + (1 - c) s2) E||g||^2. Summed over the rows with the history that each
really has, this is the exact permutation mean. Far from the edges it tends to (1 - c)(1 + ||w||^2) for weights of
sum 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.measures.predictors import Fitted


def coherence(power: float, square: float, rows: int) -> float:
    """Return c of the module, 0 where it has no meaning.

    From the sum of the squares of ``rows`` rows, and the square of their sum.
    """
    pairs = power * (rows - 1)
    return (square - power) / pairs if pairs > 0 else 0.0


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
