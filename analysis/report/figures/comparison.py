"""Runs compared: kappa of each over time, the angle between two, and configurations over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.comparison.divergence import Cosines
from gradlog.analysis.comparison.replicates import Mean, Replicates
from gradlog.analysis.report.axes import Axis, exact, linear, logarithmic
from gradlog.analysis.report.figure import Band, Bars, Dots, Figure, Legend, Line, Rule, style
from gradlog.analysis.report.figures.predictability import LEGEND, add_curve
from gradlog.analysis.results.forms.json_document import Document

CAPTION = (
    "Two configurations differ where their intervals are apart; the table has the interval of the difference itself, "
    "which is narrower where they share seeds."
)
SEEDS: Legend = [
    ("dot", "plain faint", "a run"),
    ("bar", "plain", "95 % interval of the mean"),
    ("ring", "plain", "mean"),
]


def configurations(found: Replicates, predictor: str) -> Figure:
    """Draw kappa of a predictor: a dot for each run, and each configuration's mean with its interval."""
    means = [c.kappa[predictor] for c in found.configurations]
    x = linear("kappa", *(c.values[predictor] for c in found.configurations), [m.low for m in means],
               [m.high for m in means])  # fmt: skip
    names = [c.label for c in found.configurations]
    said = f"Kappa of {predictor} by configuration; the same numbers stand in the table."
    figure = Figure(predictor, said, x, names, SEEDS, height=max(70, 36 * len(names)))
    for row, (c, mean) in enumerate(zip(found.configurations, means, strict=True)):
        values = c.values[predictor]
        tips = [f"{run}: kappa {PAGE.number(float(v))}" for run, v in zip(c.runs, values, strict=True)]
        figure.add(
            Dots(values, np.full(len(values), row - 0.15), f"{style(row)} faint", tips),
            Bars([row + 0.2], [mean.low], [mean.high], style(row)),
            Dots([mean.value], [row + 0.2], style(row), [f"{c.label}: {_words(mean)}"], "ring"),
        )
    return figure


def _words(mean: Mean) -> str:
    spread = f", 95 % interval {PAGE.interval(mean.low, mean.high)}" if mean.n > 1 else ""
    return f"mean {PAGE.number(mean.value)} of {mean.n} run{'' if mean.n == 1 else 's'}{spread}"


def kappa_of_runs(predictor: str, windows: Mapping[str, Sequence[Document]]) -> Figure:
    """Draw kappa of one predictor, a curve for each run, from the windows of its JSON document."""
    ends = [
        w["kappa"][predictor][end] or np.nan for found in windows.values() for w in found for end in ("value", "null")
    ]
    x = exact("step", *([found[0]["first_step"], found[-1]["last_step"]] for found in windows.values()))
    figure = Figure(predictor, f"Kappa of {predictor} by window of steps", x, logarithmic("kappa", ends, [1.0]), LEGEND)
    figure.add(Rule(1.0))
    for i, (label, found) in enumerate(windows.items()):
        at = [(w["first_step"] + w["last_step"]) / 2 for w in found]
        columns = [
            np.array([w["kappa"][predictor][end] for w in found], np.float64)
            for end in ("value", "low", "high", "null")
        ]
        add_curve(figure, at, columns, i, label)
    return figure


def cosine(found: Cosines) -> Figure:
    """Draw one figure for the two runs."""
    low = min(-0.1, float(np.nanmin(found.low, initial=0.0)))
    legend: Legend = [("line", "s0", "cosine"), ("band", "s0", "sketch 95 %")]
    figure = Figure(
        "Cosine of the two gradients", "Cosine of two runs' gradients by step",
        exact("step", found.steps), Axis("cosine of the two gradients", low, 1.05), legend,
    )  # fmt: skip
    figure.add(Band(found.steps, found.low, found.high, "s0"), Line(found.steps, found.value, "s0 thin"), Rule(0.0))
    if found.parted is not None:
        figure.add(Rule(float(found.parted), vertical=True, text=f"parted at step {found.parted:,}"))
    return figure
