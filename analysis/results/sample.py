"""A sample of a long run: stretches of steps, one in each of as many equal parts of it."""

from __future__ import annotations

import numpy as np

from gradlog.analysis.common.types import SMALLEST_SAMPLE
from gradlog.analysis.reading.parts import parts
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.options import Scope
from gradlog.analysis.streaming import sections

LENGTHS = 2
"""Stretches that must fit into each part of the run."""


def sampled(run: Run, scope: Scope, seed: int = 0) -> Run:
    """Take about so many rows, as sections of 20 to 40 that lie evenly in the run; all of a run that is not longer.

    The rows of ``burn_in`` are left out before. Each stretch lies at random within its part, so that no period of the
    training meets all of them alike. The stretches are the sections that ``fluctuation`` compares: the error within the
    run is that of the sample.

    Raises
    ------
    ValueError
        Fewer than ``SMALLEST_SAMPLE`` rows are asked for, or windows, or directions.

    Source: stratified sampling, Cochran, Sampling Techniques, 1977, section 5.
    """
    rows = scope.sample
    if rows is None:
        return run
    if scope.window is not None or scope.directions:
        raise ValueError("a sample has no windows and no directions: its stretches lie apart")
    if rows < SMALLEST_SAMPLE:
        raise ValueError(f"a sample has at least {SMALLEST_SAMPLE:,} rows, got {rows}")
    if rows >= run.n_steps:
        return run
    length = sections.length(rows)
    count = rows // length
    edges = np.linspace(max(scope.burn_in, 0), run.n_steps, count + 1).astype(int)
    places = np.diff(edges) // length
    if places.min() < LENGTHS:
        return run
    starts = edges[:-1] + length * np.random.default_rng(seed).integers(places)  # any row as likely as any other
    return parts(run, [(start, start + length) for start in starts.tolist()])
