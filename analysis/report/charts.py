"""Charts of whole runs: kappa beside its baseline, singular values, the tail of the spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradlog.analysis.common.text import abbreviate, numeral, percent
from gradlog.analysis.measures.interpretation import sentence
from gradlog.analysis.measures.predictors.registry import without_reference
from gradlog.analysis.report.axes import Axis, linear, logarithmic
from gradlog.analysis.report.study import Study
from gradlog.analysis.report.svg import Legend, Panel

STYLES = 7
THINNED = 300

WIDE = 980
"""Width of a chart that spans two columns."""


def style(index: int) -> str:
    """Class of the colour of a series."""
    return f"s{index % STYLES}"


def interval(low: float | None, high: float | None) -> str:
    """Words for an interval; says so where there is none."""
    if low is None or high is None or not np.isfinite([low, high]).all():
        return "no interval"
    return f"{numeral(low)} to {numeral(high)}"


def width(studies: Sequence[Study]) -> int:
    """Full-size width of a panel: two stand side by side, or three when there are that many runs."""
    return 480 if columns(studies) < 3 else 350


def columns(studies: Sequence[Study]) -> int:
    """Panels side by side: four runs make a square."""
    return 2 if len(studies) in (1, 2, 4) else 3


def titled(text: str, study: Study, studies: Sequence[Study]) -> str:
    """Name the run, on a line of its own, where there are several."""
    return text if len(studies) == 1 else f"{text}\n{study.label}"


def column(study: Study, name: str, windows: bool = False) -> NDArray[np.float64]:
    """Values of a result's variable; a single NaN where it does not exist."""
    ds = study.windows if windows else study.result
    if ds is None or name not in ds:
        return np.array([np.nan])
    return np.asarray(ds[name].values, np.float64)


def kappas(studies: Sequence[Study]) -> str:
    """Dots: kappa of each predictor and run, with its interval and what random order would give."""
    names = without_reference(studies[0].result["predictor"].values)
    gaps = _offsets(len(studies))
    ends = [np.concatenate([column(s, f"kappa{e}") for e in ("", "_low", "_high", "_null")]) for s in studies]
    axis = logarithmic("kappa: squared prediction error over energy", *ends, [1.0])
    runs: Legend = (
        [("dot", style(i), abbreviate(s.label, 26)) for i, s in enumerate(studies)] if len(studies) > 1 else []
    )
    first: Legend = [] if runs else [("dot", "s0", "as recorded")]
    legend = [
        *first,
        *runs,
        ("bar", "s0" if first else "plain", "sketch 95 %"),
        ("ring", "plain", "same steps, shuffled"),
    ]
    height = len(names) * max(34, 8 + 16 * len(studies))
    panel = Panel("Kappa beside its shuffled baseline", axis, names, legend, plot=height, width=WIDE if runs else 480)
    panel.rule(1.0, "predicting zero", across=False)
    for i, study in enumerate(studies):
        for row, name in enumerate(names):
            _kappa(panel, study.document["kappa"][name], row + gaps[i], style(i), f"{study.label}, {name}")
    return panel.svg(
        "Kappa of each predictor with interval and shuffled baseline; the same numbers stand in the table."
    )


def _kappa(panel: Panel, kappa: dict[str, Any], row: float, colour: str, name: str) -> None:
    value, low, high, null = (np.nan if kappa[f] is None else kappa[f] for f in ("value", "low", "high", "null"))
    text = f"{name}: kappa {numeral(value)} ({interval(low, high)}), shuffled {numeral(null)}; {sentence(kappa)}"
    panel.line([value, null], [row, row], f"{colour} faint")
    panel.dots([null], [row], colour, [f"{name}: {numeral(null)} if the same steps came in random order"], mark="ring")
    panel.intervals([row], [low], [high], f"{colour} thick", across=True)
    panel.dots([value], [row], colour, [text])


def _offsets(count: int) -> NDArray[np.float64]:
    """Places of several runs within a row."""
    return np.zeros(1) if count == 1 else np.linspace(-0.28, 0.28, count)


def spectrum(studies: Sequence[Study]) -> list[str]:
    """Singular values of the increments, against their number."""
    values = [_positive(column(s, "singular_value")) for s in studies]
    x = logarithmic("number of the singular value", [1.0], *([float(len(v) or 1)] for v in values))
    y = logarithmic("singular value, log scale", *(v[: max(1, int(0.98 * len(v)))] for v in values))
    return [
        _spectrum(s, v, x, y, titled("Singular values of the increments", s, studies), width(studies))
        for s, v in zip(studies, values, strict=True)
    ]


def _spectrum(study: Study, values: NDArray[np.float64], x: Axis, y: Axis, title: str, wide: int) -> str:
    panel = Panel(title, x, y, [("line", "s0", _kind(study))], width=wide)
    order = np.arange(1, len(values) + 1)
    kept = _thinned(len(values))
    panel.line(order[kept], values[kept], "s0")
    whole = float(study.result["increment_energy"])
    hits = kept[:: max(1, len(kept) // 60)]
    share = np.cumsum(values**2) / whole if whole > 0 else np.full(len(values), np.nan)
    tips = [
        f"value {i + 1}: {numeral(values[i])}; the first {i + 1} hold {percent(share[i])} of the energy" for i in hits
    ]
    panel.dots(order[hits], values[hits], "s0", tips, mark="spot")
    return panel.svg(f"Singular values of the increments of {study.label}, falling")


def _kind(study: Study) -> str:
    """Name what the singular values are: exact, or lower bounds by the randomized route."""
    bounds = float(study.result.attrs["svd_certificate"]) > 0
    return "of the logged matrix" + (", lower bounds by the randomized route" if bounds else "")


def tail(studies: Sequence[Study]) -> list[str]:
    """Energy outside the leading r directions; certified band, shuffled baseline, estimate for the gradients."""
    far = max(_reach(s) for s in studies)
    eps = sorted({float(e) for s in studies for e in s.result["eps"].values}, reverse=True)
    x = linear("number of directions r", [far], start=0.0)
    y = Axis("share of increment energy left out, log scale", eps[-1] / 2.5, 1.15, log=True, at=(1.0, *eps))
    title = "What the leading directions leave"
    return [_tail(s, x, y, titled(title, s, studies), width(studies)) for s in studies]


def _reach(study: Study) -> float:
    """Last r worth drawing."""
    ends = ("_high", "_low", "_null", "_null_high", "_estimate_high")
    marks = np.concatenate([column(study, f"rank{e}").ravel() for e in ends])
    marks = marks[np.isfinite(marks)]
    return max(8.0, 1.08 * float(marks.max(initial=1)))


def _tail(study: Study, x: Axis, y: Axis, title: str, wide: int) -> str:
    legend: Legend = [
        ("line", "s0", "logged matrix"),
        ("dot", "s0", "certified r*"),
        ("ring", "s1", "shuffled"),
        ("cross", "s2", "the gradients themselves, estimated"),
    ]
    panel = Panel(title, x, y, legend, width=wide)
    eps = np.asarray(study.result["eps"].values, np.float64)
    for e in eps:
        panel.rule(e)
    curve = column(study, "tail_energy")
    kept = _thinned(min(len(curve), int(x.high) + 2))
    unseen = float(study.result.attrs["svd_certificate"])
    inside = np.where(curve >= y.low, curve, np.nan)
    if unseen > 0:
        panel.band(kept, np.maximum(curve - unseen, y.low)[kept], inside[kept], "s0")
    panel.line(kept, inside[kept], "s0")
    _rank_marks(panel, study, eps)
    return panel.svg(
        f"Share of increment energy of {study.label} outside the leading directions; r* stands in the table"
    )


def _rank_marks(panel: Panel, study: Study, eps: NDArray[np.float64]) -> None:
    low, high, null = (column(study, f"rank_{e}") for e in ("low", "high", "null"))
    known, least, most = (column(study, f"rank_estimate{e}") for e in ("", "_low", "_high"))
    panel.intervals(eps, low, np.where(np.isfinite(high), high, panel.x.high), "s0 thick", across=True)
    panel.intervals(eps, least, most, "s2", across=True)
    lowest, highest = (column(study, f"rank_null_{e}") for e in ("low", "high"))
    panel.intervals(eps, lowest, highest, "s1", across=True)
    rows = list(zip(eps, null, known, least, most, low, high, strict=False))
    rings = [
        f"eps {e:g}: {numeral(n)} directions in random order ({interval(a, b)} in 9 of 10 orders)"
        for e, n, a, b in zip(eps, null, lowest, highest, strict=True)
    ]
    crosses = [f"eps {e:g}: {numeral(k)} directions of the gradients ({interval(a, b)})" for e, _, k, a, b, *_ in rows]
    dots = [f"eps {row[0]:g}: r* of the logged matrix is certified to lie in {interval(*row[5:])}" for row in rows]
    panel.dots(null, eps, "s1", rings, mark="ring")
    panel.dots(known, eps, "s2", crosses, mark="cross")
    panel.dots(high, eps, "s0", dots)


def _positive(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    return found[np.isfinite(found) & (found > 1e-9 * np.nanmax(found, initial=0.0))]


def _thinned(count: int) -> NDArray[np.int64]:
    """At most about 300 of 0..count-1, all of the first and fewer and fewer later."""
    if count <= THINNED:
        return np.arange(count)
    return np.unique(np.geomspace(1, count, THINNED).round().astype(np.int64)) - 1
