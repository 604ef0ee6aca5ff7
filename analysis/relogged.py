"""Steps that were logged again after a rewind, compared with what the abandoned branch holds.

A free check of whether training repeats itself from a checkpoint. Squared norms are compared, not sketches: they
are one small array, and equal norms of every group mean equal gradients for all practical purposes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gradlog.analysis.segments import Segment


def compare(segments: Sequence[Segment]) -> dict[str, Any]:
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
    """
    pairs = [pair for rank in {s.header.rank for s in segments} for pair in _pairs(_of(segments, rank))]
    steps = np.concatenate([p[0] for p in pairs]) if pairs else np.empty(0, np.int64)
    apart = np.concatenate([_difference(p[1], p[2]) for p in pairs]) if pairs else np.empty(0)
    different = steps[apart > 0]
    return {
        "steps": len(steps),
        "identical": len(steps) - len(different),
        "first_different": int(different.min()) if len(different) else None,
        "largest_difference": float(apart.max(initial=0.0)),
    }


def describe(found: dict[str, Any]) -> list[str]:
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


def _of(segments: Sequence[Segment], rank: int) -> list[Segment]:
    return [s for s in segments if s.header.rank == rank]


def _pairs(segments: list[Segment]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (steps, older norms, newest norms) of every segment of one rank against the later ones."""
    if len(segments) < 2:
        return
    newest, norms = segments[-1].steps, segments[-1].norm2
    for segment in segments[-2::-1]:
        steps, new, old = np.intersect1d(newest, segment.steps, assume_unique=True, return_indices=True)
        if len(steps):
            yield steps, segment.norm2[old], norms[new]
        fresh = ~np.isin(segment.steps, newest, assume_unique=True)
        newest = np.concatenate([segment.steps[fresh], newest])
        norms = np.concatenate([segment.norm2[fresh], norms])


def _difference(old: Any, new: Any) -> Any:
    """Largest relative difference in each row of (rows, group); NaN agrees with NaN, inf with inf."""
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    with np.errstate(all="ignore"):
        apart = np.abs(old - new) / np.maximum(np.abs(old), np.abs(new))
    return np.where(same, 0.0, np.where(np.isfinite(apart), apart, 1.0)).max(axis=1, initial=0.0)
