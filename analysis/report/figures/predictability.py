"""Kappa of each predictor, of whole runs and by windows, beside what random order would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from gradlog.analysis.common.text import PAGE, abbreviate
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.interpretation import sentence
from gradlog.analysis.measures.predictors.registry import without_reference
from gradlog.analysis.report.axes import Axis, logarithmic
from gradlog.analysis.report.figure import NARROW, WIDE, Band, Bars, Dots, Figure, Legend, Line, Rule, style
from gradlog.analysis.report.figures import (
    Chart,
    column,
    interval,
    middle_steps,
    spans,
    steps_axis,
    titled,
    windowed,
)  # fmt: skip
from gradlog.analysis.report.study import Analysis

if TYPE_CHECKING:
    import xarray

ENDS = ("", "_low", "_high", "_null")
GAIN = ("gain", "gain_low", "gain_high", "gain_chance", "gain_floor", "gain_epochs")


@Chart(
    "kappas", "predictability", 1,
    "A dot left of 1 predicts better than zero; a dot left of its ring predicts better than it would on the same "
    "gradients in random order.",
)  # fmt: skip
def kappas(runs: Sequence[Analysis]) -> list[Figure]:
    """Draw one figure of all runs, a row for each predictor."""
    names = without_reference(runs[0].result["predictor"].values)
    ends = [column(run.result, f"kappa{end}", "kappa") for run in runs for end in ENDS]
    several = len(runs) > 1
    legend: Legend = [
        *([("dot", style(i), abbreviate(run.label, 26)) for i, run in enumerate(runs)] if several else []),
        *([] if several else [("dot", "s0", "as recorded")]),
        ("bar", "plain" if several else "s0", "sketch 95 %"),
        ("ring", "plain", "same steps, shuffled"),
    ]
    figure = Figure(
        "Kappa beside its shuffled value",
        "Kappa of each predictor with interval and shuffled value; the same numbers stand in the table.",
        logarithmic("kappa: squared prediction error over energy", *ends, [1.0]), names, legend,
        width=WIDE if several else NARROW, height=len(names) * max(24, 6 + 11 * len(runs)),
    )  # fmt: skip
    figure.add(Rule(1.0, vertical=True, text="predicting zero"))
    for i, (run, gap) in enumerate(zip(runs, _offsets(len(runs)), strict=True)):
        for row, name in enumerate(names):
            _kappa(figure, run, name, row + gap, style(i))
    return [figure]


def _kappa(figure: Figure, run: Analysis, predictor: str, row: float, colour: str) -> None:
    known = {f: column(run.result, f, "kappa") for f in ("kappa", "kappa_low", "kappa_high", "kappa_null", *GAIN)}
    at = list(run.result["predictor"].values).index(predictor)
    value, low, high, null, *gain = (float(values[at]) for values in known.values())
    judged = {field: None if np.isnan(x) else x for field, x in zip(GAIN, gain, strict=True)}
    name = f"{run.label}, {predictor}"
    text = (
        f"{name}: kappa {PAGE.number(value)} ({interval(low, high)}), shuffled {PAGE.number(null)}; {sentence(judged)}"
    )
    figure.add(
        Line([value, null], [row, row], f"{colour} faint"),
        Dots([null], [row], colour, [f"{name}: {PAGE.number(null)} if the same steps came in random order"], "ring"),
        Bars([row], [low], [high], f"{colour} thick"),
        Dots([value], [row], colour, [text]),
    )


def _offsets(count: int) -> np.ndarray:
    """Places of several runs within a row."""
    return np.zeros(1) if count == 1 else np.linspace(-0.28, 0.28, count)


LEGEND: Legend = [("line", "plain", "as recorded"), ("band", "plain", "sketch 95 %"), ("dashed", "plain", "shuffled")]


@Chart(
    "kappa_over_time", "predictability", 2,
    "Where a line runs below its dashed twin, the order of the steps helped that predictor in that window; where they "
    "coincide, the window looks like shuffled noise.",
)  # fmt: skip
def kappa_over_time(runs: Sequence[Analysis]) -> list[Figure]:
    """Draw a figure for each run with windows, a curve for each predictor."""
    shown = windowed(runs)
    ends = [column(ds, f"window_kappa{end}", "window_kappa") for _, ds in shown for end in ("", "_null")]
    x, y = steps_axis([run for run, _ in shown]), logarithmic("kappa", *ends, [1.0])
    return [_kappa_over_time(run, ds, x, y, titled("Kappa over time", run, runs)) for run, ds in shown]


def _kappa_over_time(run: Analysis, ds: xarray.Dataset, x: Axis, y: Axis, title: str) -> Figure:
    names = [str(p) for p in ds["predictor"].values]
    said = f"Kappa of {', '.join(names)} by window of steps of {run.label}"
    figure = Figure(title, said, x, y, LEGEND)
    figure.add(Rule(1.0))
    ends = [column(ds, f"window_kappa{end}", "window_kappa") for end in ("", "_low", "_high", "_null")]
    curves = [[values[:, i] for values in ends] for i in range(len(names))]
    for i, (name, curve) in enumerate(zip(names, curves, strict=True)):
        add_curve(figure, middle_steps(ds), curve, i, name)
    for i, (name, (value, low, high, null)) in enumerate(zip(names, curves, strict=True)):
        rows = zip(spans(ds), value, low, high, null, strict=True)
        tips = [
            f"{name}, {s}: {PAGE.number(v)} ({interval(a, b)}), shuffled {PAGE.number(n)}" for s, v, a, b, n in rows
        ]
        figure.add(Dots(middle_steps(ds), value, style(i), tips, "spot"))
    return figure


def add_curve(figure: Figure, at: ArrayLike, ends: Sequence[Float64], i: int, name: str) -> None:
    """Add kappa over steps in the colour of series ``i``: shuffled, interval, as recorded."""
    value, low, high, null = ends
    figure.add(
        Line(at, null, f"{style(i)} thin", dashed=True), Band(at, low, high, style(i)), Line(at, value, style(i))
    )
    figure.names.append((float(value[-1]), style(i), name))
