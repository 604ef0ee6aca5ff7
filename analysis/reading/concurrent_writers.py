"""Segments that two processes wrote at the same time: two jobs at one path, and no rewind of one."""

from __future__ import annotations

from collections.abc import Sequence

from gradlog.analysis.reading.launches import opening_time
from gradlog.analysis.reading.segment import Segment

SLACK = 1.0
"""Seconds between a row's time and the opening of the next segment that say nothing, on one machine."""

SKEW = 60.0
"""Likewise on two, whose clocks may differ."""


def rivals(segments: Sequence[Segment]) -> list[tuple[str, str]]:
    """Find pairs of segments of one rank, the older first, of which the older got rows after the newer was opened.

    Parameters
    ----------
    segments : sequence of Segment
        In order of their numbers.

    Returns
    -------
    list of (str, str)
        Their names. A job that was killed or closed before the next one began is in no pair.
    """
    return [
        (old.header.name, new.header.name)
        for i, old in enumerate(segments)
        for new in segments[i + 1 :]
        if old.header.rank == new.header.rank and _overlap(old, new)
    ]


def describe(pairs: Sequence[Sequence[str]]) -> list[str]:
    """One line for a reader each; none where nothing was recorded at the same time."""
    return [
        f"{old} and {new} were recorded at the same time, by two writers: these are rows of two jobs, not of a rewind"
        for old, new in pairs
    ]


def _overlap(old: Segment, new: Segment) -> bool:
    opened = opening_time(new)
    if opened is None or not len(old) or not len(new):
        return False
    last = float(old.logged(len(old) - 1, len(old), ["wall_time"])[0, 0])
    one_machine = old.header.process.get("host_id") == new.header.process.get("host_id")
    return last > opened.timestamp() + (SLACK if one_machine else SKEW)  # False where no time was recorded
