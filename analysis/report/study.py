"""Everything that a report shows of one run, measured: one analysis, whole, by group, and by window of steps."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Unpack

from gradlog.analysis.common.types import Progress
from gradlog.analysis.events.events import Events, with_directions
from gradlog.analysis.measures.predictors import parse, usual
from gradlog.analysis.measures.predictors.registry import built_in
from gradlog.analysis.measures.updates import GradientAndUpdate
from gradlog.analysis.reading.binning import Series, gradient_norm, scalar
from gradlog.analysis.reading.rewinds import rewinds
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.analyze import analyze_cached
from gradlog.analysis.results.forms.dataset import to_dataset
from gradlog.analysis.results.forms.json_document import Document, to_json
from gradlog.analysis.results.group_time import GroupTime, group_time
from gradlog.analysis.results.options import Caching, Question
from gradlog.analysis.results.updates import gradient_and_update

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray

SHARED = "last"
"""Predictor whose path length is shared out between groups and times."""

PASSES = 2
"""Calls of ``progress`` from 0 to the end that ``study`` makes of a run that is long and wide enough."""

MOST_WINDOWS, LEAST_ROWS = 24, 16
NARROW = 384
"""Columns up to which the Grams of all windows are small beside everything else."""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What figures show of one run.

    Attributes
    ----------
    label : str
        Short name, unique among the runs of a report.
    result : xarray.Dataset
        The whole run and each group.
    windows : xarray.Dataset or None
        The same run by windows of steps; None when it is too short to be cut.
    """

    label: str
    result: xarray.Dataset
    windows: xarray.Dataset | None


@dataclasses.dataclass(frozen=True)
class Study(Analysis):
    """One run, measured for a report.

    Attributes
    ----------
    label, result, windows
        As of ``Analysis``.
    run : Run
    document : dict
        ``to_json(result)``.
    shares : GroupTime or None
        Path length by group and window.
    series : dict of Series
        ``"loss"`` and ``"lr"`` where logged, ``"norm"``.
    events : Events
        Steps at which the run left its usual course.
    updates : GradientAndUpdate or None
        Where each gradient has an update beside it.
    """

    run: Run
    document: Document
    shares: GroupTime | None
    series: dict[str, Series]
    events: Events
    updates: GradientAndUpdate | None

    @property
    def notes(self) -> Mapping[str, object]:
        """What was noted of the run at its start."""
        return self.run.notes


def window_rows(rows: int, growing: bool = False) -> int | None:
    """Rows of a window: about 24 windows, none shorter than 16 rows; None where not even three fit.

    While a run grows, the rows are doubled when there are more than 24 windows, and else stay.

    >>> window_rows(100_000), window_rows(400), window_rows(40)
    (4166, 16, None)
    >>> [window_rows(rows, growing=True) for rows in (384, 400, 768)]
    [16, 32, 32]
    """
    size = max(LEAST_ROWS, rows // MOST_WINDOWS)
    if growing:
        size = LEAST_ROWS
        while rows > size * MOST_WINDOWS:
            size *= 2
    return size if rows >= 3 * size else None


def study(
    run: Run, label: str, progress: Progress | None = None, /, *, growing: bool = False, cache: Caching = True,
    **options: Unpack[Question],
) -> Study:  # fmt: skip
    """Measure a run for a report; ``options`` are those of ``analyze``.

    ``growing``: the run will be measured again. What a cache cannot serve then is left out: further passes of the
    randomized route, windows that move, and the map of directions.
    """
    asked, over_time = parse(options.get("predictors"), "report"), usual("windows")
    names = [p.name for p in asked]
    size = window_rows(run.n_steps - options.get("burn_in", 0), growing)
    more = [name for name in over_time if size is not None and name not in names]
    named = built_in(options.get("predictors"))  # then the cache can keep the result
    question: Question = {"light": run.rows.n > NARROW, "passes": 1 if growing else 2}
    question |= {"directions": size is not None and not growing, **options}
    question |= {"predictors": [*(names if named else asked), *more], "window": size, "progress": progress}
    measured = to_dataset(analyze_cached(run, cache=cache, **question))
    result = measured.sel(predictor=names).drop_dims("window", errors="ignore")
    windows = None if size is None else measured.sel(predictor=list(over_time))
    goes_back = len(rewinds(run.steps)) > 0  # then windows do not stand side by side
    shares = None if windows is None or goes_back else group_time(windows, SHARED)
    beside = "update" in (document := to_json(result))
    updates = gradient_and_update(run) if beside else None
    series = {"norm": gradient_norm(run)}
    series |= {name: found for name in ("loss", "lr") if (found := scalar(run, name)) is not None}
    events = Events.of(json.loads(measured.attrs["events"]), run.where)
    if not question["directions"]:
        events = with_directions(run, events)
    return Study(label, result, windows, run, document, shares, series, events, updates)
