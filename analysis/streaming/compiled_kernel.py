"""The column sums of the pass by compiled loops, where the optional extra ``fast`` (numba) is installed.

The same sums as ``kernel.add_tile`` and ``ema.Ema``, by the plain recursions: float32 over 32 rows, float64 above.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from gradlog.analysis.common.types import Float32
from gradlog.analysis.streaming.ema import NEGLIGIBLE, Ema
from gradlog.analysis.streaming.summary import Summary

WORTH = 2**26
"""Values from which on the saving pays for loading the compiled loops."""


@cache
def available() -> bool:
    """Whether numba is installed and works: a broken one, or no place to keep compiled code, counts as none."""
    if find_spec("numba") is None:
        return False
    try:
        import_module("gradlog.analysis.streaming.compiled_loops")
    except Exception:  # of what it imports itself, anything may be raised
        return False
    return True


def add_tile(X: Float32, start: int, stop: int, h: Float32, summary: Summary, ema: Ema, path: Float32) -> None:
    """Do what ``kernel.add_tile`` does."""
    from gradlog.analysis.streaming import compiled_loops

    s, lags, B = summary.sums, summary.recipe.lags, len(ema.betas)
    sums = np.zeros((4 + lags + 2 * B, X.shape[1]))
    powers = ema.betas ** np.arange(start + 1, stop + 1, compiled_loops.SUM)[:, None]
    powers[powers < NEGLIGIBLE] = 0
    compiled_loops.tile(X, start, stop, h, ema.betas.astype(np.float32), powers, ema.r, sums, path)
    for name, add in zip(("total", "energy", "increment", "trend"), sums, strict=False):
        s[name] += add
    s["last"] += sums[2]
    s["lag"] += sums[4 : 4 + lags]
    ema.p0 += sums[4 + lags : 4 + lags + B]
    ema.u += sums[4 + lags + B :]
