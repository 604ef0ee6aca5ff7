"""A growing run measured again and again: each look computes what is new, the cache remembers the rest."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from gradlog.analysis.reading.launches import group_by_launch
from gradlog.analysis.reading.run import Run, View, open_run
from gradlog.analysis.reading.store.segment import Segment
from gradlog.errors import TooFewStepsError
from gradlog.storage.liveness import may_be_alive

Result = TypeVar("Result")

RECORDING = "recording"

SILENCE = 600.0
"""Seconds without a new row after which the writer may be gone."""


@dataclasses.dataclass(frozen=True)
class Look(Generic[Result]):
    """What a growing run, or several, held at one moment.

    Attributes
    ----------
    runs : list of Run
    result : object or None
        What was made of them; None while they are too short for it.
    waiting : str
        Why there is no result yet.
    live : bool
        Whether a writer is still at work on one of them; False in the last look.
    """

    runs: list[Run]
    result: Result | None
    waiting: str
    live: bool

    @property
    def steps(self) -> int:
        """Rows of all runs."""
        return sum(run.n_steps for run in self.runs)


def is_live(run: Run) -> bool:
    """Whether the run's newest launch has a writer that neither closed its segment nor gave up.

    A writer that was killed looks like one that is at work, until the run is resumed or closed.
    """
    return bool(_unfinished(run)) or not run.segments


def silence(runs: Sequence[Run], seconds: float = 0.0) -> str:
    """Say why no more rows may come; empty while there is no reason to think so.

    Parameters
    ----------
    runs : sequence of Run
    seconds : float
        Since they last grew.
    """
    waited_for = [segment for run in runs for segment in _unfinished(run)]
    if waited_for and not any(may_be_alive(segment.header.process) for segment in waited_for):
        return "the process that recorded it is gone and did not close it"
    if seconds >= SILENCE:
        return f"no new rows for {seconds / 60:.0f} min, the writer may be gone"
    return ""


def _unfinished(run: Run) -> list[Segment]:
    """Segments of the newest launch that nobody has closed."""
    newest = group_by_launch(run.segments)[-1:]
    return [s for members in newest for s in members if s.header.status == RECORDING]


def watch(
    paths: Sequence[str | os.PathLike[str]],
    measure: Callable[[list[Run], bool], Result],
    every: float = 10.0,
    view: View = "latest",
    wait: Callable[[float], None] = time.sleep,
    suspect: Callable[[str], None] = lambda reason: None,
) -> Iterator[Look[Result]]:
    """Measure runs now, and again whenever they hold more, until every writer has closed.

    Parameters
    ----------
    paths : sequence of path
        Runs that exist, which may still be empty.
    measure : callable
        ``measure(runs, live)``. Give ``analyze`` a ``cache``, and only new chunks are read.
    every : float
        Seconds from the end of a look to the next.
    view : {"latest", "all"}
        As for ``open_run``.
    wait : callable
        ``wait(seconds)`` between looks.
    suspect : callable
        ``suspect(reason)`` once, where no more rows may come though no writer has closed: ``silence`` says why. The
        watch goes on, since the run may be resumed.

    Yields
    ------
    Look
        The first one at once, the last one with ``live`` False.

    Raises
    ------
    NotARunError, CorruptRunError
        As of ``open_run``.
    TooFewStepsError
        The runs are closed and too short.

    Examples
    --------
    >>> from gradlog.analysis import analyze, watch
    >>> for look in watch(["run.zarr"], lambda runs, live: analyze(runs[0], cache=True)):      # doctest: +SKIP
    ...     print(look.steps, look.result.kappa.values)
    """
    before, grown, suspected = None, time.monotonic(), False
    while True:
        runs = [open_run(os.fspath(path), view) for path in paths]
        live = any(map(is_live, runs))
        state = [live, *((len(run.segments), run.n_steps, int(run.steps[-1]) if run.n_steps else None) for run in runs)]
        if state != before:
            before, grown, suspected = state, time.monotonic(), False
            try:
                yield Look(runs, measure(runs, live), "", live)
            except TooFewStepsError as error:
                if not live:
                    raise
                yield Look(runs, None, str(error), live)
        if not live:
            return
        if not suspected and (reason := silence(runs, time.monotonic() - grown)):
            suspected = True
            suspect(reason)
        wait(every)
