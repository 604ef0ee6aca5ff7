"""Share of each parameter group in the path length of each window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.report.axes import STEP, exact
from gradlog.analysis.report.figure import WIDE, Cells, Figure, Legend
from gradlog.analysis.report.figures import Chart, interval, titled
from gradlog.analysis.report.study import SHARED, Study
from gradlog.analysis.results.group_time import GroupTime

MOST_GROUPS = 32


@Chart(
    "heat_map", "groups", 1,
    f"The darker a cell, the larger the group's share of the error of {SHARED} in that window; each column adds up to "
    "100 % over all groups.",
)  # fmt: skip
def heat_map(runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure for each run of several groups."""
    title = "Where and when the prediction error arises"
    return [
        of_shares(run.shares, titled(title, run, runs), run.label)
        for run in runs
        if run.shares is not None and len(run.shares.groups) > 1
    ]


def of_shares(shares: GroupTime, title: str, label: str, most: int = MOST_GROUPS) -> Figure:
    """Draw a row for each group, or for the ``most`` with the longest paths, in their own order."""
    total = np.nan_to_num(shares.path).sum(axis=0)
    kept = sorted(np.argsort(-total, kind="stable")[:most].tolist())
    names = [shares.groups[g] for g in kept]
    if len(kept) < len(shares.groups):
        title += f" · the {len(kept)} of {len(shares.groups)} groups with the largest error"
    top = float(np.nanmax(shares.share, initial=0.0)) or 1.0
    legend: Legend = [
        ("band", "h0", PAGE.percent(0.0, 0)),
        ("band", "h1", PAGE.percent(top / 2, 0)),
        ("band", "h2", f"{PAGE.percent(top, 0)} of the window's error"),
    ]
    said = f"Share of each parameter group in the path length of {shares.predictor}, by window, of {label}"
    x = exact(STEP, [shares.first[0], shares.last[-1]])
    figure = Figure(title, said, x, names, legend, WIDE, max(60, 17 * len(kept)))
    figure.add(Cells([*shares.first, shares.last[-1]], shares.share.T[kept], top, [_tips(shares, g) for g in kept],
                     f"share of the path length of {shares.predictor}"))  # fmt: skip
    return figure


def _tips(shares: GroupTime, g: int) -> list[str]:
    columns = (shares.share[:, g], shares.low[:, g], shares.high[:, g], shares.first, shares.last)
    return [
        f"{shares.groups[g]}, steps {a:,} to {b:,}: {PAGE.percent(share)} ({interval(low, high, PAGE.percent)}) "
        f"of the error of {shares.predictor}"
        for share, low, high, a, b in zip(*columns, strict=True)
    ]
