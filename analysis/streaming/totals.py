"""Totals: what the rows of a range add to every sum, given all history before them; they add over ranges."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from gradlog.analysis.common.types import Float64
from gradlog.analysis.streaming.epoch_sums import EpochSums
from gradlog.analysis.streaming.recipe import SUMS
from gradlog.analysis.streaming.summary import Summary, edge

Totals = dict[str, Any]
"""Arrays, and ``epochs``, which are ``EpochSums``: hence Any."""


def contributions(panes: list[Summary]) -> list[Totals]:
    """Return what the rows of each pane add to every sum, given all history before them; starts after a gap.

    The entries of each pane are those of ``Recipe.zeros``, which add over panes, and ``path`` and ``epochs``,
    whose rows follow on: any window is a sum of its panes. The Grams are whole, and ``edge`` is what ``moments`` needs.
    The list is empty afterwards: totals take the place of summaries.
    """
    found = []
    state = Summary.gap(panes[0].recipe)
    panes.reverse()
    while panes:
        pane = panes.pop()
        before, lags = state.tail, pane.recipe.lags
        sums = {name: x.astype(np.float64, copy=False) for name, x in pane.sums.items()}
        pane.sums = sums | {"rows": sums["rows"].copy()}
        state.sums = sums | {"rows": np.zeros(())}  # the state's own are zero: add what joins it to the pane's
        state = state.absorb(pane)
        totals: Totals = dict(state.sums)
        totals["edge"] += pane.recipe.fold(edge(state.tail, lags) - edge(before, lags))
        for name in totals:
            if name in SUMS and SUMS[name].triangle:
                totals[name] = mirrored(totals[name])
        totals["path"], totals["epochs"] = state.path, state.epochs
        found.append(totals)
        state = state.state()
    return found


def add(parts: list[Totals]) -> Totals:
    """Totals of several panes together."""
    if len(parts) == 1:
        return parts[0]
    joined = {name: sum((p[name] for p in parts[1:]), start=parts[0][name].copy()) for name in parts[0] if name in SUMS}
    joined["path"] = np.concatenate([p["path"] for p in parts])
    joined["epochs"] = reduce(EpochSums.merge, (p["epochs"] for p in parts))
    return joined


def moments(totals: Totals, lags: int, columns: slice) -> Float64:
    """Return sums of g_{t-i} g_{t-j} over the rows, i, j = 0..lags, as (lags + 1, lags + 1, columns).

    Lag products, less the products at the edges of ended chains and those that belong to a neighbouring pane.
    """
    R = np.concatenate([totals["energy"][None, columns], totals["lag"][:lags, columns]])
    i = np.arange(lags + 1)
    M: Float64 = R[np.abs(i[:, None] - i)]
    M[1:, 1:] -= totals["edge"][:lags, :lags, columns]
    return M


def mirrored(upper: Float64) -> Float64:
    """Whole Grams from their upper triangles."""
    whole: Float64 = np.triu(upper) + np.swapaxes(np.triu(upper, 1), -1, -2)
    return whole
