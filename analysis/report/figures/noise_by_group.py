"""Noise scale of each parameter group: of the whole run, and by window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradlog.analysis.common.jackknife import ENDS
from gradlog.analysis.common.text import PAGE, enumerate_some
from gradlog.analysis.measures.gradient_noise import batch_size
from gradlog.analysis.report.axes import Axis, logarithmic
from gradlog.analysis.report.figure import Bars, Dots, Figure, Rule
from gradlog.analysis.report.figures import Chart, column, interval, steps_axis, titled
from gradlog.analysis.report.figures.noise_scale import over_time, told_by_halves
from gradlog.analysis.report.study import Study
from gradlog.analysis.results.findings import batch_by_group

NAME, IN_TIME = "group_noise_scale", "window_group_noise_scale"
MOST_GROUPS, MOST_IN_TIME = 24, 6


@Chart(
    "noise_by_group", "noise", 2,
    "The noise scale of each group: a bar is its 95 % interval over minibatches. Where the whole bar lies right of the "
    "batch size, noise hides the gradient of that group; where it lies left, a smaller batch would do for it. A bar "
    "without a dot is open: the signal of the group cannot be told from zero.",
)  # fmt: skip
def noise_by_group(runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure for each run of several groups that has a noise scale from two halves of its batches."""
    return [
        _of_run(run, titled("Noise scale by group", run, runs))
        for run in runs
        if len(run.result["group"]) > 1 and told_by_halves(run, run.result, NAME)
    ]


def _of_run(run: Study, title: str) -> Figure:
    kept = _largest(run, MOST_GROUPS)
    names = [str(run.result["group"].values[g]) for g in kept]
    value, low, high = (column(run.result, f"{NAME}{end}", NAME)[kept] for end in ENDS)
    batch = batch_size(run.document["noise"])
    x = logarithmic("samples", value, low, np.fmin(high, 10 * np.nanmax(value)), [batch])
    said = f"Noise scale of {len(kept)} parameter groups of {run.label}"
    figure = Figure(title, said, x, names, [("bar", "s0", "95 %"), ("dot", "s0", "noise scale")],
                    height=max(60, 20 * len(kept)), note=_advice(run, batch))  # fmt: skip
    tips = [f"{n}: {PAGE.number(v, 3)} samples ({interval(a, b, PAGE.count)})" for n, v, a, b in
            zip(names, value, low, high, strict=True)]  # fmt: skip
    if np.isfinite(batch):
        figure.add(Rule(batch, vertical=True, text=f"batch size {PAGE.count(batch)}"))
    rows = np.arange(len(kept))
    figure.add(Bars(rows, low, np.where(np.isfinite(low) & ~np.isfinite(high), x.high, high), "s0"))
    figure.add(Dots(value, rows, "s0", tips))
    return figure


def _advice(run: Study, batch: float) -> str:
    """Say for which groups the batch size surely lies on one side of the noise scale."""
    words = {"below": "below that of", "above": "above that of", "": "not told apart from that of"}
    told = [f"{words[word]} {enumerate_some(names, 6)}" for word, names in batch_by_group(run.document, batch).items()]
    return f" The batch size of {PAGE.count(batch)} lies {'; '.join(told)}." if np.isfinite(batch) and told else ""


@Chart(
    "noise_by_group_over_time", "noise", 3,
    "The same by window of steps, of the groups with the largest gradients. All figures share one scale; a gap is a "
    "window whose signal cannot be told from zero.",
)  # fmt: skip
def noise_by_group_over_time(runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure for each of the largest groups of one run; several runs would need too many."""
    run = runs[0]
    ds = run.windows
    if len(runs) > 1 or ds is None or len(ds["group"]) < 2 or not told_by_halves(run, ds, IN_TIME):
        return []
    batch, x, kept = batch_size(run.document["noise"]), steps_axis(runs), _largest(run, MOST_IN_TIME)
    ends = [column(ds, f"{IN_TIME}{end}", IN_TIME)[:, kept] for end in ENDS[:2]]
    y: Axis = logarithmic("samples", *ends, [batch])
    found = []
    for g in kept:
        name = str(ds["group"].values[g])
        said = f"Noise scale of {name} by window of steps of {run.label}"
        figure = Figure(f"Noise scale of {name}", said, x, y, height=120)
        found.append(over_time(ds.isel(group=g), IN_TIME, batch, figure, y))
    return found


def _largest(run: Study, most: int) -> list[int]:
    """Select the groups with the largest energies, in their own order."""
    energy = column(run.result, "group_energy", NAME)
    return sorted(np.argsort(-np.nan_to_num(energy), kind="stable")[:most].tolist())
