"""How long the gradient remembers its direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.directions.autocorrelation import Autocorrelation
from gradlog.analysis.directions.in_results import autocorrelation_in
from gradlog.analysis.report.axes import linear, logarithmic
from gradlog.analysis.report.figure import Band, Dots, Figure, Legend, Line, Rule
from gradlog.analysis.report.figures import Chart, interval, titled
from gradlog.analysis.report.study import Study


@Chart(
    "autocorrelation", "directions", 2,
    "The mean product of two gradients over the mean squared norm, by the steps between both; 1 at no distance. It "
    "falls at once to about the share of the signal, as the noise of two steps is unrelated, and then as training "
    "turns. Between the dashed lines lie 19 of 20 values of gradients that have nothing in common. Long distances are "
    "means over distances near them.",
)  # fmt: skip
def autocorrelation(runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure for each run whose directions were measured."""
    shown = [(run, found) for run in runs if (found := autocorrelation_in(run.result)) is not None]
    title = "How long does the gradient remember?"
    return [of_lags(found, titled(title, run, runs), run) for run, found in shown if np.isfinite(found.value).any()]


def of_lags(found: Autocorrelation, title: str, run: Study) -> Figure:
    """Draw value and interval by lag, between the ends of what chance shows."""
    legend: Legend = [
        ("line", "s0", "autocorrelation"),
        ("band", "s0", "95 %"),
        ("dashed", "ink", "unrelated gradients"),
    ]
    y = linear("mean product", found.value, found.low, found.high, -found.floor, found.floor)
    said = f"Autocorrelation of the gradient of {run.label}, by lag"
    figure = Figure(title, said, logarithmic("steps between both", found.lag), y, legend)
    noise = run.document["noise"]
    if noise["source"] not in (None, "lags") and noise["signal_share"] is not None:
        figure.add(Rule(noise["signal_share"], text="share of the signal"))
    figure.add(Rule(0.0), *(Line(found.lag, sign * found.floor, "ink thin", dashed=True) for sign in (-1, 1)))
    rows = enumerate(zip(found.lag, found.value, found.low, found.high, strict=True))
    tips = [f"{'about ' if i >= found.single else ''}{lag:,.0f} steps: {PAGE.fixed(v, 3, True)} "
            f"({interval(a, b, lambda x: PAGE.fixed(x, 3, True))})" for i, (lag, v, a, b) in rows]  # fmt: skip
    figure.add(Band(found.lag, found.low, found.high, "s0"), Line(found.lag, found.value, "s0"))
    figure.add(Dots(found.lag, found.value, "s0", tips))
    return figure
