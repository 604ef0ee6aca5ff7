"""Events of a run: what left its band first, which groups, in which direction, and what the event is like."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.common.types import Float64
from gradlog.analysis.events.band import LEAST, WINDOW
from gradlog.analysis.events.directions import Direction, Interval, directions
from gradlog.analysis.events.find import JUMP, RATIOS, Departure, Watched, before_clipping, spans, watch
from gradlog.format.header import SKIPPED

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

SCHEMA = "gradlog.events/1"

MOST = 64
"""Events that are described; where a run has more, those with the largest scores."""

ALONE = 0.8
"""Share of the jump from which on a group holds nearly all of it."""

BRIEF = 3
"""Rows within which one odd batch is over."""

LEAD = 10
"""Rows before an event in which a jump of the learning rate may have caused it."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A stretch of steps at which a run left its usual course.

    Attributes
    ----------
    first_step, last_step, peak_step : int
        Steps of its first and last departure, and of the largest gradient norm.
    kind : str
        What it is like: ``"non-finite"``, ``"learning rate"``, ``"one group"``, ``"one batch"``; ``""`` if none.
    skipped : int
        Steps of it that the optimizer skipped.
    series, groups : tuple of Departure
        What left its band, in order of time: series of the run, and norms of groups.
    shares : dict
        Share of each group in what the squared norm at the peak has above the running median; empty where neither the
        norm nor that of a group rose.
    learning_rate : float
        Largest rise of the learning rate from one step to the next, as a factor, in the event and ten steps before;
        NaN if none was logged.
    direction : Direction
        Of the gradient at the peak: its cosines with those before, and with the closest peak of another event, whose
        index among the events is ``direction.like``.
    """

    first_step: int
    last_step: int
    peak_step: int
    kind: str
    skipped: int
    series: tuple[Departure, ...]
    groups: tuple[Departure, ...]
    shares: dict[str, float]
    learning_rate: float
    direction: Direction

    @property
    def first(self) -> Departure:
        """What left its band first."""
        return min((*self.series, *self.groups), key=lambda d: d.step)

    @property
    def score(self) -> float:
        """Largest number of usual deviations; infinite for NaN or inf, 0 for a jump of the learning rate alone."""
        if self.kind == "non-finite":
            return math.inf
        return max((abs(d.score) for d in (*self.series, *self.groups) if not math.isnan(d.score)), default=0.0)


@dataclasses.dataclass(frozen=True)
class Events:
    """Events of a run.

    Attributes
    ----------
    path : str
    steps : int
        Steps that were looked at, those before the first band included.
    watched : tuple of str
        Series of the run that were watched; so were the norms of all groups.
    window : int
        Steps that a band is made of.
    count : int
        Events that were found.
    found : tuple of Event
        In order of time; of more than 64, those with the largest scores.
    """

    path: str
    steps: int
    watched: tuple[str, ...]
    window: int
    count: int
    found: tuple[Event, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain object, ready for ``json.dumps(..., allow_nan=False)``; what is not known is None."""
        return {
            "schema": SCHEMA,
            "path": self.path,
            "steps": self.steps,
            "unwatched": self.unwatched,
            "window": self.window,
            "watched": list(self.watched),
            "count": self.count,
            "events": [_plain(e, self.found) for e in self.found],
        }

    @property
    def unwatched(self) -> int:
        """Steps at the beginning for which there is no band yet."""
        return min(self.steps, 2 * LEAST)


def find_events(run: Run, window: int = WINDOW, changes: bool = True) -> Events:
    """Find the steps at which a run leaves its usual course.

    Watched are the loss, the norm of the gradient and of its change from one step to the next, and the norm of each
    group (of more than 256 those of the largest). Norms are those before clipping, where the run knows by how much. A
    value is out of its band where it lies far above the running median of the steps before, in usual deviations and
    as a factor. A jump of the learning rate and a gradient with NaN or inf are events as well. Departures at most five
    steps apart are one event.

    Parameters
    ----------
    run : Run
    window : int
        Steps that a band is made of.
    changes : bool
        Also watch the change of the gradient, for which the whole sketch is read once.

    Returns
    -------
    Events

    Raises
    ------
    ValueError
        A window of fewer than 20 steps, or of no whole number of them.

    Notes
    -----
    How many events a run without any shows, and how many planted ones are missed, is measured by
    ``benchmarks/events.py``; the page "What happened at step 116?" has the table.

    Examples
    --------
    >>> find_events(open_run("run.zarr")).found[0].kind          # doctest: +SKIP
    'one batch'
    """
    if not isinstance(window, int | np.integer) or window < LEAST:
        raise ValueError(f"window: expected a whole number of at least {LEAST} steps, got {window!r}")
    watched, norms = watch(run, window, changes), before_clipping(run)
    found = [_event(run, norms, watched, start, stop, window) for start, stop in spans(watched, run.steps)]
    largest = sorted(range(len(found)), key=lambda i: -found[i][0].score)[:MOST]
    kept = [found[i] for i in sorted(largest)]
    ways = directions(run, [place for _, place in kept], window)
    described = tuple(dataclasses.replace(e, direction=way) for (e, _), way in zip(kept, ways, strict=True))
    names = tuple(w.series for w in watched if not w.of_group)
    return Events(run.where, run.n_steps, names, window, len(found), described)


def _event(
    run: Run, norms: Float64, watched: list[Watched], start: int, stop: int, window: int
) -> tuple[Event, tuple[int, int]]:  # fmt: skip
    """Event in rows [start, stop), with its first row and that of its peak."""
    left = [d for w in watched if (d := w.departure(run.steps, start, stop)) is not None]
    left.sort(key=lambda d: (d.step, -np.nan_to_num(abs(d.score), nan=math.inf)))
    series, groups = (tuple(d for d in left if d.of_group is which) for which in (False, True))
    norm2 = np.where(run.finite[start:stop], norms[start:stop].sum(axis=1), 0.0)
    peak = start + int(np.argmax(norm2))
    norm = next(w for w in watched if w.series == "norm")
    grew = bool(groups) or norm.ratio[peak] >= RATIOS["norm"]
    shares, rise = _shares(run, norms, peak, start, window) if grew else {}, _rise(watched, start, stop)
    kind = _kind(series, groups, shares, rise, norm.ratio[start] >= RATIOS["norm"], rows=stop - start)
    first, last, at = (int(run.steps[row]) for row in (start, stop - 1, peak))
    skipped = int(np.count_nonzero(run.flags[start:stop] & SKIPPED))
    return Event(first, last, at, kind, skipped, series, groups, shares, rise, Direction()), (start, peak)


def _shares(run: Run, norms: Float64, peak: int, start: int, window: int) -> dict[str, float]:
    """Share of each group in what the squared norm at the peak has above its median before the event."""
    before = norms[max(0, start - window) : start][run.finite[max(0, start - window) : start]]
    if not len(before) or not run.finite[peak]:
        return {}
    above = np.maximum(norms[peak] - np.median(before, axis=0), 0.0)
    return dict(zip(run.groups, (above / above.sum()).tolist(), strict=True)) if above.sum() > 0 else {}


def _rise(watched: list[Watched], start: int, stop: int) -> float:
    """Largest rise of the learning rate from step to step around an event; NaN if none was logged."""
    for w in watched:
        if w.series == "lr":
            near = w.ratio[max(0, start - LEAD) : stop]
            return float(np.nanmax(near)) if np.isfinite(near).any() else math.nan
    return math.nan


def _kind(
    series: tuple[Departure, ...], groups: tuple[Departure, ...], shares: dict[str, float], rise: float, larger: bool,
    rows: int,
) -> str:  # fmt: skip
    """Tell what an event is like, the first that fits; ``larger``: so was the norm at its first row."""
    by = {d.series: d for d in series}
    first = min(d.step for d in (*series, *groups))
    loss = by.get("loss")
    if "non-finite" in by:
        return "non-finite"
    if rise >= JUMP:
        return "learning rate"
    at_first = [d.series for d in groups if d.step == first]
    if loss is None or loss.step > first:
        alone = [name for name in at_first if shares.get(name, 0.0) >= ALONE]
        return "one group" if alone or (len(at_first) == 1 and len(groups) == 1) else ""
    return "one batch" if larger and rows <= BRIEF else ""


def _plain(event: Event, found: tuple[Event, ...]) -> dict[str, object]:
    """Fields of an event for JSON; another event is named by its first step."""
    way = event.direction
    names = ("first_step", "last_step", "peak_step", "kind", "skipped", "shares")
    return {name: getattr(event, name) for name in names} | {
        "series": [_departure(d) for d in event.series],
        "groups": [_departure(d) for d in event.groups],
        "learning_rate": _known(event.learning_rate),
        "cosine_previous": _interval(way.previous),
        "cosine_mean": _interval(way.mean),
        "like": None if way.like is None else {"first_step": found[way.like].first_step, **_interval(way.cosine)},
    }


def _departure(d: Departure) -> dict[str, object]:
    return {"name": d.series, "step": d.step, "score": _known(d.score), "ratio": _known(d.ratio)}


def _interval(ends: Interval) -> dict[str, float | None]:
    return dict(zip(("value", "low", "high"), map(_known, ends), strict=True))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
