"""How many directions hold the increments: singular values, the energy outside them, the rank over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.common.types import Float64
from gradlog.analysis.report.axes import Axis, linear, logarithmic
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
)
from gradlog.analysis.report.study import Analysis

if TYPE_CHECKING:
    import xarray

THINNED = 300
TITLE, LEFT_OUT = "What the leading directions leave", "share of increment energy left out"
TAIL_LEGEND: Legend = [
    ("line", "s0", "logged matrix"),
    ("dot", "s0", "certified r*"),
    ("ring", "s1", "shuffled"),
    ("cross", "s2", "estimated true rank"),
]


@Chart(
    "tail", "dimension", 1,
    "The curve crosses a dotted line at r*(eps), the directions that leave at most eps of the energy; compare with the "
    "ring and its bar, the mean and the range of 9 in 10 random orders of the same steps.",
)  # fmt: skip
def tail(runs: Sequence[Analysis]) -> list[Figure]:
    """Draw a figure for each run, on the same axes."""
    eps = sorted({float(e) for run in runs for e in run.result["eps"].values}, reverse=True)
    x = linear("number of directions r", [max(_reach(run) for run in runs)], start=0.0)
    y = Axis(LEFT_OUT, eps[-1] / 2.5, 1.15, log=True, at=(1.0, *eps))
    return [_tail(run, x, y, titled(TITLE, run, runs)) for run in runs]


def _rank(run: Analysis, end: str) -> Float64:
    return column(run.result, f"rank_{end}", "rank_low")


def _reach(run: Analysis) -> float:
    """Last r worth drawing."""
    marks = np.concatenate([_rank(run, end) for end in ("high", "low", "null", "null_high", "estimate_high")])
    return max(8.0, 1.08 * float(marks[np.isfinite(marks)].max(initial=1)))


def _tail(run: Analysis, x: Axis, y: Axis, title: str) -> Figure:
    said = f"Share of increment energy of {run.label} outside the leading directions; r* stands in the table"
    figure = Figure(title, said, x, y, TAIL_LEGEND)
    eps = np.asarray(run.result["eps"].values, np.float64)
    figure.add(*(Rule(e) for e in eps))
    curve = np.asarray(run.result["tail_energy"].values, np.float64)
    kept = _thinned(min(len(curve), int(x.high) + 2))
    unseen = float(run.result.attrs["svd_certificate"])
    inside = np.where(curve >= y.low, curve, np.nan)
    if unseen > 0:
        figure.add(Band(kept, np.maximum(curve - unseen, y.low)[kept], inside[kept], "s0"))
    figure.add(Line(kept, inside[kept], "s0"), *_ranks(run, eps, x.high))
    return figure


def _ranks(run: Analysis, eps: Float64, far: float) -> Sequence[Bars | Dots]:
    low, high, null, lowest, highest = (_rank(run, end) for end in ("low", "high", "null", "null_low", "null_high"))
    known, least, most = (_rank(run, end) for end in ("estimate", "estimate_low", "estimate_high"))

    rings = [
        f"eps {e:g}: {PAGE.number(n)} directions in random order ({interval(a, b)} in 9 of 10 orders)"
        for e, n, a, b in zip(eps, null, lowest, highest, strict=True)
    ]
    crosses = [
        f"eps {e:g}: {PAGE.number(k)} directions of the gradients ({interval(a, b)})"
        for e, k, a, b in zip(eps, known, least, most, strict=True)
    ]
    dots = [
        f"eps {e:g}: r* of the logged matrix is certified to lie in {interval(a, b)}"
        for e, a, b in zip(eps, low, high, strict=True)
    ]
    return (
        Bars(eps, low, np.where(np.isfinite(high), high, far), "s0 thick"),
        Bars(eps, least, most, "s2"),
        Bars(eps, lowest, highest, "s1"),
        Dots(null, eps, "s1", rings, "ring"),
        Dots(known, eps, "s2", crosses, "cross"),
        Dots(high, eps, "s0", dots),
    )


@Chart(
    "spectrum", "dimension", 2,
    "The steeper the start, the fewer directions carry the change from step to step; both axes are logarithmic. The "
    "sketch flattens the far end.",
)  # fmt: skip
def spectrum(runs: Sequence[Analysis]) -> list[Figure]:
    """Draw a figure for each run, on the same axes."""
    values = [_positive(np.asarray(run.result["singular_value"].values, np.float64)) for run in runs]
    x = logarithmic("number of the singular value", [1.0], *([float(len(v) or 1)] for v in values))
    y = logarithmic("singular value", *(v[: max(1, int(0.98 * len(v)))] for v in values))
    title = "Singular values of the increments"
    return [_spectrum(run, v, x, y, titled(title, run, runs)) for run, v in zip(runs, values, strict=True)]


def _spectrum(run: Analysis, values: Float64, x: Axis, y: Axis, title: str) -> Figure:
    bounds = float(run.result.attrs["svd_certificate"]) > 0
    kind = "of the logged matrix" + (", lower bounds by the randomized route" if bounds else "")
    said = f"Singular values of the increments of {run.label}, falling"
    figure = Figure(title, said, x, y, [("line", "s0", kind)])
    order, kept = np.arange(1, len(values) + 1), _thinned(len(values))
    whole = float(run.result["increment_energy"])
    hits = kept[:: max(1, len(kept) // 60)]
    share = np.cumsum(values**2) / whole if whole > 0 else np.full(len(values), np.nan)
    tips = [
        f"value {i + 1}: {PAGE.number(values[i])}; the first {i + 1} hold {PAGE.percent(share[i])} of the energy"
        for i in hits
    ]
    figure.add(Line(order[kept], values[kept], "s0"), Dots(order[hits], values[hits], "s0", tips, "spot"))
    return figure


def _positive(values: Float64) -> Float64:
    return values[np.isfinite(values) & (values > 1e-9 * np.nanmax(values, initial=0.0))]


def _thinned(count: int) -> NDArray[np.int64]:
    """At most about 300 of 0..count-1, all of the first and fewer and fewer later."""
    if count <= THINNED:
        return np.arange(count)
    return np.unique(np.geomspace(1, count, THINNED).round().astype(np.int64)) - 1


RANGE = ("low", "high", "null")
RANK_LEGEND: Legend = [
    ("line", "plain", "logged matrix"), ("band", "plain", "certified range"), ("dashed", "plain", "shuffled"),
]  # fmt: skip


@Chart(
    "rank_over_time", "dimension", 3,
    "Below its dashed twin, the changes of a window keep to fewer directions than in random order; above it, "
    "neighbouring steps agree in what they share, and that cancels. W steps can show at most W.",
)  # fmt: skip
def rank_over_time(runs: Sequence[Analysis]) -> list[Figure]:
    """Draw a figure for each run with windows, a curve for each eps."""
    shown = windowed(runs)
    ends = [column(ds, f"window_rank_{end}", "window_rank_low") for _, ds in shown for end in RANGE]
    x, y = steps_axis([run for run, _ in shown]), linear("directions r*(eps)", *ends, start=0.0)
    wide = WIDE if len(runs) == 1 else NARROW
    return [_rank_over_time(run, ds, x, y, titled("Rank over time", run, runs), wide) for run, ds in shown]


def _rank_over_time(run: Analysis, ds: xarray.Dataset, x: Axis, y: Axis, title: str, wide: int) -> Figure:
    said = f"Rank of the increments by window of steps of {run.label}"
    figure = Figure(title, said, x, y, RANK_LEGEND, wide, height=150)
    at = middle_steps(ds)
    ends = [column(ds, f"window_rank_{end}", "window_rank_low") for end in RANGE]
    for i, e in enumerate(ds["eps"].values):
        low, high, null = (values[:, i] for values in ends)
        rows = zip(spans(ds), low, high, null, strict=True)
        tips = [
            f"eps {e:g}, {s}: certified {PAGE.interval(a, b, PAGE.count)}, shuffled {PAGE.number(n)}"
            for s, a, b, n in rows
        ]
        figure.add(
            Line(at, null, f"{style(i)} thin", dashed=True),
            Band(at, low, np.where(np.isfinite(high), high, y.high), style(i)),
            Line(at, np.where(low == high, low, np.nan), style(i)),
            Dots(at, low, style(i), tips, "spot"),
        )
        figure.names.append((float(low[-1]), style(i), f"eps {e:g}"))
    return figure
