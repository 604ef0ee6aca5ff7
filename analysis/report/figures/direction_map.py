"""Whether training keeps its direction: cosines between the mean gradients of stretches of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gradlog.analysis.common.text import PAGE, enumerate_some
from gradlog.analysis.directions import direction_map as directions
from gradlog.analysis.directions.direction_map import DirectionMap
from gradlog.analysis.directions.in_results import map_in, turns_in
from gradlog.analysis.directions.turns import Turn
from gradlog.analysis.report.axes import STEP, exact
from gradlog.analysis.report.figure import Cells, Figure, Legend, Rule
from gradlog.analysis.report.figures import Chart, interval, titled
from gradlog.analysis.report.study import Study
from gradlog.errors import SpecMismatchError

FEWEST = 3
"""Stretches with a mean gradient that are worth a map."""


@Chart(
    "direction_map", "directions", 1,
    "The darker a cell, the more alike in direction are the mean gradients of two stretches of steps, row and column; "
    "an empty cell: 0 or less, or a mean gradient that cannot be told from zero among the noise of its steps. Noise "
    "is taken out, so that a mean that stays the same has cosine 1 with itself later.",
)  # fmt: skip
def direction_map(runs: Sequence[Study]) -> Iterator[Figure]:
    """Draw a figure for each run in which some stretches have a mean gradient that is known."""
    for run in runs:
        if (own := map_in(run.result)) is not None and own.known.sum() >= FEWEST:
            figure = of_map(own, titled("Does training keep its direction?", run, runs), run.label)
            turned = turns_in(run.result)
            figure.add(*(Rule(float(turn.step), vertical=True) for turn in turned))
            figure.note = _turned(turned, f" of {run.label}" if len(runs) > 1 else "")
            yield figure


def _turned(turned: Sequence[Turn], whose: str) -> str:
    if not turned:
        return ""
    steps = enumerate_some([f"{t.step:,} (cosine {PAGE.fixed(t.cosine, 2, True)})" for t in turned], 4)
    where = f"Dotted: the direction{whose} turned at step {steps}"
    return f" {where}; there the means before and after differ more than elsewhere."


@Chart(
    "direction_map_of_two", "directions", 3,
    "The same between both runs: a row for each stretch of the first, a column for each of the second. Where both drew "
    "the same batches at the same steps, their noise is the same too, and the cosine there is too large.",
)  # fmt: skip
def direction_map_of_two(runs: Sequence[Study]) -> list[Figure]:
    """Draw one figure for two runs that were sketched by one map."""
    if len(runs) != 2 or not all("direction_cosine" in run.result for run in runs):
        return []
    one, other = runs
    try:
        found = directions.direction_map(one.run, other=other.run)
    except SpecMismatchError:
        return []
    label = f"{one.label} and {other.label}"
    return [of_map(found, f"Do both go the same way?\n{label}", label)] if found.known.any() else []


def of_map(found: DirectionMap, title: str, label: str) -> Figure:
    """Draw a row and a column for each stretch."""
    legend: Legend = [("band", "h0", "0 or less"), ("band", "h1", "0.5"), ("band", "h2", "cosine 1")]
    said = f"Cosines between the mean gradients of {len(found.first)} stretches of {label}"
    rows = [f"from {first:,}" for first in found.first]
    edges = [*found.other_first, found.other_last[-1]]
    figure = Figure(title, said, exact(STEP, [edges[0], edges[-1]]), rows, legend, height=13 * len(rows))
    figure.add(Cells(edges, np.maximum(found.cosine, 0), 1.0, _tips(found), "cosine of mean gradients"))
    return figure


def _tips(found: DirectionMap) -> list[list[str]]:
    spans, others = (
        [f"{a:,} to {b:,}" for a, b in zip(first, last, strict=True)]
        for first, last in ((found.first, found.last), (found.other_first, found.other_last))
    )

    def tip(i: int, j: int) -> str:
        if found.first is found.other_first:  # the same on both sides of the diagonal
            i, j = min(i, j), max(i, j)
        value, low, high = (float(part[i, j]) for part in (found.cosine, found.low, found.high))
        if np.isnan(value):
            return f"steps {spans[i]} and {others[j]}: not known"
        said = PAGE.fixed(value, 2, True)
        ends = (
            ""
            if i == j and found.first is found.other_first
            else f" ({interval(low, high, lambda x: PAGE.fixed(x, 2, True))})"
        )
        return f"steps {spans[i]} and {others[j]}: cosine {said}{ends}"

    return [[tip(i, j) for j in range(len(others))] for i in range(len(spans))]
