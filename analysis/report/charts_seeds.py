"""Configurations over seeds: what two optimizers do, beside what two runs did."""

from __future__ import annotations

import math

import numpy as np

from gradlog.analysis.common.text import numeral
from gradlog.analysis.comparison.replicates import Configuration, Difference, Mean, Replicates
from gradlog.analysis.report.axes import Axis, linear
from gradlog.analysis.report.charts import style
from gradlog.analysis.report.svg import Legend, Panel
from gradlog.analysis.report.tables import Cell, Table

LEGEND: Legend = [
    ("dot", "plain faint", "a run"),
    ("bar", "plain", "95 % interval of the mean"),
    ("ring", "plain", "mean"),
]


def kappa_by_configuration(found: Replicates | None, wide: int) -> list[str]:
    """Draw a chart for each predictor: a dot for each run, and each configuration's mean with its interval."""
    return [_chart(found, predictor, wide) for predictor in found.configurations[0].kappa] if found else []


def _chart(found: Replicates, predictor: str, wide: int) -> str:
    names = [c.label for c in found.configurations]
    panel = Panel(predictor, _axis(found, predictor), names, LEGEND, width=wide, plot=max(70, 44 * len(names)))
    for row, c in enumerate(found.configurations):
        mean, values = c.kappa[predictor], c.values[predictor]
        tips = [f"{run}: kappa {numeral(float(v))}" for run, v in zip(c.runs, values, strict=True)]
        panel.dots(values, np.full(len(values), row - 0.15), f"{style(row)} faint", tips)
        panel.intervals([row + 0.2], [mean.low], [mean.high], style(row), across=True)
        panel.dots([mean.value], [row + 0.2], style(row), [f"{c.label}: {_words(mean)}"], mark="ring")
    return panel.svg(f"Kappa of {predictor} by configuration; the same numbers stand in the table.")


def _axis(found: Replicates, predictor: str) -> Axis:
    means = [c.kappa[predictor] for c in found.configurations]
    runs = [c.values[predictor] for c in found.configurations]
    return linear("kappa", *runs, [m.low for m in means], [m.high for m in means])


def configuration_table(found: Replicates | None) -> Table | None:
    """Mean, spread between runs and interval of each configuration and predictor."""
    if found is None:
        return None
    rows = [_mean_row(c, p, m) for c in found.configurations for p, m in c.kappa.items()]
    columns = ["configuration", "predictor", "runs", "mean kappa", "sd between runs", "95 % interval of the mean"]
    return Table("Configurations", columns, rows, " ".join(found.warnings))


def _mean_row(c: Configuration, predictor: str, mean: Mean) -> list[Cell]:
    known = mean.n > 1
    return [
        Cell(c.label, c.label, "name"),
        Cell(predictor, predictor, "name"),
        Cell(f"{mean.n}", mean.n),
        Cell(numeral(mean.value), mean.value),
        Cell(numeral(mean.sd) if known else "–", mean.sd if known else -math.inf),
        Cell(f"{numeral(mean.low)} to {numeral(mean.high)}" if known else "none", mean.value, "soft"),
    ]


def difference_table(found: Replicates | None) -> Table | None:
    """Differences of every two configurations, p values adjusted for their number."""
    if found is None or not found.differences:
        return None
    columns = ["difference", "predictor", "of mean kappa", "95 % interval", "seeds", "p"]
    note = (
        f"{len(found.differences)} differences; p is adjusted for all of them (Holm). Over the seeds that two "
        "configurations share the interval is a paired one; where they share none it is Welch's."
    )
    return Table("Differences", columns, [_difference_row(d) for d in found.differences], note)


def _difference_row(d: Difference) -> list[Cell]:
    title = f"{d.first} − {d.second}"
    return [
        Cell(title, title, "name"),
        Cell(d.predictor, d.predictor, "name"),
        Cell(numeral(d.value), d.value),
        Cell(f"{numeral(d.low)} to {numeral(d.high)}", d.low, "soft"),
        Cell(f"{d.seeds} paired" if d.seeds else "not paired", d.seeds),
        Cell("< 0.001" if d.p < 0.001 else f"{d.p:.3f}", d.p),
    ]


def _words(mean: Mean) -> str:
    spread = f", 95 % interval {numeral(mean.low)} to {numeral(mean.high)}" if mean.n > 1 else ""
    return f"mean {numeral(mean.value)} of {mean.n} run{'' if mean.n == 1 else 's'}{spread}"
