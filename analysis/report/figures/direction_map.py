"""Whether training keeps its direction: cosines between the mean gradients of stretches of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.directions.direction_map import DirectionMap
from gradlog.analysis.report.axes import STEP, exact
from gradlog.analysis.report.figure import Cells, Figure, Legend
from gradlog.analysis.report.figures import Chart, interval, titled, width
from gradlog.analysis.report.study import Study

FEWEST = 3
"""Stretches with a mean gradient that are worth a map."""


@Chart(
    "direction_map", "directions", 1,
    "The darker a cell, the more alike in direction are the mean gradients of two stretches of steps, row and column; "
    "an empty cell: 0 or less, or a mean gradient that cannot be told from zero among the noise of its steps. Noise "
    "is taken out, so that a mean that stays the same has cosine 1 with itself later.",
)  # fmt: skip
def direction_map(runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure for each run in which some stretches have a mean gradient that is known."""
    title = "Does training keep its direction?"
    return [
        of_map(run.directions, titled(title, run, runs), run.label, width(runs))
        for run in runs
        if run.directions is not None and run.directions.known.sum() >= FEWEST
    ]


def of_map(found: DirectionMap, title: str, label: str, wide: int) -> Figure:
    """Draw a row and a column for each stretch."""
    legend: Legend = [("band", "h0", "0 or less"), ("band", "h1", "0.5"), ("band", "h2", "cosine 1")]
    said = f"Cosines between the mean gradients of {len(found.first)} stretches of {label}"
    rows = [f"from {first:,}" for first in found.first]
    figure = Figure(title, said, exact(STEP, [found.first[0], found.last[-1]]), rows, legend, wide, 13 * len(rows))
    edges = [*found.first, found.last[-1]]
    figure.add(Cells(edges, np.maximum(found.cosine, 0), 1.0, _tips(found), "cosine of mean gradients"))
    return figure


def _tips(found: DirectionMap) -> list[list[str]]:
    spans = [f"{a:,} to {b:,}" for a, b in zip(found.first, found.last, strict=True)]

    def tip(i: int, j: int) -> str:
        value, low, high = (float(part[i, j]) for part in (found.cosine, found.low, found.high))
        if np.isnan(value):
            return f"steps {spans[i]} and {spans[j]}: not known"
        said = PAGE.fixed(value, 2, True)
        ends = "" if i == j else f" ({interval(low, high, lambda x: PAGE.fixed(x, 2, True))})"
        return f"steps {spans[i]} and {spans[j]}: cosine {said}{ends}"

    return [[tip(i, j) for j in range(len(spans))] for i in range(len(spans))]
