"""A report on more runs than fit side by side: one table with a row a run, and figures that all runs share."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from gradlog.analysis.common.text import numeral
from gradlog.analysis.measures.predictors.registry import usual, without_reference
from gradlog.analysis.report.axes import Axis, exact, linear, logarithmic
from gradlog.analysis.report.charts import WIDE, column, style
from gradlog.analysis.report.charts_over_time import SCALARS, STEP
from gradlog.analysis.report.study import Study
from gradlog.analysis.report.svg import Legend, Panel
from gradlog.analysis.report.tables import Cell, Table, count_cell, gain_cell, number_cell, rank_cell

MOST = 12
"""Runs up to which each has a card and figures of its own."""

POINTS = 120
"""Points of a curve at most."""

NOTE = (
    "A heading sorts. kappa: squared prediction error over energy, with its sketch 95 % interval; gain: "
    "against the same steps in random order. Rank: certified, of the logged increments; small: of shuffled steps."
)


def overview(studies: Sequence[Study]) -> Table:
    """Show steps, kappa, gain and rank: a row a run."""
    names = without_reference(studies[0].document["kappa"])[:2]
    eps = next(iter(studies[0].document["rank"]))
    columns = [
        "run",
        "steps",
        "status",
        *(c for p in names for c in (f"kappa, {p}", "gain")),
        f"rank at {eps}",
        "warnings",
    ]
    return Table("A row a run", columns, [_row(s, names, eps) for s in studies], NOTE)


def _row(study: Study, names: Sequence[str], eps: str) -> list[Cell]:
    info, kappas = study.run.info, study.document["kappa"]
    cells = [
        Cell(study.label, study.label, "name"),
        count_cell(info["steps"]),
        Cell(info["status"], info["status"], "name"),
    ]
    for kappa in (kappas[p] for p in names):
        cells += [number_cell(kappa["value"], _ends(kappa["low"], kappa["high"])), gain_cell(kappa)]
    rank = study.document["rank"][eps]
    orders = rank.get("null_low"), rank.get("null_high")
    shuffled = "" if None in orders else "shuffled {:.0f} to {:.0f}".format(*orders)
    return [*cells, rank_cell(rank, shuffled), count_cell(len(json.loads(study.result.attrs["warnings"])))]


def _ends(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{numeral(low)} to {numeral(high)}"


def kappa(studies: Sequence[Study], name: str) -> list[str]:
    """Kappa of one predictor by window, a line a run."""
    at = usual("windows").index(name)
    curves = [(s, _middle(s), column(s, "window_kappa", windows=True)[:, at]) for s in studies if s.windows is not None]
    y = logarithmic("kappa, log scale", *(v for *_, v in curves), [1.0])
    return _shared(f"Kappa of {name} over time", curves, _steps(studies), y, rule=1.0)


def training(studies: Sequence[Study], name: str) -> list[str]:
    """Loss or gradient norm by step, a line a run."""
    shown = [(s, s.series[name]) for s in studies if name in s.series]
    curves = [(s, x.step[:: _every(x.step)], x.middle[:: _every(x.step)]) for s, x in shown]
    title, label = SCALARS[name]
    ends = [v for *_, v in curves]
    return _shared(
        title, curves, _steps(studies), logarithmic(label, *ends) if name == "norm" else linear(label, *ends)
    )


def tail(studies: Sequence[Study]) -> list[str]:
    """Energy outside the leading directions, a line a run."""
    least = min(float(e) for s in studies for e in s.result["eps"].values)
    y = Axis("share of increment energy left out, log scale", least / 2.5, 1.15, log=True)
    curves = []
    for s in studies:
        left = column(s, "tail_energy")
        left = left[: 1 + int(np.count_nonzero(left >= y.low))]
        r = np.arange(len(left))[:: _every(left)]
        curves.append((s, r, np.where(left >= y.low, left, np.nan)[r]))
    far = max(float(r[-1]) for _, r, _ in curves if len(r))
    return _shared("What the leading directions leave", curves, linear("number of directions r", [far], start=0.0), y)


def _shared(
    title: str, curves: Sequence[tuple[Study, np.ndarray, np.ndarray]], x: Axis, y: Axis, rule: float | None = None
) -> list[str]:
    if not curves:
        return []
    legend: Legend = [("line", "s0", "a run"), ("line", "ink", "median of the runs")]
    panel = Panel(title, x, y, legend, width=WIDE, plot=300)
    if rule is not None:
        panel.rule(rule)
    for i, (study, at, values) in enumerate(curves):
        panel.line(at, values, f"{style(i)} over", tip=study.label)
    panel.line(*_median(curves), "ink", tip="median of the runs that reach this far")
    return [panel.svg(f"{title}, a line for each of {len(curves)} runs; the numbers stand in the table")]


def _median(curves: Sequence[tuple[Study, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the curves where at least half of them are, each interpolated between its own points."""
    known = [(at[ok], values[ok]) for _, at, values in curves if (ok := np.isfinite(values)).any()]
    if not known:
        return np.empty(0), np.empty(0)
    grid = np.linspace(min(at[0] for at, _ in known), np.median([at[-1] for at, _ in known]), POINTS)
    lines = np.array([np.interp(grid, at, values, left=np.nan, right=np.nan) for at, values in known])
    enough = np.isfinite(lines).sum(axis=0) >= max(1, len(known) // 2)
    return grid[enough], np.nanmedian(lines[:, enough], axis=0)


def _steps(studies: Sequence[Study]) -> Axis:
    return exact(STEP, *(s.run.steps[[0, -1]] for s in studies))


def _middle(study: Study) -> np.ndarray:
    first, last = (column(study, f"window_{e}_step", windows=True) for e in ("first", "last"))
    return np.asarray((first + last) / 2)


def _every(values: np.ndarray) -> int:
    return max(1, -(-len(values) // POINTS))
