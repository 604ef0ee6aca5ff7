"""Shares in a path length: of groups, of windows, and of single steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import by_group, jackknife, named
from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.measures.predictors import Evidence
from gradlog.analysis.measures.spec import AnalysisSpec, Values

MOST_STEPS = 1000
"""Steps whose shares in the path length are listed."""


def step_shares(path: Float32, whole: float) -> tuple[Values, NDArray[np.int64]]:
    """Shares of the rows in the path length of ``last``: the largest, and the fewest rows that hold half of it.

    Parameters
    ----------
    path : float32 (rows,)
        Squared error of each row.
    whole : float
        Path length.

    Returns
    -------
    values : dict
    listed : int64 (at most MOST_STEPS,)
        The rows whose shares are listed.

    Examples
    --------
    >>> found, listed = step_shares(np.array([1, 5, 2], np.float32), 8.0)
    >>> found["half_path_steps"], listed.tolist()
    (1.0, [0, 1, 2])
    """
    listed = np.arange(len(path))
    if len(path) > MOST_STEPS:  # of equals the first
        least = np.partition(path, -MOST_STEPS)[-MOST_STEPS]
        above, equal = np.flatnonzero(path > least), np.flatnonzero(path == least)
        listed = np.sort(np.concatenate([above, equal[: MOST_STEPS - len(above)]]))
    share = path[listed].astype(np.float64) / whole if whole > 0 else np.zeros(len(listed))
    reached = np.cumsum(np.sort(path)[::-1], dtype=np.float64)
    half = np.searchsorted(reached, reached[-1] / 2) + 1 if len(path) and reached[-1] > 0 else 0
    return {"step_path_share": share, "half_path_steps": float(half)}, listed


def shares(parts: list[Values], whole: Float64 | float) -> None:
    """Give each part, a group or a window, its share in a path length (predictor,)."""
    whole = np.asarray(whole)
    for part in parts:
        part["path_share"] = np.divide(part["path_length"], whole, out=np.zeros_like(whole), where=whole > 0)


def group_shares(evidence: Evidence, spec: AnalysisSpec) -> list[Values]:
    """Shares of each group in a window's path length (predictor,), with intervals; NaN where there is no path.

    Predictors are fitted to the window as a whole. The exact norms are not used: both sums are the sketch's own.
    """
    paths = [by_group(p.fit(evidence).path, spec.k, spec.exact_groups) for p in spec.predictors]
    found = np.array(
        [[jackknife(np.divide, own, path.sum(axis=0), exact=spec.exact) for own in path] for path in paths]
    )
    found[..., 1:] = np.clip(found[..., 1:], 0, 1)
    return [named("path_share", group.T) for group in found.swapaxes(0, 1)]
