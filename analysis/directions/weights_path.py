"""How far the weights went: from recorded updates, or from the sketches of the parameters that a run keeps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import pool, quantile
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.reading.rows import buffer_rows
from gradlog.analysis.reading.store.segment import snapshots
from gradlog.errors import TooFewStepsError

if TYPE_CHECKING:
    from gradlog.analysis.reading.rows import RowSource
    from gradlog.analysis.reading.run import Run

SOURCES = ("updates", "snapshots")
"""What may be recorded of the weights."""

POINTS = 240
"""Steps at which the distance is told, of a run with more."""


@dataclasses.dataclass(frozen=True)
class WeightsPath:
    """Path of the weights, from their place at the first of these steps.

    Attributes
    ----------
    source : {"updates", "snapshots"}
        What was recorded of them.
    steps : int64 (points,)
        Steps before which the weights were there.
    distance, low, high : float64 (points,)
        Distance from the start, with its sketch 95 % interval.
    length : float64 (points,)
        Length of the path so far. From updates it is that of every step; from snapshots it joins their places by
        straight lines, so that it is a lower bound.
    """

    source: Literal["updates", "snapshots"]
    steps: NDArray[np.int64]
    distance: Float64
    low: Float64
    high: Float64
    length: Float64

    @property
    def efficiency(self) -> float:
        """Distance at the end over the length: 1 on a straight line, 1 / sqrt(steps) on a random walk."""
        return float(self.distance[-1] / self.length[-1]) if self.length[-1] > 0 else float("nan")


def weights_path(run: Run) -> WeightsPath:
    """Measure how far the weights of a run went, and by how long a path.

    Parameters
    ----------
    run : Run
        With the update of each step, without a gap; or with two snapshots of its parameters, as an attached optimizer
        keeps them.

    Returns
    -------
    WeightsPath

    Raises
    ------
    TooFewStepsError
        Neither is there.

    Notes
    -----
    The sketch is linear, and keeps squared distances without bias (in the mean over maps); the interval is a normal one
    from the spread over its k coordinates.

    Examples
    --------
    >>> weights_path(open_run("updates.zarr")).efficiency          # doctest: +SKIP
    0.21
    """
    if run.updates is not None:
        return _of_updates(run, run.updates)
    places = snapshots(run.segments)
    if len(places) < 2:
        raise TooFewStepsError(
            f"{run.where}: expected updates or two snapshots of the parameters, got {len(places)}; "
            'attach an optimizer, or record with what="update"'
        )
    steps, cubes = np.array(list(places)), np.stack(list(places.values())).astype(np.float64)
    moves = _norms(run, np.diff(cubes, axis=0))[0]
    return WeightsPath("snapshots", steps, *_norms(run, cubes - cubes[0]), np.concatenate([[0.0], np.cumsum(moves)]))


def _of_updates(run: Run, updates: RowSource) -> WeightsPath:
    """Add up the updates; steps that the optimizer skipped moved nothing."""
    if run.n_steps == 0 or len(run.gaps) or run.header.every != 1 or not run.finite.all():
        raise TooFewStepsError(f"{run.where}: expected every update of a stretch of steps, got a run with gaps")
    shown = np.unique(np.linspace(0, run.n_steps, min(run.n_steps, POINTS) + 1).round().astype(int))
    size, place = buffer_rows(run.rows), np.zeros((run.n_groups, run.k))
    places, lengths = {0: place.copy()}, [np.zeros(1)]
    for start in range(0, run.n_steps, size):
        rows = updates.read(start, min(start + size, run.n_steps)).reshape(-1, run.n_groups, run.k)
        path = place + np.cumsum(rows, axis=0, dtype=np.float64)
        lengths.append(np.sqrt(np.einsum("tgk,tgk->t", rows, rows, dtype=np.float64)))
        for row in shown[(shown > start) & (shown <= start + len(rows))]:
            places[int(row)] = path[row - 1 - start].copy()
        place = path[-1]
    if not np.isfinite(place).all():
        raise TooFewStepsError(f"{run.where}: expected every update of a stretch of steps, some rows hold none")
    ends = _norms(run, np.stack(list(places.values())))
    return WeightsPath("updates", run.steps[0] + shown, *ends, np.cumsum(np.concatenate(lengths))[shown])


def _norms(run: Run, cubes: Float64) -> tuple[Float64, Float64, Float64]:
    """Norm of each sketch (places, groups, k), with its interval: NaN for one coordinate, which shows no spread."""
    exact = exact_groups(run.whole_header)
    squares = pool(np.square(cubes).reshape(len(cubes), -1), run.k, exact)
    total = squares.sum(axis=-1)
    if run.k > 1:
        half = quantile(run.k) * np.sqrt(run.k) * squares.std(axis=-1, ddof=1)
    else:
        half = np.full_like(total, 0.0 if all(exact) else np.nan)
    return np.sqrt(total), np.sqrt(np.maximum(total - half, 0.0)), np.sqrt(total + half)
