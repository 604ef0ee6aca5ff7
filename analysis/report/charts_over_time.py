"""Charts over steps: kappa, rank and path length by window; loss, gradient norm and learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradlog.analysis.common.text import numeral, percent
from gradlog.analysis.measures.predictors.registry import usual
from gradlog.analysis.reading.binning import Series
from gradlog.analysis.report.axes import Axis, exact, linear, logarithmic
from gradlog.analysis.report.charts import WIDE, column, interval, style, titled, width
from gradlog.analysis.report.study import Study
from gradlog.analysis.report.svg import Legend, Panel
from gradlog.analysis.results.group_time import GroupTime

STEP = "step"
MOST_MARKS, MOST_GROUPS = 200, 32
SCALARS = {
    "loss": ("Loss", "loss"),
    "norm": ("Gradient norm", "norm of the gradient, log scale"),
    "lr": ("Learning rate", "learning rate"),
}
FAR_APART = 30.0
"""Ratio between the largest values of two runs beyond which a linear axis would press one of them flat."""


def windowed(studies: Sequence[Study]) -> list[Study]:
    """Studies of runs that were long enough to cut into windows."""
    return [s for s in studies if s.windows is not None]


def _middle(study: Study) -> np.ndarray:
    first, last = (column(study, f"window_{e}_step", windows=True) for e in ("first", "last"))
    return np.asarray((first + last) / 2)


def _steps(studies: Sequence[Study]) -> Axis:
    return exact(STEP, *(s.run.steps[[0, -1]] for s in studies))


def kappa_over_time(studies: Sequence[Study]) -> list[str]:
    """Kappa of each window with its interval, and that of the window's steps in random order."""
    shown = windowed(studies)
    ends = [column(s, f"window_kappa{e}", windows=True) for s in shown for e in ("", "_null")]
    x, y = _steps(shown), logarithmic("kappa, log scale", *ends, [1.0])
    return [_kappa_over_time(s, x, y, titled("Kappa over time", s, studies), width(studies)) for s in shown]


def _kappa_over_time(study: Study, x: Axis, y: Axis, title: str, wide: int) -> str:
    legend: Legend = [
        ("line", "plain", "as recorded"),
        ("band", "plain", "sketch 95 %"),
        ("dashed", "plain", "shuffled"),
    ]
    panel = Panel(title, x, y, legend, right=70, width=wide)
    panel.rule(1.0)
    at = _middle(study)
    value, low, high, null = (column(study, f"window_kappa{e}", windows=True) for e in ("", "_low", "_high", "_null"))
    ends = []
    names = usual("windows")
    for i, name in enumerate(names):
        panel.line(at, null[:, i], f"{style(i)} thin", dashed=True)
        panel.band(at, low[:, i], high[:, i], style(i))
        panel.line(at, value[:, i], style(i))
        ends.append((float(value[-1, i]), style(i), name))
    for i, name in enumerate(names):
        panel.dots(at, value[:, i], style(i), _kappa_tips(study, name, i), mark="spot")
    panel.name_lines(ends)
    return panel.svg(f"Kappa of {', '.join(names)} by window of steps of {study.label}")


def _kappa_tips(study: Study, name: str, i: int) -> list[str]:
    value, low, high, null = (
        column(study, f"window_kappa{e}", windows=True)[:, i] for e in ("", "_low", "_high", "_null")
    )
    spans = _spans(study)
    rows = zip(spans, value, low, high, null, strict=True)
    return [f"{name}, {s}: {numeral(v)} ({interval(a, b)}), shuffled {numeral(n)}" for s, v, a, b, n in rows]


def _spans(study: Study) -> list[str]:
    first, last = (column(study, f"window_{e}_step", windows=True) for e in ("first", "last"))
    return [f"steps {a:,.0f} to {b:,.0f}" for a, b in zip(first, last, strict=True)]


def rank_over_time(studies: Sequence[Study]) -> list[str]:
    """r*(eps) of each window with its certified range, and that of the window's steps in random order."""
    shown = windowed(studies)
    ends = [column(s, f"window_rank{e}", windows=True) for s in shown for e in ("_low", "_high", "_null")]
    x, y = _steps(shown), linear("directions r*(eps)", *ends, start=0.0)
    wide = WIDE if len(studies) == 1 else width(studies)
    return [_rank_over_time(s, x, y, titled("Rank over time", s, studies), wide) for s in shown]


def _rank_over_time(study: Study, x: Axis, y: Axis, title: str, wide: int) -> str:
    legend: Legend = [
        ("line", "plain", "logged matrix"),
        ("band", "plain", "certified range"),
        ("dashed", "plain", "shuffled"),
    ]
    panel = Panel(title, x, y, legend, right=70, width=wide, plot=190)
    at, eps = _middle(study), study.result["eps"].values
    low, high, null = (column(study, f"window_rank_{e}", windows=True) for e in ("low", "high", "null"))
    ends = []
    for i, e in enumerate(eps):
        closed, known = low[:, i] == high[:, i], low[:, i]
        panel.line(at, null[:, i], f"{style(i)} thin", dashed=True)
        panel.band(at, low[:, i], np.where(np.isfinite(high[:, i]), high[:, i], y.high), style(i))
        panel.line(at, np.where(closed, known, np.nan), style(i))
        spans = zip(_spans(study), low[:, i], high[:, i], null[:, i], strict=True)
        tips = [f"eps {e:g}, {s}: certified {_range(a, b)}, shuffled {numeral(n)}" for s, a, b, n in spans]
        panel.dots(at, known, style(i), tips, mark="spot")
        ends.append((float(known[-1]), style(i), f"eps {e:g}"))
    panel.name_lines(ends)
    return panel.svg(f"Rank of the increments by window of steps of {study.label}")


def _range(low: float, high: float) -> str:
    return f"{low:.0f} to {high:.0f}" if np.isfinite(high) else f"{low:.0f} or more"


def training(studies: Sequence[Study], name: str) -> list[str]:
    """Loss, gradient norm or learning rate by step, where logged."""
    shown = [s for s in studies if name in s.series]
    if not shown:
        return []
    title, label = SCALARS[name]
    y = _scalar_axis(label, [s.series[name] for s in shown], name == "norm")
    x, wide = _steps(shown), 320 if len(studies) == 1 else width(studies)
    return [_training(s, name, x, y, titled(title, s, studies), wide) for s in shown]


def _scalar_axis(label: str, found: Sequence[Series], log: bool) -> Axis:
    """Axis of a scalar: logarithmic where wanted, or where runs are too far apart for a linear one."""
    ends = [v for s in found for v in (s.low, s.high)]
    least, tops = min(float(np.nanmin(s.low)) for s in found), [float(np.nanmax(s.high)) for s in found]
    if log:
        return logarithmic(label, *ends)
    if least >= 0 and max(tops) > FAR_APART * min(tops) > 0:
        floor = min(tops) / FAR_APART  # a warm-up from nothing would take all the room
        return logarithmic(f"{label}, log scale", *(np.maximum(v, floor) for v in ends))
    return linear(label, *ends, start=0.0 if least >= 0 else None)


def banded(studies: Sequence[Study], name: str) -> bool:
    """Whether a drawing of the scalar shows a band: some point stands for several steps."""
    return any(s.series[name].rows > 1 for s in studies if name in s.series)


def _training(study: Study, name: str, x: Axis, y: Axis, title: str, wide: int) -> str:
    series = study.series[name]
    lost = study.run.steps[~study.run.finite][: MOST_MARKS if name == "norm" else 0]
    legend: Legend = [("line", "s0", f"median of {series.rows:,} steps"), ("band", "s0", "smallest to largest")]
    binned: Legend = legend if series.rows > 1 else []
    crossed: Legend = [("cross", "s1", "non-finite step")] if len(lost) else []
    panel = Panel(title, x, y, [*binned, *crossed], width=wide, plot=150)
    panel.band(series.step, series.low, series.high, "s0")
    panel.line(series.step, series.middle, "s0")
    spans = zip(series.first, series.last, series.middle, series.low, series.high, strict=True)
    tips = [
        f"step {a:,}: {numeral(m)}"
        if a == b
        else f"steps {a:,} to {b:,}: median {numeral(m)}, {numeral(lo)} to {numeral(hi)}"
        for a, b, m, lo, hi in spans
    ]
    panel.columns([*series.first, series.last[-1]], tips)
    panel.dots(lost, np.full(len(lost), y.low), "s1", [f"step {t:,}: NaN or inf, left out" for t in lost], mark="cross")
    return panel.svg(f"{SCALARS[name][0]} by step of {study.label}")


def heat_map(studies: Sequence[Study]) -> list[str]:
    """Share of each parameter group in the path length of each window."""
    shown = [s for s in studies if s.shares is not None and len(s.shares.groups) > 1]
    return [_heat_map(s, titled("Where and when the prediction error arises", s, studies)) for s in shown]


def _heat_map(study: Study, title: str) -> str:
    shares = study.shares
    assert shares is not None
    top = float(np.nanmax(shares.share, initial=0.0)) or 1.0
    x = exact(STEP, [shares.first[0], shares.last[-1]])
    legend: Legend = [
        ("band", "h0", percent(0.0, 0)),
        ("band", "h1", percent(top / 2, 0)),
        ("band", "h2", f"{percent(top, 0)} of the window's error"),
    ]
    kept = _heaviest(shares)
    names = [shares.groups[g] for g in kept]
    if len(kept) < len(shares.groups):
        title += f" · the {len(kept)} of {len(shares.groups)} groups with the largest error"
    panel = Panel(title, x, names, legend, plot=max(60, 24 * len(kept)), width=WIDE)
    for w, (a, b) in enumerate(zip(shares.first, shares.last, strict=True)):
        edge = shares.first[w + 1] if w + 1 < len(shares.first) else b
        for row, (g, name) in enumerate(zip(kept, names, strict=True)):
            share, low, high = (float(v[w, g]) for v in (shares.share, shares.low, shares.high))
            part = f"{percent(share)} ({percent(low)} to {percent(high)})"
            text = f"{name}, steps {a:,} to {b:,}: {part} of the error of {shares.predictor}"
            panel.cell(float(a), float(edge), row, share / top if np.isfinite(share) else 0.0, text)
    return panel.svg(
        f"Share of each parameter group in the path length of {shares.predictor}, by window, of {study.label}"
    )


def _heaviest(shares: GroupTime) -> list[int]:
    """Select the groups with the longest paths, at most 32, in their own order."""
    total = np.nan_to_num(shares.path).sum(axis=0)
    return sorted(np.argsort(-total, kind="stable")[:MOST_GROUPS].tolist())
