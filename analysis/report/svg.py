"""A small writer of SVG charts: text stays text, colours are the page's custom properties, hover texts are titles.

A panel is drawn from the outside in: head (title, unit, legend), axes, then marks in data coordinates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradlog.analysis.common.text import abbreviate, printable
from gradlog.analysis.report.axes import Axis, tick_text

LETTER = 7.0
"""Estimated width of a letter at 12 pixels."""

LINE = 18
LEFT, BOTTOM, TOP = 34, 40, 8

Legend = Sequence[tuple[str, str, str]]
"""(mark, style, text); marks: line, dashed, dot, ring, cross, band, bar."""

SYMBOLS = {
    "line": '<path class="line" d="M{x} {y}h16"/>',
    "dashed": '<path class="line dashed" d="M{x} {y}h16"/>',
    "dot": '<circle class="dot" cx="{m}" cy="{y}" r="4"/>',
    "ring": '<circle class="ring" cx="{m}" cy="{y}" r="4"/>',
    "cross": '<path class="cross" d="M{m} {y}m-4 -4l8 8m0 -8l-8 8"/>',
    "band": '<rect class="band" x="{x}" y="{t}" width="16" height="10"/>',
    "bar": '<path class="bar" d="M{x} {y}h16"/>',
}


@dataclasses.dataclass
class Panel:
    """One chart.

    Attributes
    ----------
    title : str
        One line or two.
    x : Axis
    y : Axis or sequence of str
        Names of rows instead of an axis, from top to bottom.
    legend : sequence of (mark, style, text)
    width, plot : int
        Width of the whole and height of the plot, in pixels at full size.
    right : int
        Room at the right, for labels of lines.
    """

    title: str
    x: Axis
    y: Axis | Sequence[str]
    legend: Legend = ()
    width: int = 480
    plot: int = 210
    right: int = 14

    def __post_init__(self) -> None:
        self._marks: list[str] = []
        names = list(map(tick_text, self.y.ticks(6))) if isinstance(self.y, Axis) else self.y
        self.left = max([LEFT, *(14 + LETTER * len(abbreviate(n, 20)) for n in names)])
        self._legend_lines = _flow(self.legend, self.width)
        self._titles = [abbreviate(line, self.width // 8) for line in self.title.split("\n")]
        self.top = TOP + LINE * (len(self._titles) + len(self._legend_lines)) + LINE
        self.height = self.top + self.plot + BOTTOM

    # --- data to pixels

    def at_x(self, values: ArrayLike) -> NDArray[np.float64]:
        """Pixels of x values."""
        return self.x.place(values, self.left, self.width - self.right)

    def at_y(self, values: ArrayLike) -> NDArray[np.float64]:
        """Pixels of y values; on named rows, of row numbers."""
        bottom = self.top + self.plot
        if isinstance(self.y, Axis):
            return self.y.place(values, bottom, self.top)
        return np.asarray(self.top + (np.asarray(values, float) + 0.5) * self.plot / len(self.y))

    # --- marks

    def line(self, x: ArrayLike, y: ArrayLike, style: str, dashed: bool = False, tip: str = "") -> None:
        """Draw a line, broken where a value is missing."""
        points = np.column_stack([self.at_x(x), self.at_y(y)])
        missing = ~np.isfinite(points.sum(axis=1))
        path, pen = [], "M"
        for (px, py), gap in zip(points, missing, strict=True):
            path.append("" if gap else f"{pen}{px:.1f} {py:.1f}")
            pen = "M" if gap else "L"
        self._add(f'<path class="line{" dashed" if dashed else ""} {style}" d="{"".join(path)}">{_tip(tip)}</path>')

    def band(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, style: str) -> None:
        """Fill between two curves, where both are known."""
        px, below, above = self.at_x(x), self.at_y(low), self.at_y(high)
        known = np.isfinite(px) & np.isfinite(below) & np.isfinite(above)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            out = [f"{u:.1f} {v:.1f}" for u, v in zip(px[a:b], above[a:b], strict=True)]
            back = [f"{u:.1f} {v:.1f}" for u, v in zip(px[a:b][::-1], below[a:b][::-1], strict=True)]
            self._add(f'<path class="band {style}" d="M{"L".join(out + back)}Z"/>')

    def dots(self, x: ArrayLike, y: ArrayLike, style: str, tips: Sequence[str] = (), mark: str = "dot") -> None:
        """Draw a dot, ring or cross at each point."""
        for i, (px, py) in enumerate(zip(*np.broadcast_arrays(self.at_x(x), self.at_y(y)), strict=True)):
            if np.isfinite(px + py):
                shape = (
                    f'<path class="cross {style}" d="M{px:.1f} {py:.1f}m-4 -4l8 8m0 -8l-8 8">'
                    if mark == "cross"
                    else f'<circle class="{mark} {style}" cx="{px:.1f}" cy="{py:.1f}" r="4">'
                )
                self._add(shape + _tip(tips[i] if tips else "") + ("</path>" if mark == "cross" else "</circle>"))

    def intervals(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, style: str, across: bool = False) -> None:
        """Draw bars from ``low`` to ``high`` at ``x``; ``across``: along the x axis, at rows ``x``."""
        at = self.at_y(x) if across else self.at_x(x)
        ends = (self.at_x(low), self.at_x(high)) if across else (self.at_y(low), self.at_y(high))
        for p, a, b in zip(*np.broadcast_arrays(at, *ends), strict=True):
            if np.isfinite(p + a + b):
                path = f"M{a:.1f} {p:.1f}H{b:.1f}" if across else f"M{p:.1f} {a:.1f}V{b:.1f}"
                self._add(f'<path class="bar {style}" d="{path}"/>')

    def rule(self, value: float, text: str = "", across: bool = True) -> None:
        """Draw a reference line at a y value (or x value), named at its end."""
        p = float(self.at_y(value) if across else self.at_x(value))
        right, bottom = self.width - self.right, self.top + self.plot
        path = f"M{self.left:.1f} {p:.1f}H{right}" if across else f"M{p:.1f} {self.top}V{bottom}"
        self._add(f'<path class="rule" d="{path}"/>')
        if text:
            self._add(
                _text("note", right - 4, p - 4, text, "end") if across else _text("note", p + 4, self.top - 3, text)
            )

    def columns(self, edges: Sequence[float] | NDArray[np.float64], tips: Sequence[str]) -> None:
        """Lay invisible columns between ``edges`` over the plot that carry hover texts."""
        for (a, b), tip in zip(pairwise(self.at_x(edges)), tips, strict=True):
            place = f'x="{a:.1f}" y="{self.top}" width="{b - a:.1f}" height="{self.plot}"'
            self._add(f'<rect class="hit" {place}>{_tip(tip)}</rect>')

    def cell(self, left: float, right: float, row: int, strength: float, tip: str) -> None:
        """Fill a cell of a heat map on named rows; ``strength`` from 0 to 1."""
        (a, b), (t, u) = self.at_x([left, right]), self.at_y([row - 0.5, row + 0.5])
        place = f'x="{a:.1f}" y="{t:.1f}" width="{b - a - 1:.1f}" height="{u - t - 1:.1f}"'
        self._add(f'<rect class="cell" {place} fill-opacity="{strength:.3f}">{_tip(tip)}</rect>')

    def name_lines(self, ends: Iterable[tuple[float, str, str]]) -> None:
        """Name lines at the right edge: (y value, style, text), pushed apart where they would overlap."""
        placed = sorted((float(self.at_y(y)), style, text) for y, style, text in ends if np.isfinite(y))
        spots = _apart([p for p, _, _ in placed], 14, self.top + 4, self.top + self.plot)
        for spot, (_, style, text) in zip(spots, placed, strict=True):
            shown = abbreviate(text, int((self.right - 6) / LETTER))
            self._add(_text(f"name {style}", self.width - self.right + 6, spot + 4, shown))

    # --- the whole

    def svg(self, description: str) -> str:
        """Return the element; ``description`` is read out in its place."""
        box = f"0 0 {self.width} {self.height}"
        parts = [f'<svg class="chart" viewBox="{box}" role="img" aria-label="{escape(printable(description))}">']
        parts += [*self._head(), *self._frame(), *self._marks, "</svg>"]
        return "".join(parts)

    def _head(self) -> Iterable[str]:
        y = TOP + 9
        for i, line in enumerate(self._titles):
            y += LINE if i else 0
            yield f'<text class="{"run" if i else "title"}" x="0" y="{y}">{escape(line)}</text>'
        for entries in self._legend_lines:
            y, x = y + LINE, 0.0
            for mark, style, text in entries:
                symbol = SYMBOLS[mark].format(x=f"{x:.0f}", m=f"{x + 8:.0f}", y=y - 4, t=y - 9)
                yield f'<g class="{style}">{symbol}</g><text class="key" x="{x + 22:.0f}" y="{y}">{escape(text)}</text>'
                x += _key_width(text)
        if isinstance(self.y, Axis):
            yield f'<text class="unit" x="0" y="{y + LINE}">{escape(self.y.label)}</text>'

    def _frame(self) -> Iterable[str]:
        right, bottom = self.width - self.right, self.top + self.plot
        yield from self._y_axis(right)
        for value in self.x.ticks(7 if right - self.left > 330 else 5):
            p = float(self.at_x(value))
            yield f'<path class="mark" d="M{p:.1f} {bottom}v4"/>'
            yield _text("tick", p, bottom + 17, tick_text(value), "middle")
        yield f'<path class="axis" d="M{self.left:.1f} {bottom}H{right}"/>'
        yield _text("unit", (self.left + right) / 2, bottom + 34, self.x.label, "middle")

    def _y_axis(self, right: float) -> Iterable[str]:
        if isinstance(self.y, Axis):
            for value in self.y.ticks(6):
                p = float(self.at_y(value))
                yield f'<path class="grid" d="M{self.left:.1f} {p:.1f}H{right}"/>'
                yield _text("tick", self.left - 6, p + 4, tick_text(value), "end")
        else:
            for i, name in enumerate(self.y):
                yield _text("row", self.left - 8, float(self.at_y(i)) + 4, abbreviate(name, 20), "end")

    def _add(self, mark: str) -> None:
        self._marks.append(mark)


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(printable(text))}</text>'


def _tip(text: str) -> str:
    return f"<title>{escape(printable(text))}</title>" if text else ""


def _key_width(text: str) -> float:
    return 22 + LETTER * len(text) + 14


def _flow(legend: Legend, width: float) -> list[list[tuple[str, str, str]]]:
    """Break a legend into lines that fit."""
    lines: list[list[tuple[str, str, str]]] = []
    used = width
    for entry in legend:
        need = _key_width(entry[2])
        if used + need > width + 14:
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += need
    return lines


def _apart(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending places the least, top down and then bottom up, until neighbours are ``gap`` apart."""
    found = list(places)
    for i, p in enumerate(found):
        found[i] = max(p, low if i == 0 else found[i - 1] + gap)
    for i in reversed(range(len(found))):
        found[i] = min(found[i], high if i == len(found) - 1 else found[i + 1] - gap)
    return found
