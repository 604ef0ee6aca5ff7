"""Steps at which a run leaves its usual course: series out of their bands, jumps of the learning rate, NaN or inf."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.events.band import WINDOW, band
from gradlog.analysis.reading.rows import buffer_rows, increment_rows
from gradlog.analysis.reading.run import Run
from gradlog.analysis.streaming.scalar_sums import CLIP

SCORE, GROUP_SCORE = 5.5, 7.0
"""Usual deviations from which on a series of the run, or of one of its many groups, has left its band.

Chosen on the trainings of ``benchmarks/events.py`` with even seeds; its other trainings measure what they miss and find
by mistake.
"""

RATIOS = {"loss": 1.2, "norm": 1.4, "change": 1.4}
"""Times the running median that a series must at least have reached: on a smooth run a nothing has a high score."""

LARGE_SCORE, LARGE_RATIO = 4.0, 10.0
"""So many deviations are enough for a value of so many times the running median: of series that vary by factors."""

JUMP = 2.0
"""Times the learning rate of the step before from which on it has jumped."""

MOST_GROUPS = 256
"""Groups whose norms are watched: where a run has more, those with the largest."""

APART = 5
"""Rows between two departures of one event."""


@dataclasses.dataclass(frozen=True)
class Departure:
    """A series that left its band.

    Attributes
    ----------
    series : str
        ``"loss"``, ``"norm"``, ``"change"``, ``"lr"``, ``"non-finite"``, or the name of a group, whose
        norm it is. The change is the norm of the difference from the gradient before.
    of_group : bool
        Whether it is the norm of a group.
    step : int
        First step of the event at which it was out of its band.
    score, ratio : float
        Usual deviations from the running median, and times the running median, where it was farthest; NaN where they
        mean nothing. Deviations are infinite where the series had not varied before, and both are for a loss of inf.
    """

    series: str
    of_group: bool
    step: int
    score: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Watched:
    """A series with the rows at which it is out of its band."""

    series: str
    of_group: bool
    out: NDArray[np.bool_]
    score: Float64
    ratio: Float64

    def departure(self, steps: NDArray[np.int64], start: int, stop: int) -> Departure | None:
        """Tell what it did within an event, rows [start, stop) of these steps."""
        rows = start + np.flatnonzero(self.out[start:stop])
        if not len(rows):
            return None
        far = rows[np.argmax(np.nan_to_num(np.abs(self.score[rows])))]
        return Departure(
            self.series, self.of_group, int(steps[rows[0]]), float(self.score[far]), float(self.ratio[far])
        )


def watch(run: Run, window: int, changes: bool) -> list[Watched]:
    """Judge every series of a run; without ``changes`` the sketch is not read."""
    norms = np.where(run.finite[:, None], before_clipping(run), np.nan)
    scalars = run.scalar_columns
    found = [_upwards("norm", np.sqrt(norms.sum(axis=1)), window)]
    if "loss" in scalars:
        found.insert(0, _loss(scalars["loss"], window))
    if changes:
        found.append(_upwards("change", change_norms(run), window))
    found += [Watched("lr", False, *_jumps(scalars[name])) for name in learning_rates(scalars)[:1]]
    none = np.full(run.n_steps, np.nan)
    found.append(Watched("non-finite", False, ~run.finite, none, none))
    largest = np.argsort(-np.nan_to_num(norms).sum(axis=0), kind="stable")[:MOST_GROUPS]
    for i in sorted(largest) if run.n_groups > 1 else ():
        group = _upwards(run.groups[i], np.sqrt(norms[:, i]), window, of_group=True)
        found.append(dataclasses.replace(group, out=group.out | ~np.isfinite(run.group_norm2[:, i])))
    return found


def before_clipping(run: Run) -> Float64:
    """Squared norms (rows, group) of the gradient before it was clipped, where the run knows by how much.

    Clipping hides a jump of the gradient: all clipped norms are the same. One coefficient for all parameters can be
    undone.
    """
    coefficient = run.scalar_columns.get(CLIP)
    apart = any(name.startswith(f"{CLIP}/") for name in run.scalar_columns)
    if coefficient is None or apart or run.header.stage != "consumed" or run.header.what != "gradient":
        return run.group_norm2
    known = np.isfinite(coefficient) & (coefficient > 0) & (coefficient <= 1)
    return run.group_norm2 / np.square(np.where(known, coefficient, 1.0))[:, None]


def learning_rates(scalars: dict[str, Float64]) -> list[str]:
    """Names of the logged learning rates."""
    return [name for name in scalars if name == "lr" or name.startswith("lr/")]


def change_norms(run: Run) -> Float64:
    """Norm of the difference from the row before, (rows,), as the sketch shows it; NaN where none came before."""
    found = np.full(run.n_steps, np.nan)
    size, rows = buffer_rows(run.rows), run.rows
    for start in range(0, run.n_steps, size):
        low, stop = max(start - 1, 0), min(start + size, run.n_steps)
        steps = np.diff(rows.read(low, stop), axis=0)
        found[low + 1 : stop] = np.sqrt(np.einsum("tn,tn->t", steps, steps, dtype=np.float64))
    follows = increment_rows(run.contiguous_ranges)
    norms = np.full(run.n_steps, np.nan)
    norms[follows] = found[follows]
    return norms


def spans(watched: list[Watched], steps: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rows [start, stop) of each event: departures at most ``APART`` rows from each other, on one side of a rewind."""
    out = np.flatnonzero(np.any([w.out for w in watched], axis=0))
    for rows in np.split(out, np.flatnonzero((np.diff(out) > APART) | (np.diff(steps[out]) < 0)) + 1):
        if len(rows):
            yield int(rows[0]), int(rows[-1]) + 1


def _upwards(name: str, values: Float64, window: int, of_group: bool = False) -> Watched:
    found, least = band(values, window), RATIOS["norm" if of_group else name]
    rare = found.score > (GROUP_SCORE if of_group else SCORE)
    rare &= np.isnan(found.ratio) | (found.ratio >= least)
    large = (found.score > LARGE_SCORE) & (found.ratio >= LARGE_RATIO)
    return Watched(name, of_group, rare | large, found.score, found.ratio)


def _loss(values: Float64, window: int) -> Watched:
    """Watch the loss, which may be infinite where the gradient is not."""
    found, infinite = _upwards("loss", values, window), np.isposinf(values)
    score, ratio = (np.where(infinite, np.inf, x) for x in (found.score, found.ratio))
    return dataclasses.replace(found, out=found.out | infinite, score=score, ratio=ratio)


def _jumps(rate: Float64) -> tuple[NDArray[np.bool_], Float64, Float64]:
    """Where a learning rate jumps up, after the first steps, in which it may warm up from nothing."""
    ratio = np.full(len(rate), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio[1:] = rate[1:] / rate[:-1]
    jumped = (ratio >= JUMP) & np.isfinite(ratio) & (np.arange(len(rate)) >= WINDOW // 2)
    return jumped, np.full(len(rate), np.nan), ratio
