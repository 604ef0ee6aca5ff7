"""Loss, gradient norm and learning rate by step, where logged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.reading.binning import Series
from gradlog.analysis.report.axes import Axis, linear, logarithmic
from gradlog.analysis.report.figure import Band, Dots, Figure, Legend, Line, Tips
from gradlog.analysis.report.figures import Chart, steps_axis, titled
from gradlog.analysis.report.study import Study

SCALARS = {
    "loss": ("Loss", "loss", "Look for the windows where loss moves when kappa or rank move."),
    "norm": (
        "Gradient norm",
        "norm of the gradient",
        "A few large norms carry most of the energy that kappa divides by.",
    ),
    "lr": ("Learning rate", "learning rate", "Kappa and rank often change where the schedule does."),
}
"""Title, label of the axis and caption."""
BAND = " The band spans the smallest and the largest value of the steps that a point stands for."
MOST_MARKS = 200
FAR_APART = 30.0
"""Ratio between the largest values of two runs beyond which a linear axis would press one of them flat."""


def training(name: str, runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure of one scalar for each run that logged it."""
    shown = [run for run in runs if name in run.series]
    if not shown:
        return []
    title, label, _ = SCALARS[name]
    y = _axis(label, [run.series[name] for run in shown], name == "norm")
    x = steps_axis(shown)
    return [_of_run(run, name, x, y, titled(title, run, runs)) for run in shown]


for place, (name, (_, _, caption)) in enumerate(SCALARS.items()):
    Chart(name, "training", place, caption)(partial(training, name))


def _axis(label: str, found: Sequence[Series], log: bool) -> Axis:
    """Logarithmic where wanted, or where runs are too far apart for a linear axis."""
    ends = [v for s in found for v in (s.low, s.high)]
    least, tops = min(float(np.nanmin(s.low)) for s in found), [float(np.nanmax(s.high)) for s in found]
    if log:
        return logarithmic(label, *ends)
    if least >= 0 and max(tops) > FAR_APART * min(tops) > 0:
        floor = min(tops) / FAR_APART  # a warm-up from nothing would take all the room
        return logarithmic(label, *(np.maximum(v, floor) for v in ends))
    return linear(label, *ends, start=0.0 if least >= 0 else None)


def _of_run(run: Study, name: str, x: Axis, y: Axis, title: str) -> Figure:
    series = run.series[name]
    lost = run.run.steps[~run.run.finite][: MOST_MARKS if name == "norm" else 0]
    legend: Legend = [("line", "s0", f"median of {series.rows:,} steps"), ("band", "s0", "smallest to largest")]
    binned: Legend = legend if series.rows > 1 else []
    crossed: Legend = [("cross", "s1", "non-finite step")] if len(lost) else []
    said = f"{SCALARS[name][0]} by step of {run.label}"
    figure = Figure(title, said, x, y, [*binned, *crossed], height=150, note=BAND if binned else "")
    spans = zip(series.first, series.last, series.middle, series.low, series.high, strict=True)
    tips = [
        f"step{'' if a == b else 's'} {a:,}{'' if a == b else f' to {b:,}'}: {PAGE.number(m)}"
        if a == b or lo == hi
        else f"steps {a:,} to {b:,}: median {PAGE.number(m)}, {PAGE.number(lo)} to {PAGE.number(hi)}"
        for a, b, m, lo, hi in spans
    ]
    left_out = [f"step {t:,}: NaN or inf, left out" for t in lost]
    if series.rows > 1:
        figure.add(Band(series.step, series.low, series.high, "s0"))
    figure.add(
        Line(series.step, series.middle, "s0"),
        Tips([*series.first, series.last[-1]], tips),
        Dots(lost, np.full(len(lost), y.low), "s1", left_out, "cross"),
    )
    return figure
