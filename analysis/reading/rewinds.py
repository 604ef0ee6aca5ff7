"""Steps that were logged again after a rewind, compared with what the abandoned branch holds.

A free check of whether training repeats itself from a checkpoint. Squared norms are compared, not sketches: they
are one small array, and equal norms of every group mean equal gradients for all practical purposes. Segments that two
processes wrote at the same time are told apart: they hold rows of two jobs at one path, and no rewind of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.recorded import Info
from gradlog.analysis.common.types import Float64
from gradlog.analysis.reading.launches import opening_time
from gradlog.analysis.reading.store.segment import Segment

ROWS = 2**16
"""Rows that are compared together."""

SLACK, SKEW = 1.0, 60.0
"""Seconds between a row's time and the opening of the next segment that say nothing: on one machine, and on two, whose
clocks may differ."""


def compare(segments: Sequence[Segment]) -> Info:
    """Compare each abandoned row with the newest row of the same step and rank.

    Parameters
    ----------
    segments : sequence of Segment
        In order of their numbers.

    Returns
    -------
    dict
        ``steps``: how many were logged again. ``identical``: how many of them with the same squared norms, to the bit.
        ``first_different``: the first other step, None if there is none. ``largest_difference``: the largest relative
        difference of a group's squared norm: 0 where all are identical, 1 where only one of the two is finite.
        ``writers``: pairs of segments that two writers recorded at the same time, whose rows are not compared.
    """
    count = different = 0
    first, largest = None, 0.0
    together = rivals(segments)
    for rank in sorted({s.header.rank for s in segments}):
        for steps, old, new in _pairs([s for s in segments if s.header.rank == rank and len(s)], together):
            apart = _difference(old, new)
            others = steps[apart > 0]
            count, different = count + len(steps), different + len(others)
            first = min([*others[:1].tolist(), *([] if first is None else [first])], default=None)
            largest = max(largest, float(apart.max(initial=0.0)))
    return {
        "steps": count,
        "identical": count - different,
        "first_different": first,
        "largest_difference": largest,
        "writers": [list(pair) for pair in together],
    }


def describe(found: Info) -> list[str]:
    """One line for a reader; none where nothing was logged twice."""
    if not found["steps"]:
        return []
    if found["first_different"] is None:
        return [f"{found['steps']} steps were logged again after a rewind, all with identical norms"]
    return [
        f"{found['steps']} steps were logged again after a rewind: {found['identical']} with identical norms, the "
        f"first other one is step {found['first_different']}; the largest relative difference of a squared norm is "
        f"{found['largest_difference']:.2g}"
    ]


def rivals(segments: Sequence[Segment]) -> list[tuple[str, str]]:
    """Name pairs of segments of one rank, the older first, of which the older got rows after the newer was opened.

    A job that was killed or closed before the next one began is in no pair.
    """
    return [
        (old.header.name, new.header.name)
        for i, old in enumerate(segments)
        for new in segments[i + 1 :]
        if old.header.rank == new.header.rank and _overlap(old, new)
    ]


def describe_writers(pairs: Sequence[Sequence[str]]) -> list[str]:
    """One line for a reader each; none where nothing was recorded at the same time."""
    return [
        f"{old} and {new} were recorded at the same time, by two writers: these are rows of two jobs, not of a rewind"
        for old, new in pairs
    ]


def _pairs(
    segments: list[Segment], apart: list[tuple[str, str]]
) -> Iterator[tuple[NDArray[np.int64], Float64, Float64]]:
    """Yield (steps, norms of these rows, newest norms) of the rows that a later segment of the same rank has again.

    Not for pairs of segments that stand ``apart``: two jobs.
    """
    for i, old in enumerate(segments[:-1]):
        later = [new for new in segments[:i:-1] if (old.header.name, new.header.name) not in apart]
        if not later:
            continue
        again = int(np.searchsorted(old.steps, min(s.steps[0] for s in later)))
        for low in range(again, len(old), ROWS):
            high = min(low + ROWS, len(old))
            steps = old.steps[low:high]
            alone = np.ones(len(steps), bool)
            for new in later:
                start, stop = np.searchsorted(new.steps, [steps[0], steps[-1] + 1]).tolist()
                common = np.intersect1d(steps, new.steps[start:stop], assume_unique=True, return_indices=True)
                mine, its = (places[alone[common[1]]] for places in common[1:])
                alone[mine] = False
                if len(mine):
                    yield steps[mine], old.norms(low, high)[mine], new.norms(start, stop)[its]


def _difference(old: Float64, new: Float64) -> Float64:
    """Largest relative difference in each row of (rows, group); NaN agrees with NaN, inf with inf."""
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    with np.errstate(all="ignore"):
        apart = np.abs(old - new) / np.maximum(np.abs(old), np.abs(new))
    return np.asarray(np.where(same, 0.0, np.where(np.isfinite(apart), apart, 1.0)).max(axis=1, initial=0.0))


def _overlap(old: Segment, new: Segment) -> bool:
    opened = opening_time(new)
    if opened is None or not len(old) or not len(new):
        return False
    last = float(old.logged(len(old) - 1, len(old), ["wall_time"])[0, 0])
    one_machine = old.header.process.get("host_id") == new.header.process.get("host_id")
    return last > opened.timestamp() + (SLACK if one_machine else SKEW)  # False where no time was recorded


def rewinds(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows at which the steps of a view go back, as those of the view "all" do where a run was resumed.

    >>> rewinds(np.array([0, 1, 2, 1, 2, 3])).tolist()
    [3]
    """
    return np.flatnonzero(np.diff(steps) <= 0) + 1
