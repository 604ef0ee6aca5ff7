"""Steps at which the direction of training turns: change points of the mean gradient.

At each boundary between parts of the run the means of the parts before and after are compared by the cosine of the
direction map, free of the noise of the steps. It is held against the median of all boundaries: a run that keeps its
direction has 1 everywhere, one that turns steadily something lower, and neither has a turn. At a turn the cosine is
lower than that by more than its error.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.common.types import Float64
from gradlog.analysis.directions.direction_map import cosines
from gradlog.analysis.directions.stretches import PARTS, Stretches, stretches

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

SIDE = 2 * PARTS
"""Parts on each side of a boundary whose means are compared."""

SCORE, DROP = 1.5, 0.15
"""Half-widths of the 95 % interval by which the cosine at a turn lies below the median, and by how much at least.

Chosen on the runs of ``benchmarks/turns.py`` with seeds 0 to 9; its other runs measure what they miss and find by
mistake.
"""

FEWEST = 8
"""Boundaries with a known cosine that make a median."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """A change point of the direction.

    Attributes
    ----------
    step : int
        First step after it, as exactly as the parts of stretches tell.
    cosine, low, high : float
        Of the mean gradients of up to two stretches before and after, with its 95 % interval.
    usual : float
        Median of that cosine over all boundaries.
    """

    step: int
    cosine: float
    low: float
    high: float
    usual: float


def turns(run: Run, rows: int | None = None, group: str | None = None, scheduler: object = None) -> list[Turn] | None:
    """Find the steps at which the mean gradient changes its direction at once.

    Parameters
    ----------
    run : Run
        Its sketch is read once.
    rows, group, scheduler
        As of ``direction_map``.

    Returns
    -------
    list of Turn or None
        In order of time. None where the direction is known at fewer than 8 boundaries: nothing can be said.

    Raises
    ------
    TooFewStepsError, ValueError
        As of ``direction_map``.

    Examples
    --------
    >>> turns(open_run("run.zarr"))[0].step                  # doctest: +SKIP
    500
    """
    return turns_of(stretches(run, rows, scheduler=scheduler).of(group))


def turns_of(found: Stretches) -> list[Turn] | None:
    """Find the turns between the parts of some stretches."""
    usual, turned = usual_and_turns(found)
    return None if np.isnan(usual) else turned


def usual_and_turns(found: Stretches) -> tuple[float, list[Turn]]:
    """Return the median of the cosine over all boundaries, NaN where it is known at fewer than 8, and the turns."""
    edges = range(SIDE, len(found.means) - SIDE + 1)
    ends = np.array([_across(found, edge) for edge in edges]).reshape(-1, 3)
    value, low, high = ends.T
    known = np.isfinite(value)
    if known.sum() < FEWEST:
        return float("nan"), []
    usual = float(np.median(value[known]))
    half = np.maximum(value - low, high - value)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(known & (usual - value >= DROP), (usual - value) / half, 0.0)
    turned = []
    while (score > SCORE).any():
        i = int(np.argmax(score))
        turned.append(Turn(int(found.starts[edges[i]]), float(value[i]), float(low[i]), float(high[i]), usual))
        score[max(0, i - SIDE) : i + SIDE + 1] = 0.0
    return usual, sorted(turned, key=lambda turn: turn.step)


def _across(found: Stretches, edge: int) -> Float64:
    """Cosine of the means before and after an edge between parts, with its interval."""
    both = found.means[edge - SIDE : edge + SIDE].reshape(2, SIDE, -1)
    return np.array([x[0, 1] for x in cosines(both, found.k, found.exact)])
