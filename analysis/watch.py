"""A growing run measured again and again: each look computes what is new, the cache remembers the rest."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from gradlog.analysis.launches import launches
from gradlog.analysis.reader import Run, View, open_run
from gradlog.errors import TooFewStepsError

Result = TypeVar("Result")

RECORDING = "recording"


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
        return sum(run.length for run in self.runs)


def is_live(run: Run) -> bool:
    """Whether the run's newest launch has a writer that neither closed its segment nor gave up.

    A writer that was killed looks like one that is at work, until the run is resumed or closed.
    """
    newest = launches(run.segments)[-1:]
    return any(s.header.status == RECORDING for members in newest for s in members) or not run.segments


def watch(
    paths: Sequence[str | os.PathLike[str]],
    measure: Callable[[list[Run], bool], Result],
    every: float = 10.0,
    view: View = "latest",
    wait: Callable[[float], None] = time.sleep,
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
    >>> from gradlog.analysis import analyze
    >>> for look in watch(["run.zarr"], lambda runs, live: analyze(runs[0], cache=True)):      # doctest: +SKIP
    ...     print(look.steps, look.result.kappa.values)
    """
    before = None
    while True:
        runs = [open_run(os.fspath(path), view) for path in paths]
        live = any(map(is_live, runs))
        state = [live, *((len(run.segments), run.length, run.numbers[-1] if run.length else None) for run in runs)]
        if state != before:
            before = state
            try:
                yield Look(runs, measure(runs, live), "", live)
            except TooFewStepsError as error:
                if not live:
                    raise
                yield Look(runs, None, str(error), live)
        if not live:
            return
        wait(every)
