"""Events of a run: what left its band first, which groups, in which direction, and what the event is like."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlog.analysis.common.plain import plain
from gradlog.analysis.common.types import Float64
from gradlog.analysis.events.band import LEAST, WINDOW, Departure
from gradlog.analysis.events.directions import Direction, Interval, directions
from gradlog.analysis.events.find import JUMP, Jumps, Watch, before_clipping, change_norms
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

NOWHERE = Direction()

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
    rows : tuple of int
        Rows of the view at which it begins, and of its peak.
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
    rows: tuple[int, int]
    direction: Direction = NOWHERE

    @property
    def first(self) -> Departure:
        """What left its band first."""
        return min((*self.series, *self.groups), key=lambda d: d.step)

    @property
    def score(self) -> float:
        """Largest number of usual deviations; infinite for NaN or inf, 0 for a jump of the learning rate alone."""
        return _score(self.series + self.groups)


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
        return {"schema": SCHEMA, "path": self.path, "steps": self.steps} | self.summary()

    def kept(self) -> dict[str, object]:
        """Plain object of which ``of`` makes the same events; numbers may be NaN or inf."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k != "path"}
        for event, own in zip(fields["found"], self.found, strict=True):
            if own.direction is NOWHERE:
                del event["direction"]
        return fields

    @classmethod
    def of(cls, kept: Mapping[str, Any], path: str) -> Events:
        """Make events of what ``kept`` returned (Any: see the fields)."""
        found = tuple(
            Event(
                **e
                | {n: tuple(Departure(**d) for d in e[n]) for n in ("series", "groups")}
                | {"rows": (*e["rows"],), "direction": Direction.of(e["direction"]) if "direction" in e else NOWHERE}
            )
            for e in kept["found"]
        )
        return cls(**dict(kept) | {"path": path, "watched": (*kept["watched"],), "found": found})

    def summary(self) -> dict[str, object]:
        """Tell what was watched, and what is known of each event; of its direction where it was compared."""
        return plain({
            "unwatched": self.unwatched,
            "window": self.window,
            "watched": list(self.watched),
            "count": self.count,
            "events": [_fields(e, self.found) for e in self.found],
        })  # fmt: skip

    @property
    def unwatched(self) -> int:
        """Steps at the beginning for which there is no band yet."""
        return min(self.steps, 2 * LEAST)


def find_events(run: Run, window: int = WINDOW, changes: bool = True) -> Events:
    """Find the steps at which a run leaves its usual course.

    Watched are the loss, the norm of the gradient and of its change from one step to the next, and the norm of each
    group (of more than 256 those with the most parameters). Norms are those before clipping, where the run knows by how
    much. A value is out of its band where it lies far above the running median of the steps before, in usual deviations
    and as a factor. A jump of the learning rate and a gradient with NaN or inf are events as well. Departures at most
    five steps apart are one event.

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
    watch = Watch(run, window)
    for block in run.columns(watch.names):
        watch.add(block)
    watch.finish(change_norms(run) if changes else None)
    return with_directions(run, described(watch))


def described(watch: Watch) -> Events:
    """Describe the events of a run whose columns were seen, all but their directions."""
    run = watch.run
    found = [(*_departures(watch, start, stop), start, stop) for start, stop in watch.spans()]
    largest = sorted(range(len(found)), key=lambda i: -_score(found[i][0] + found[i][1]))[:MOST]
    names = tuple(s.name for s in watch.series if not s.of_group)
    kept = tuple(_event(watch, *found[i]) for i in sorted(largest))
    return Events(run.where, run.n_steps, names, watch.window, len(found), kept)


def with_directions(run: Run, found: Events) -> Events:
    """Add the direction of each event, for which the rows at its peak and before it are read."""
    ways = directions(run, [e.rows for e in found.found], found.window)
    return dataclasses.replace(
        found, found=tuple(dataclasses.replace(e, direction=way) for e, way in zip(found.found, ways, strict=True))
    )


def _departures(watch: Watch, start: int, stop: int) -> tuple[tuple[Departure, ...], tuple[Departure, ...]]:
    """List what left its band in rows [start, stop), in order of time: series of the run, and groups."""
    left = [d for s in watch.series if (d := s.departure(watch.run.steps, start, stop)) is not None]
    left.sort(key=lambda d: (d.step, -np.nan_to_num(abs(d.score), nan=math.inf)))
    return tuple(d for d in left if not d.of_group), tuple(d for d in left if d.of_group)


def _score(left: tuple[Departure, ...]) -> float:
    if any(d.series == "non-finite" for d in left):
        return math.inf
    return max((abs(d.score) for d in left if not math.isnan(d.score)), default=0.0)


def _event(
    watch: Watch, series: tuple[Departure, ...], groups: tuple[Departure, ...], start: int, stop: int
) -> Event:  # fmt: skip
    """Describe the event in rows [start, stop)."""
    run, peak, most = watch.run, start, -1.0
    for block in run.columns([watch.clip] if watch.clip else [], first=start, stop=stop):
        norm2 = np.where(block.finite, before_clipping(block, watch.clip).sum(axis=1), 0.0)
        if norm2.max() > most:
            peak, most = block.start + int(np.argmax(norm2)), float(norm2.max())
    grew = bool(groups) or peak in watch.large
    shares, rise = _shares(watch, peak, start) if grew else {}, _rise(watch, start, stop)
    kind = _kind(series, groups, shares, rise, start in watch.large, rows=stop - start)
    first, last, at = (int(run.steps[row]) for row in (start, stop - 1, peak))
    skipped = int(np.count_nonzero(run.flags[start:stop] & SKIPPED))
    return Event(first, last, at, kind, skipped, series, groups, shares, rise, (start, peak))


def _shares(watch: Watch, peak: int, start: int) -> dict[str, float]:
    """Share of each group in what the squared norm at the peak has above its median before the event."""
    run, names = watch.run, [watch.clip] if watch.clip else []

    def norms(first: int, last: int) -> Float64:
        blocks = list(run.columns(names, first=first, stop=last))
        kept = [before_clipping(b, watch.clip)[b.finite] for b in blocks]
        return np.concatenate([np.empty((0, run.n_groups)), *kept])

    before, own = norms(max(0, start - watch.window), start), norms(peak, peak + 1)
    if not len(before) or not len(own):
        return {}
    above = np.maximum(own[0] - np.median(before, axis=0), 0.0)
    return dict(zip(run.groups, (above / above.sum()).tolist(), strict=True)) if above.sum() > 0 else {}


def _rise(watch: Watch, start: int, stop: int) -> float:
    """Largest rise of the learning rate from step to step around an event; NaN if none was logged."""
    low, most = max(0, start - LEAD - 1), math.nan
    judge = Jumps()
    for block in watch.run.columns(watch.rates, norms=False, first=low, stop=stop) if watch.rates else ():
        ratio = judge(block.scalars[watch.rates[0]])[2]
        most = float(np.fmax(most, np.fmax.reduce(ratio)))
    return most


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


def _fields(event: Event, found: tuple[Event, ...]) -> dict[str, object]:
    """Fields of one of the events for JSON."""
    names = ("first_step", "last_step", "peak_step", "kind", "skipped", "shares")
    return {name: getattr(event, name) for name in names} | {
        "series": [_departure(d) for d in event.series],
        "groups": [_departure(d) for d in event.groups],
        "learning_rate": event.learning_rate,
        "score": event.score,
        **({} if event.direction is NOWHERE else _directed(event.direction, found)),
    }


def _directed(way: Direction, found: tuple[Event, ...]) -> dict[str, object]:
    """Fields of a direction; another event is named by its first step."""
    return {
        "cosine_previous": _interval(way.previous),
        "cosine_mean": _interval(way.mean),
        "like": None if way.like is None else {"first_step": found[way.like].first_step, **_interval(way.cosine)},
    }


def _departure(d: Departure) -> dict[str, object]:
    return {"name": d.series, "step": d.step, "score": d.score, "ratio": d.ratio}


def _interval(ends: Interval) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), ends, strict=True))
