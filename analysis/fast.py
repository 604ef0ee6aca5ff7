"""The column sums of the pass by compiled loops, where the optional extra ``fast`` (numba) is installed.

The same sums as ``kernel.add_tile`` and ``ema.Ema``, by the plain recursions: float32 over 32 rows, float64 above.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from gradlog.analysis.ema import Ema
from gradlog.analysis.summary import Float32, Summary

WORTH = 2**26
"""Values from which on the saving pays for loading the compiled loops."""


def available() -> bool:
    """Whether numba can be imported."""
    return find_spec("numba") is not None


def add_tile(X: Float32, start: int, stop: int, h: Float32, summary: Summary, ema: Ema) -> None:
    """Do what ``kernel.add_tile`` does."""
    from gradlog.analysis import loops

    s, lags = summary.sums, summary.recipe.lags
    sums = np.zeros((4 + lags + len(ema.betas), X.shape[1]))
    loops.tile(X, start, stop, h, ema.betas.astype(np.float32), ema.r, sums, summary.path)
    for name, add in zip(("total", "energy", "increment", "trend"), sums, strict=False):
        s[name] += add
    s["last"] += sums[2]
    s["lag"] += sums[4 : 4 + lags]
    ema.p0 += sums[4 + lags :]
    ema.open_end(h[1:], start)
