"""Figures on matplotlib's axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlog.analysis.common.text import abbreviate
from gradlog.analysis.common.types import Float64
from gradlog.analysis.report.axes import Axis, tick_text
from gradlog.analysis.report.figure import Band, Bars, Cells, Dots, Figure, Line, Mark, Rule
from gradlog.analysis.report.palette import SERIES_LIGHT

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Look = dict[str, Any]
"""Keywords of matplotlib for a colour and what goes with it. Any: each has a type of its own."""

GREY = "0.5"
EMPHASIS: dict[str, Look] = {
    "thin": {"lw": 0.8},
    "faint": {"lw": 0.8, "alpha": 0.5},
    "over": {"lw": 0.8, "alpha": 0.4},
    "thick": {"lw": 4, "alpha": 0.4},
}


def draw(figure: Figure, ax: Axes, colour: str = SERIES_LIGHT[0], label: str = "") -> Axes:
    """Draw a figure's marks and label the axes; titles are the caller's, and hover texts left out.

    Parameters
    ----------
    figure : Figure
    ax : matplotlib Axes
        Where they hold something already, their ends are moved to hold both.
    colour : str
        Of the first series; with a ``label`` of all of them.
    label : str
        Of the run, to draw several on the same axes.
    """
    fresh, series = not ax.has_data(), dict[tuple[str, str], list[Mark]]()
    for mark in figure.marks:
        series.setdefault((_kind(mark), getattr(mark, "style", "plain")), []).append(mark)
    drawn: dict[tuple[str, str], Artist] = {}
    for (kind, style), marks in series.items():
        name, _, emphasis = style.partition(" ")
        if kind in DRAW:
            look = {"color": colour if label or name == "s0" else _colour(name), **EMPHASIS.get(emphasis, {})}
            drawn[kind, name] = DRAW[kind](ax, marks, look)
    _scale(ax, "x", figure.x, fresh)
    if isinstance(figure.y, Axis):
        _scale(ax, "y", figure.y, fresh)
    else:
        ax.set_yticks(range(len(figure.y)), [abbreviate(name, 24) for name in figure.y])
        ax.set_ylim(len(figure.y) - 0.5, -0.5)
    _name(figure, drawn, label)
    return ax


def _kind(mark: Mark) -> str:
    """Name of a mark, as in legends."""
    if isinstance(mark, Line):
        return "dashed" if mark.dashed else "line"
    if isinstance(mark, Dots):
        return mark.mark
    return "bar" if isinstance(mark, Bars) else type(mark).__name__.lower()


def _colour(name: str) -> str:
    return SERIES_LIGHT[int(name[1:])] if name[1:].isdigit() else {"ink": "black"}.get(name, "0.4")


def _joined(marks: Sequence[Mark], end: str, gap: bool = False) -> Float64:
    """Values of several marks one after another, where wanted with a gap in between."""
    columns = [np.asarray(getattr(mark, end), np.float64) for mark in marks]
    return np.concatenate([np.append(c, np.nan) for c in columns])[:-1] if gap else np.concatenate(columns)


def _lines(ax: Axes, marks: Sequence[Line], look: Look) -> Artist:
    x, y = (_joined(marks, end, gap=True) for end in ("x", "y"))
    return ax.plot(x, y, ls="--" if marks[0].dashed else "-", **look)[0]


def _bands(ax: Axes, marks: Sequence[Band], look: Look) -> Artist:
    areas = [ax.fill_between(m.x, m.low, m.high, **look | {"alpha": 0.2, "lw": 0}) for m in marks]
    return areas[0]


def _dots(ax: Axes, marks: Sequence[Dots], look: Look) -> Artist:
    shape: Look = {"ring": {"marker": "o", "mfc": "white"}, "cross": {"marker": "x"}, "dot": {"marker": "o"}}[
        marks[0].mark
    ]
    small = 3 if "alpha" in look else 5
    return ax.plot(_joined(marks, "x"), _joined(marks, "y"), ls="", ms=small, **shape | look)[0]


def _bars(ax: Axes, marks: Sequence[Bars], look: Look) -> Artist:
    y, low, high = (_joined(marks, end) for end in ("y", "low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    return ax.hlines(y[known], low[known], high[known], **{"lw": 1.2, **look})


def _rules(ax: Axes, marks: Sequence[Rule], look: Look) -> Artist:
    for m in marks:
        line = (ax.axvline if m.vertical else ax.axhline)(m.value, color=GREY, lw=0.8, ls=":", zorder=0)
        if m.text:
            at = (m.value, 1.0, f" {m.text}") if m.vertical else (1.0, m.value, m.text)
            place = ax.get_xaxis_transform() if m.vertical else ax.get_yaxis_transform()
            side = "left" if m.vertical else "right"
            ax.text(*at, transform=place, ha=side, va="bottom", size="small", color="0.4")
    return line


def _cells(ax: Axes, marks: Sequence[Cells], look: Look) -> Artist:
    (m,) = marks
    mesh = ax.pcolormesh(m.edges, np.arange(len(m.values) + 1) - 0.5, m.values, cmap="cividis", vmin=0)
    ax.figure.colorbar(mesh, ax=ax).set_label(m.label)
    return mesh


DRAW: dict[str, Callable[..., Artist]] = {
    "line": _lines, "dashed": _lines, "band": _bands, "dot": _dots, "ring": _dots, "cross": _dots, "bar": _bars,
    "rule": _rules, "cells": _cells,
}  # fmt: skip
"""What draws each kind of mark; what only a pointer finds has no entry."""


def _scale(ax: Axes, which: str, axis: Axis, fresh: bool) -> None:
    from matplotlib.ticker import NullLocator

    ruler = {"x": ax.xaxis, "y": ax.yaxis}[which]
    ends = [axis.low, axis.high] if fresh else [axis.low, axis.high, *ruler.get_view_interval()]
    low, high = min(ends), max(ends)
    scale = "log" if axis.log else "linear"
    ax.set(**{f"{which}scale": scale, f"{which}lim": (low, high), f"{which}label": axis.label})
    if axis.log:  # matplotlib's own labels of a short one are powers of ten, or none
        ticks = dataclasses.replace(axis, low=low, high=high).ticks()
        ruler.set_ticks(ticks, [tick_text(value) for value in ticks])
        ruler.set_minor_locator(NullLocator())


def _name(figure: Figure, drawn: dict[tuple[str, str], Artist], label: str) -> None:
    """Label what was drawn by the names of lines, or else by the legend; the first entry stands for the run."""
    entries = [("line", style, text) for _, style, text in figure.names] or figure.legend
    for i, (mark, style, text) in enumerate(entries):
        name = style.partition(" ")[0]
        same = [artist for (kind, of), artist in drawn.items() if kind == mark and name in (of, "plain")]
        for artist in same[:1]:
            artist.set_label(label if label and i == 0 else f"{label} {text}".strip())
