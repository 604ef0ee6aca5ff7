"""The rows that an audit looks at: every committed or journalled row of every segment, abandoned ones too.

The small arrays are held in memory; of the sketch only the squared norm of each row and group is kept, from one
pass over the chunks, and single rows are read again where a check wants to see them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.reader import Run
from gradlog.analysis.segments import Segment
from gradlog.schema import NONFINITE, SegmentHeader

Floats = NDArray[np.float64]

_PIECE = 4096
"""Longest float32 dot product, as in the recorder's own norms."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one segment holds.

    Attributes
    ----------
    steps : int64 array (rows,)
    flags : uint32 array (rows,)
    norm2 : float64 array (rows, group)
        Squared norms as recorded, of the full gradient.
    sketch2 : float64 array (rows, group)
        Squared norms of the sketches.
    scalars : dict of str to float64 array (rows,)
    """

    header: SegmentHeader
    steps: NDArray[np.int64]
    flags: NDArray[np.uint32]
    norm2: Floats
    sketch2: Floats
    scalars: dict[str, Floats]
    _segment: Segment

    @property
    def name(self) -> str:
        """Folder of the segment."""
        return self.header.name

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Rows without NaN or inf, by the recorder's own flag."""
        return np.asarray((self.flags & NONFINITE) == 0)

    def total_norm(self) -> Floats:
        """Norm of the whole recorded vector, (rows,)."""
        with np.errstate(all="ignore"):
            return np.asarray(np.sqrt(self.norm2.sum(axis=1)))

    def read(self, row: int) -> NDArray[np.float32]:
        """Sketch of one row, (group, k)."""
        out = np.empty((1, self.norm2.shape[1], self._segment.run.sketch.k), np.float32)
        self._segment.read_rows(row, row + 1, out)
        return np.asarray(out[0])


def gather(run: Run, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Evidence]:
    """Read every segment of a run once.

    Parameters
    ----------
    run : Run
        Any view; its segments are taken whole.
    progress : callable
        Told (rows done, rows in all).
    """
    total, done, found = sum(len(s.steps) for s in run.segments), 0, []
    for segment in run.segments:
        segment.require_chunks("sketch", "group_norm2")
        sketch2 = np.empty((len(segment.steps), run.groups))
        for start, rows in _chunks(segment):
            sketch2[start : start + len(rows)] = squared_norms(rows)
            done += len(rows)
            progress(done, total)
        evidence = Evidence(
            segment.header, segment.steps, segment.flags, segment.norm2, sketch2, segment.scalars, segment
        )
        found.append(evidence)
    return found


def squared_norms(rows: NDArray[np.float32]) -> Floats:
    """Sum of squares over the last axis of (rows, group, k), to about six digits whatever the magnitude."""
    k = rows.shape[2]
    with np.errstate(all="ignore"):
        pieces = [rows[:, :, start : start + _PIECE] for start in range(0, k, _PIECE)]
        total: Floats = np.asarray(np.sum([np.vecdot(p, p) for p in pieces], axis=0, dtype=np.float64))
        again = ~((total > 1e-30 * k) & (total < np.inf))
        total[again] = np.square(rows[again].astype(np.float64)).sum(axis=-1)
    return total


def _chunks(segment: Segment) -> Iterator[tuple[int, NDArray[np.float32]]]:
    size = segment.run.chunk
    buffer = np.empty((size, len(segment.run.groups), segment.run.sketch.k), np.float32)
    for start in range(0, len(segment.steps), size):
        stop = min(start + size, len(segment.steps))
        segment.read_rows(start, stop, buffer[: stop - start])
        yield start, buffer[: stop - start]
