"""What a tracker gets: numbers at their steps, and the overview as a picture."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.common.text import printable, stem
from gradlog.analysis.common.types import Float64
from gradlog.analysis.events.events import Events
from gradlog.analysis.reading.binning import binned
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.forms.json_document import Document, to_json

if TYPE_CHECKING:
    import xarray

WANTED = (
    "kappa/*/value", "kappa/*/null", "rank/*/value", "rank/*/null", "rank/*/estimate",
    "rank_measures/participation", "noise/signal_share", "noise/noise_scale",
)  # fmt: skip
"""Places in the JSON of an analysis whose numbers are written, under these names."""

MOST_POINTS = 1000
"""Points of a curve of norms, as many as TensorBoard draws; longer runs are cut into so many stretches."""

OVERVIEW = "gradlog/overview"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Numbers under one name: steps in order, a finite value at each."""

    tag: str
    points: tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class Results:
    """What is written of one run.

    Attributes
    ----------
    name, uuid : str
        Of the run.
    created : float
        When the run began, in seconds since 1970.
    last_step : int
    curves : tuple of Curve
    picture : Path
        The overview as PNG.
    """

    name: str
    uuid: str
    created: float
    last_step: int
    curves: tuple[Curve, ...]
    picture: Path

    @property
    def by_step(self) -> dict[int, dict[str, float]]:
        """Numbers of each step by their names, for trackers that take a step at a time."""
        found: dict[int, dict[str, float]] = {}
        for curve in self.curves:
            for step, value in curve.points:
                found.setdefault(step, {})[curve.tag] = value
        return dict(sorted(found.items()))


def results(run: Run, ds: xarray.Dataset, events: Events, picture: Path) -> Results:
    """Gather the numbers of an analysis, the events and the norms of a run."""
    document, last = to_json(ds), int(run.steps[-1])
    numbers = [(f"gradlog/{tag}", w["last_step"], value) for w in document["windows"] for tag, value in _wanted(w)]
    numbers += [(f"gradlog/whole/{tag}", last, value) for tag, value in _wanted(document)]
    numbers += [*_of_events(events, int(run.steps[0])), *_norms(run)]
    found: dict[str, list[tuple[int, float]]] = {}
    for tag, step, value in numbers:
        found.setdefault(printable(tag), []).append((step, value))
    curves = tuple(Curve(tag, tuple(points)) for tag, points in found.items())
    return Results(printable(stem(run.where)), run.header.uuid, _seconds(run.header.created), last, curves, picture)


def _wanted(document: Document) -> Iterator[tuple[str, float]]:
    """Numbers of a scope that are written, by their places; what is withheld or undefined is not there."""
    for place, number in _numbers(document):
        if any(fnmatchcase(place, pattern) for pattern in WANTED):
            yield place, number


def _numbers(tree: Mapping[str, object], inside: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{inside}{key}/")
        elif isinstance(value, int | float):
            yield f"{inside}{key}", float(value)


def _of_events(events: Events, first: int) -> Iterator[tuple[str, int, float]]:
    """How many events there were so far, and by how many usual deviations each left its band."""
    yield "gradlog/events/count", first, 0.0
    for i, event in enumerate(events.found):
        yield "gradlog/events/count", event.first_step, i + 1.0
        if math.isfinite(event.score):
            yield "gradlog/events/deviations", event.peak_step, event.score


def _norms(run: Run) -> Iterator[tuple[str, int, float]]:
    """Median norm of each stretch of steps, whole and by group, and the largest where a stretch has several steps."""
    norms: dict[str, Float64] = {"": np.sqrt(run.group_norm2.sum(axis=1))}
    norms |= {f"/{group}": np.sqrt(run.group_norm2[:, i]) for i, group in enumerate(run.groups)}
    for name, column in norms.items():
        series = binned(run.steps, column, min(MOST_POINTS, run.n_steps))
        kind = "group_norm" if name else "norm"
        yield from _points(f"gradlog/{kind}{name}", series.last, series.middle)
        if series.rows > 1:
            yield from _points(f"gradlog/{kind}_largest{name}", series.last, series.high)


def _points(tag: str, steps: Iterable[int], values: Iterable[float]) -> Iterator[tuple[str, int, float]]:
    return ((tag, int(step), float(value)) for step, value in zip(steps, values, strict=True) if math.isfinite(value))


def _seconds(created: str) -> float:
    """Seconds since 1970 of a date in ISO 8601; 0 where a run has none that can be read."""
    try:
        return max(0.0, datetime.datetime.fromisoformat(created).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0
