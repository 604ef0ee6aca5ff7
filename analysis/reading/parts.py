"""Stretches of a run as a run of their own, whose predictors remember the rows before each stretch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from gradlog.analysis.reading.joined_scalars import RunWithScalars
from gradlog.analysis.reading.launches import Launch
from gradlog.analysis.reading.run import Run

HISTORY = 256
"""Rows before a stretch that are read as history: what ema(0.99) knows of older ones is 8 % of its forecast."""


def parts(run: Run, ranges: Sequence[tuple[int, int]]) -> Run:
    """View of some rows of a view.

    Parameters
    ----------
    run : Run
    ranges : sequence of (int, int)
        View rows [start, stop) in ascending order.

    Returns
    -------
    Run
        With these rows alone; ``whole`` is the run that they come from. Rows before them are read as history.
    """
    kept = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    found = copy.copy(run)
    for name in [name for name in vars(run) if isinstance(getattr(type(run), name, None), cached_property)]:
        del vars(found)[name]
    found._launches = [part for start, stop in ranges for part in _cut(run._launches, start, stop)]
    found.steps, found.flags = run.steps[kept], run.flags[kept]
    if isinstance(found, RunWithScalars):
        found._joined = {name: column[kept] for name, column in found._joined.items()}
    found._whole = run
    vars(found)["info"] = found.info | {"gaps": run.info["gaps"], "sampled_of": run.n_steps}
    begin = kept[found.contiguous_ranges[:, 0]]
    chain = run.contiguous_ranges[np.searchsorted(run.contiguous_ranges[:, 1], begin, "right"), 0]
    before = np.maximum(chain, begin - HISTORY)
    found.rows.remember(
        run.rows, dict(zip(found.contiguous_ranges[:, 0].tolist(), zip(before, begin, strict=True), strict=True))
    )
    return found


def _cut(launches: Sequence[Launch], start: int, stop: int) -> list[Launch]:
    """Rows [start, stop) of launches that follow each other."""
    base, found = 0, []
    for launch in launches:
        low, high = max(start - base, 0), min(stop - base, len(launch))
        if low < high:
            found.append(Launch(launch.members, launch.steps[low:high]))
        base += len(launch)
    return found
