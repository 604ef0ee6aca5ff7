"""Direction of the gradient at the peak of an event, against the gradients before it and against other peaks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlog.analysis.common.types import Float32
from gradlog.analysis.measures.cosines import cosine_intervals
from gradlog.analysis.measures.exact_groups import exact_groups

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

Interval = tuple[float, float, float]
"""A value and the ends of its sketch 95 % interval."""

UNKNOWN: Interval = (math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Direction:
    """Cosines of the gradient at a peak.

    Attributes
    ----------
    previous, mean : tuple of float
        With the last finite gradient before the event, and with the mean of up to a window of them: value and ends of
        the sketch 95 % interval. NaN where there is none.
    like : int or None
        Index of the other peak that lies closest in direction.
    cosine : tuple of float
        With that peak.
    """

    previous: Interval = UNKNOWN
    mean: Interval = UNKNOWN
    like: int | None = None
    cosine: Interval = UNKNOWN

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Direction:
        """Make one of its fields as JSON holds them (Any: see above)."""
        ends = {name: (*fields[name],) for name in ("previous", "mean", "cosine")}
        return cls(**ends, like=fields["like"])


def directions(run: Run, places: Sequence[tuple[int, int]], window: int) -> list[Direction]:
    """Compare the peaks of events with what came before; ``places``: first row and row of the peak of each."""
    exact = exact_groups(run.whole_header)

    def cosines(one: Float32, others: Float32) -> list[Interval]:
        found = cosine_intervals(np.broadcast_to(one, others.shape), others, exact)
        return list(zip(*(part.tolist() for part in found), strict=True))

    def read(start: int, stop: int) -> Float32:
        rows = run.rows.read(start, stop).reshape(-1, run.n_groups, run.k)
        return np.asarray(rows[run.finite[start:stop]])

    peaks = [read(peak, peak + 1) for _, peak in places]
    finite = [i for i, peak in enumerate(peaks) if len(peak)]
    found = []
    for i, (start, _) in enumerate(places):
        before = read(max(0, start - window), start)
        if not len(peaks[i]) or not len(before):
            found.append(Direction())
            continue
        mean = before.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        previous, with_mean = cosines(peaks[i], np.concatenate([before[-1:], mean]))
        others = [j for j in finite if j != i]
        with_others = cosines(peaks[i], np.concatenate([peaks[j] for j in others])) if others else []
        like, cosine = max(zip(others, with_others, strict=True), key=lambda x: x[1][0], default=(None, UNKNOWN))
        found.append(Direction(previous, with_mean, like, cosine))
    return found
