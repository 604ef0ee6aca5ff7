"""Where one segment continues another: the clock and the size of the gradient should go on as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.audit.findings import Line, problems
from gradlog.analysis.audit.reader import Evidence, Floats

WINDOW = 16
"""Rows on either side."""

JUMP = 8.0
"""Change of the median log-norm at a join, in units of the usual change from one window to the next."""

SMALLEST = 1.0
"""Changes below this (a factor of e in the norm) are not worth a word."""


def joins(evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Compare both sides of every join."""
    by_name = {e.name: e for e in evidence}
    pairs = [(by_name[str(e.header.parent)], e) for e in evidence if str(e.header.parent) in by_name and len(e.steps)]
    pairs = [(a, b) for a, b in pairs if len(a.steps)]
    if not pairs:
        yield Line("SKIP", "joins", "no segment continues another")
        return
    texts = [text for a, b in pairs for text in (_clock(a, b), _size(a, b)) if text]
    yield from problems("joins", texts, f"{len(pairs)} joins; time and size of the gradient go on", "WARN")


def _clock(a: Evidence, b: Evidence) -> str:
    if "wall_time" not in a.scalars or "wall_time" not in b.scalars:
        return ""
    if b.scalars["wall_time"][0] < a.scalars["wall_time"][-1]:
        return f"{b.name} begins before {a.name} ends by the clock"
    return ""


def _size(a: Evidence, b: Evidence) -> str:
    last = a.steps[-1] if b.header.parent_step is None else b.header.parent_step
    before, after = _logs(a, a.steps <= last), _logs(b, b.steps > last)
    if len(before) < 2 * WINDOW or len(after) < WINDOW:
        return ""
    usual = np.array(
        [w[i * WINDOW : (i + 1) * WINDOW].mean() for w in (before, after) for i in range(len(w) // WINDOW)]
    )
    change = abs(float(np.median(after[:WINDOW]) - np.median(before[-WINDOW:])))
    spread = max(float(np.median(np.abs(np.diff(usual)))), float(np.std(before[-WINDOW:])) / np.sqrt(WINDOW))
    if change <= max(SMALLEST, JUMP * spread):
        return ""
    return f"the gradient's norm changes {np.exp(change):.3g}-fold from {a.name} (step {last}) to {b.name}"


def _logs(e: Evidence, keep: NDArray[np.bool_]) -> Floats:
    norms = e.total_norm()[keep & e.finite]
    return np.asarray(np.log(norms[norms > 0]))
