"""Figures that many runs share: a line for each, and the median of them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gradlog.analysis.measures.predictors.registry import usual
from gradlog.analysis.report.axes import Axis, linear, logarithmic
from gradlog.analysis.report.figure import WIDE, Figure, Line, Rule, style
from gradlog.analysis.report.figures import Chart, middle_steps, steps_axis, windowed
from gradlog.analysis.report.figures.dimension import LEFT_OUT, TITLE
from gradlog.analysis.report.figures.training import SCALARS
from gradlog.analysis.report.study import Study

POINTS = 120
"""Points of a curve at most."""

Curve = tuple[str, np.ndarray, np.ndarray]
"""Label of the run, x and y."""


@Chart(
    "all_kappa", "predictability", 1,
    "A line is a run: hover over it for its name. Below 1 predicting beats zero; the table has each run's gain over "
    "random order.",
    many=True,
)  # fmt: skip
def kappa(runs: Sequence[Study]) -> list[Figure]:
    """Kappa of two predictors by window."""
    found = []
    for name in usual("windows")[:2]:
        curves = [
            (run.label, middle_steps(ds), np.asarray(ds["window_kappa"].sel(predictor=name).values))
            for run, ds in windowed(runs)
        ]
        y = logarithmic("kappa", *(v for *_, v in curves), [1.0])
        found += _shared(f"Kappa of {name} over time", curves, steps_axis(runs), y, Rule(1.0))
    return found


@Chart(
    "all_training", "training", 1,
    "A line is a run, in the colour that it has in every figure of this page.",
    many=True,
)  # fmt: skip
def training(runs: Sequence[Study]) -> Iterator[Figure]:
    """Loss and gradient norm by step."""
    for name, axis in (("loss", linear), ("norm", logarithmic)):
        shown = [(run.label, run.series[name]) for run in runs if name in run.series]
        curves = [(label, x.step[:: _every(x.step)], x.middle[:: _every(x.step)]) for label, x in shown]
        title, label, _ = SCALARS[name]
        yield from _shared(title, curves, steps_axis(runs), axis(label, *(v for *_, v in curves)))


@Chart(
    "all_tails", "dimension", 1,
    "The sooner a line falls, the fewer directions hold that run's changes from step to step.",
    many=True,
)  # fmt: skip
def tail(runs: Sequence[Study]) -> list[Figure]:
    """Energy outside the leading directions."""
    least = min(float(e) for run in runs for e in run.result["eps"].values)
    y = Axis(LEFT_OUT, least / 2.5, 1.15, log=True)
    curves = []
    for run in runs:
        left = np.asarray(run.result["tail_energy"].values, np.float64)
        left = left[: 1 + int(np.count_nonzero(left >= y.low))]
        r = np.arange(len(left))[:: _every(left)]
        curves.append((run.label, r, np.where(left >= y.low, left, np.nan)[r]))
    far = max(float(r[-1]) for _, r, _ in curves if len(r))
    return _shared(TITLE, curves, linear("number of directions r", [far], start=0.0), y)


def _shared(title: str, curves: Sequence[Curve], x: Axis, y: Axis, *rules: Rule) -> list[Figure]:
    if not curves:
        return []
    said = f"{title}, a line for each of {len(curves)} runs; the numbers stand in the table"
    legend = [("line", "s0", "a run"), ("line", "ink", "median of the runs")]
    figure = Figure(title, said, x, y, legend, WIDE, height=230)
    figure.add(*rules, *(Line(at, v, f"{style(i)} over", tip=label) for i, (label, at, v) in enumerate(curves)))
    figure.add(Line(*_median(curves), "ink", tip="median of the runs that reach this far"))
    return [figure]


def _median(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the curves where at least half of them are, each interpolated between its own points."""
    known = [(at[ok], values[ok]) for _, at, values in curves if (ok := np.isfinite(values)).any()]
    if not known:
        return np.empty(0), np.empty(0)
    grid = np.linspace(min(at[0] for at, _ in known), np.median([at[-1] for at, _ in known]), POINTS)
    lines = np.array([np.interp(grid, at, values, left=np.nan, right=np.nan) for at, values in known])
    enough = np.isfinite(lines).sum(axis=0) >= max(1, len(known) // 2)
    return grid[enough], np.nanmedian(lines[:, enough], axis=0)


def _every(values: np.ndarray) -> int:
    return max(1, -(-len(values) // POINTS))
