"""Noise scale along a run that can tell signal from noise, beside its batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.common.jackknife import ENDS
from gradlog.analysis.common.text import PAGE
from gradlog.analysis.measures.gradient_noise import batch_size
from gradlog.analysis.report.axes import Axis, logarithmic
from gradlog.analysis.report.figure import Band, Dots, Figure, Legend, Line, Rule
from gradlog.analysis.report.figures import Chart, column, interval, middle_steps, spans, steps_axis, titled
from gradlog.analysis.report.study import Study

if TYPE_CHECKING:
    import xarray

NAME = "window_noise_scale"


@Chart(
    "noise_scale", "noise", 1,
    "The batch size at which noise and signal of a gradient are equal, the critical one, by window. Below it, doubling "
    "the batch nearly halves the steps that training needs; far above it, a larger one buys little. A gap: the signal "
    "of that window cannot be told from zero, so that the noise scale is larger than can be measured.",
)  # fmt: skip
def noise_scale(runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure for each run that has a noise scale from two halves of its batches."""
    shown = [(run, ds) for run in runs if (ds := run.windows) is not None and told_by_halves(run, ds, NAME)]
    if not shown:
        return []
    ends = [column(ds, f"{NAME}{end}", NAME) for _, ds in shown for end in ("", "_low")]
    y = logarithmic("samples", *ends, [batch_size(run.document["noise"]) for run, _ in shown])
    x = steps_axis([run for run, _ in shown])
    return [_of_run(run, ds, x, y, titled("Noise scale, the critical batch size", run, runs)) for run, ds in shown]


def told_by_halves(run: Study, ds: xarray.Dataset, name: str) -> bool:
    """Whether halves of the batch tell some value of a noise scale; what lags tell depends on the learning rate."""
    source = run.document["noise"]["source"]
    return source not in (None, "lags") and name in ds and bool(np.isfinite(ds[name].values).any())


def _of_run(run: Study, ds: xarray.Dataset, x: Axis, y: Axis, title: str) -> Figure:
    said = f"Noise scale by window of steps of {run.label}"
    return over_time(ds, NAME, batch_size(run.document["noise"]), Figure(title, said, x, y), y)


def over_time(ds: xarray.Dataset, name: str, batch: float, figure: Figure, y: Axis) -> Figure:
    """Draw a noise scale by window with its interval, beside the batch size, on a figure without marks."""
    value, low, high = (column(ds, f"{name}{end}", name) for end in ENDS)
    band: Legend = [("band", "s0", "95 %, over minibatches")] if np.isfinite(low).any() else []
    figure.legend = [("line", "s0", "noise scale"), *band]
    if np.isfinite(batch):
        figure.add(Rule(batch, text=f"batch size {PAGE.count(batch)}"))
    at = middle_steps(ds)
    top = np.where(np.isfinite(value) & ~np.isfinite(high), y.high, high)  # no upper end: as far as the axis goes
    rows = zip(spans(ds), value, low, high, strict=True)
    tips = [f"{s}: {PAGE.number(v, 3)} samples ({interval(a, b, PAGE.count)})" for s, v, a, b in rows]
    figure.add(Band(at, low, top, "s0"), Line(at, value, "s0"), Dots(at, value, "s0", tips))
    return figure
