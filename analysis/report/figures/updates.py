"""Updates beside gradients: cosines along the run, and curvature along the steps beside the edge of stability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.measures.updates import Estimate, GradientAndUpdate
from gradlog.analysis.report.axes import Axis, linear
from gradlog.analysis.report.figure import Band, Dots, Figure, Legend, Line, Rule
from gradlog.analysis.report.figures import Chart, interval, steps_axis, titled
from gradlog.analysis.report.study import Study

Curve = tuple[str, str, Estimate]
"""Style, name and values."""


@Chart(
    "update_cosines", "updates", 1,
    "Cosine of each update with the negative gradient, 1 for plain SGD, and with the update before it: near 1 the "
    "steps go on as they did, below 0 they turn back. The bands are 95 % intervals of the sketch.",
)  # fmt: skip
def update_cosines(runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure for each run with updates."""
    y = Axis("cosine", -1.04, 1.04)
    return [
        _figure("Update against gradient", run, runs, y, [
            ("s0", "with the negative gradient", found.cosine), ("s1", "with the update before", found.previous),
        ], found)
        for run, found in _with_updates(runs)
    ]  # fmt: skip


@Chart(
    "curvature", "updates", 2,
    "Mean curvature of the loss along the steps, and the edge of stability, 2 (1 + momentum) / rate, above which such "
    "steps are unstable on a bowl. On full batches the plain curve is exact. With minibatches their noise makes it too "
    "large; then read the curve that is free of it: from half batches, or between successive steps that go the same "
    "way.",
)  # fmt: skip
def curvature(runs: Sequence[Study]) -> Iterator[Figure]:
    """Draw a figure for each run in which it is known."""
    for run, found in _with_updates(runs):
        curves = [
            ("s0", "along the step", found.curvature), ("s1", "without noise, half batches", found.corrected),
            ("s2", "between steps", found.shared), ("ink", "edge of stability", found.edge),
        ]  # fmt: skip
        known = [(style, name, e) for style, name, e in curves if np.isfinite(e.value[:, 0]).any()]
        if np.isfinite(found.curvature.value[:, 0]).any():
            y = linear("curvature", *(e.value[:, 0] for _, _, e in known), [0.0])
            yield _figure("Curvature along the steps", run, runs, y, known, found)


def _with_updates(runs: Sequence[Study]) -> list[tuple[Study, GradientAndUpdate]]:
    return [(run, run.updates) for run in runs if run.updates is not None]


def _figure(
    title: str, run: Study, runs: Sequence[Study], y: Axis, curves: Sequence[Curve], found: GradientAndUpdate
) -> Figure:
    """Draw the curves of the whole model, each with the band of its interval."""
    legend: Legend = [("dashed" if style == "ink" else "line", style, name) for style, name, _ in curves]
    said = f"{title} of {run.label}, by stretch of steps"
    figure = Figure(titled(title, run, runs), said, steps_axis([run]), y, legend)
    at = (found.first + found.last) / 2
    figure.add(Rule(0.0))
    for style, name, estimate in curves:
        value, low, high = (x[:, 0] for x in (estimate.value, estimate.low, estimate.high))
        spans = zip(found.first, found.last, value, low, high, strict=True)
        tips = [f"steps {a:,} to {b:,}, {name}: {PAGE.number(v, 3)} ({interval(x, z)})" for a, b, v, x, z in spans]
        if style != "ink":
            figure.add(Band(at, np.maximum(low, y.low), np.minimum(high, y.high), style))
        figure.add(Line(at, value, style, dashed=style == "ink"), Dots(at, value, style, tips, "spot"))
    return figure
