"""Figures as SVG: text stays text, colours are the page's custom properties, hover texts are titles.

A drawing is laid out from the outside in: head (title, unit, legend), axes, then marks in data coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradlog.analysis.common.text import abbreviate, printable
from gradlog.analysis.report.axes import STEP, Axis, tick_text
from gradlog.analysis.report.figure import WIDE, Band, Bars, Cells, Dots, Figure, Legend, Line, Rule, Tips

LETTER = 7.0
"""Estimated width of a letter at 12 pixels."""

LINE = 18
LEFT, RIGHT, BOTTOM, TOP = 34, 14, 40, 8
NAMES = 70
"""Room at the right for names of lines."""

SYMBOLS = {
    "line": '<path class="line" d="M{x} {y}h16"/>',
    "dashed": '<path class="line dashed" d="M{x} {y}h16"/>',
    "dot": '<circle class="dot" cx="{m}" cy="{y}" r="3"/>',
    "ring": '<circle class="ring" cx="{m}" cy="{y}" r="3"/>',
    "cross": '<path class="cross" d="M{m} {y}m-3 -3l6 6m0 -6l-6 6"/>',
    "band": '<rect class="band" x="{x}" y="{t}" width="16" height="10"/>',
    "bar": '<path class="bar" d="M{x} {y}h16"/>',
}


def svg(figure: Figure) -> str:
    """Return the drawing as an element of a page."""
    return "".join(_Drawing(figure).elements())


class _Drawing:
    """A figure laid out in pixels."""

    def __init__(self, figure: Figure) -> None:
        self.figure, self.width, y = figure, figure.width, figure.y
        names = list(map(tick_text, y.ticks(6))) if isinstance(y, Axis) else y
        self.longest = 20 if self.width < WIDE else 40
        self.left = max([LEFT, *(14 + LETTER * len(abbreviate(n, self.longest)) for n in names)])
        self.room = NAMES if figure.names else RIGHT
        self.right = self.width - self.room
        self.legend = _flow(figure.legend, self.width)
        self.titles = [abbreviate(line, int(self.width / 7.5)) for line in figure.title.split("\n")]
        self.top = TOP + LINE * (len(self.titles) + len(self.legend)) + LINE
        self.bottom = self.top + figure.height

    def elements(self) -> Iterable[str]:
        """Yield head, axes, marks and names."""
        box = f"0 0 {self.width} {self.bottom + BOTTOM}"
        label = escape(printable(self.figure.description))
        yield f'<svg class="chart" viewBox="{box}" role="img" aria-label="{label}"{self._zoomed()}>'
        yield from self._head()
        yield from self._y_axis()
        yield from self._x_axis()
        yield '<g class="plot">'
        for mark in self.figure.marks:
            yield from MARKS[type(mark)](self, mark)
        yield "</g>"
        yield from self._names()
        yield "</svg>"

    def _zoomed(self) -> str:
        """Return what the script needs to zoom into steps: both axes, as data and as pixels."""
        x, y = self.figure.x, self.figure.y
        if x.label != STEP:
            return ""
        steps = f' data-steps="{x.low:.12g} {x.high:.12g} {self.left:g} {self.right:g}"'
        if not isinstance(y, Axis):
            return steps
        kind = "log" if y.log else "linear"
        return f'{steps} data-values="{y.low:.9g} {y.high:.9g} {self.top} {self.bottom} {kind}"'

    def at_x(self, values: ArrayLike) -> NDArray[np.float64]:
        """Pixels of x values."""
        return self.figure.x.place(values, self.left, self.right)

    def at_y(self, values: ArrayLike) -> NDArray[np.float64]:
        """Pixels of y values; on named rows, of row numbers."""
        y = self.figure.y
        if isinstance(y, Axis):
            return y.place(values, self.bottom, self.top)
        return np.asarray(self.top + (np.asarray(values, float) + 0.5) * self.figure.height / len(y))

    def _line(self, mark: Line) -> Iterable[str]:
        """Draw a stroke for each stretch of known values."""
        points = np.column_stack([self.at_x(mark.x), self.at_y(mark.y)])
        missing = ~np.isfinite(points.sum(axis=1))
        path, pen = [], "M"
        for (px, py), gap in zip(points, missing, strict=True):
            path.append("" if gap else f"{pen}{_short(px, 1)} {_short(py, 2)}")
            pen = "M" if gap else "L"
        kind = f"line{' dashed' if mark.dashed else ''} {mark.style}"
        yield f'<path class="{kind}" d="{"".join(path)}">{_tip(mark.tip)}</path>'

    def _band(self, mark: Band) -> Iterable[str]:
        """Fill each stretch of known values."""
        px, below, above = self.at_x(mark.x), self.at_y(mark.low), self.at_y(mark.high)
        known = np.isfinite(px) & np.isfinite(below) & np.isfinite(above)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            out = [f"{_short(u, 1)} {_short(v, 1)}" for u, v in zip(px[a:b], above[a:b], strict=True)]
            back = [f"{_short(u, 1)} {_short(v, 1)}" for u, v in zip(px[a:b][::-1], below[a:b][::-1], strict=True)]
            yield f'<path class="band {mark.style}" d="M{"L".join(out + back)}Z"/>'

    def _dots(self, mark: Dots) -> Iterable[str]:
        """Draw a circle or a cross at each point."""
        for i, (px, py) in enumerate(zip(*np.broadcast_arrays(self.at_x(mark.x), self.at_y(mark.y)), strict=True)):
            if np.isfinite(px + py):
                tip = _tip(mark.tips[i] if mark.tips else "")
                kind = f"{mark.mark} {mark.style}"
                if mark.mark == "cross":
                    yield f'<path class="{kind}" d="M{px:.1f} {py:.1f}m-3 -3l6 6m0 -6l-6 6">{tip}</path>'
                else:
                    yield f'<circle class="{kind}" cx="{px:.1f}" cy="{py:.1f}" r="3">{tip}</circle>'

    def _bars(self, mark: Bars) -> Iterable[str]:
        """Draw a stroke along the x axis for each interval."""
        ends = self.at_y(mark.y), self.at_x(mark.low), self.at_x(mark.high)
        for p, a, b in zip(*np.broadcast_arrays(*ends), strict=True):
            if np.isfinite(p + a + b):
                yield f'<path class="bar {mark.style}" d="M{a:.1f} {p:.1f}H{b:.1f}"/>'

    def _rule(self, mark: Rule) -> Iterable[str]:
        """Draw a line from end to end, and its name."""
        p = float(self.at_x(mark.value) if mark.vertical else self.at_y(mark.value))
        path = f"M{p:.1f} {self.top}V{self.bottom}" if mark.vertical else f"M{self.left:.1f} {p:.1f}H{self.right}"
        yield f'<path class="rule" d="{path}"/>'
        if mark.text:
            x, y, anchor = (p + 4, self.top - 3, "start") if mark.vertical else (self.right, p - 4, "end")
            yield _text("note", x, y, mark.text, anchor)

    def _tips(self, mark: Tips) -> Iterable[str]:
        """Lay invisible columns over the plot that carry the hover texts."""
        yield '<g class="hits">'
        for (a, b), tip in zip(pairwise(self.at_x(mark.edges)), mark.texts, strict=True):
            yield f'<path d="{_box(a, b, self.top, self.bottom)}">{_tip(tip)}</path>'
        yield "</g>"

    def _cells(self, mark: Cells) -> Iterable[str]:
        """Fill a rectangle for each value, column by column; those that say the same are one mark."""
        boxes: dict[tuple[str, str], str] = {}
        for column, (a, b) in enumerate(pairwise(self.at_x(mark.edges))):
            for row, value in enumerate(mark.values[:, column]):
                t, u = self.at_y([row - 0.5, row + 0.5])
                strength = f"{value / mark.top if np.isfinite(value) else 0.0:.3g}"
                said = mark.tips[row][column], strength
                boxes[said] = boxes.get(said, "") + _box(a, b - 1, t, u - 1)
        yield '<g class="cells">'
        for (tip, strength), box in boxes.items():
            yield f'<path fill-opacity="{strength}" d="{box}">{_tip(tip)}</path>'
        yield "</g>"

    def _names(self) -> Iterable[str]:
        """Name lines at the right edge, pushed apart where they would overlap."""
        placed = sorted((float(self.at_y(y)), style, text) for y, style, text in self.figure.names if np.isfinite(y))
        spots = apart([p for p, _, _ in placed], 14, self.top + 4, self.bottom)
        for spot, (_, style, text) in zip(spots, placed, strict=True):
            shown = abbreviate(text, int((self.room - 6) / LETTER))
            yield _text(f"name {style}", self.right + 6, spot + 4, shown)

    def _head(self) -> Iterable[str]:
        y = TOP + 9
        for i, line in enumerate(self.titles):
            y += LINE if i else 0
            yield f'<text class="{"run" if i else "title"}" x="0" y="{y}">{escape(line)}</text>'
        for entries in self.legend:
            y, x = y + LINE, 0.0
            for mark, style, text in entries:
                symbol = SYMBOLS[mark].format(x=f"{x:.0f}", m=f"{x + 8:.0f}", y=y - 4, t=y - 9)
                yield f'<g class="{style}">{symbol}</g><text class="key" x="{x + 22:.0f}" y="{y}">{escape(text)}</text>'
                x += _key_width(text)
        if isinstance(unit := self.figure.y, Axis):
            label = f"{unit.label}, log scale" if unit.log else unit.label
            yield f'<text class="unit" x="0" y="{y + LINE}">{escape(label)}</text>'

    def _x_axis(self) -> Iterable[str]:
        yield '<g class="ticks">'
        for value in self.figure.x.ticks(7 if self.right - self.left > 330 else 5):
            p = float(self.at_x(value))
            yield f'<path class="mark" d="M{p:.1f} {self.bottom}v4"/>'
            yield _text("tick", p, self.bottom + 17, tick_text(value), "middle")
        yield "</g>"
        yield f'<path class="axis" d="M{self.left:.1f} {self.bottom}H{self.right}"/>'
        yield _text("unit", (self.left + self.right) / 2, self.bottom + 34, self.figure.x.label, "middle")

    def _y_axis(self) -> Iterable[str]:
        y = self.figure.y
        if not isinstance(y, Axis):
            for i, name in enumerate(y):
                yield _text("row", self.left - 8, float(self.at_y(i)) + 4, abbreviate(name, self.longest), "end")
            return
        yield '<g class="values">'
        for value in y.ticks(6):
            p = float(self.at_y(value))
            yield f'<path class="grid" d="M{self.left:.1f} {p:.1f}H{self.right}"/>'
            yield _text("tick", self.left - 6, p + 4, tick_text(value), "end")
        yield "</g>"


MARKS: dict[type, Callable[..., Iterable[str]]] = {
    Line: _Drawing._line, Band: _Drawing._band, Dots: _Drawing._dots, Bars: _Drawing._bars, Rule: _Drawing._rule,
    Tips: _Drawing._tips, Cells: _Drawing._cells,
}  # fmt: skip
"""What draws each kind of mark."""


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(printable(text))}</text>'


def _box(left: float, right: float, top: float, bottom: float) -> str:
    """Return the path of a rectangle."""
    a, b, t, u = (_short(edge, 1) for edge in (left, right, top, bottom))
    return f"M{a} {t}H{b}V{u}H{a}Z"


def _short(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


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


def apart(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending places the least, top down and then bottom up, until neighbours are ``gap`` apart."""
    found = list(places)
    for i, p in enumerate(found):
        found[i] = max(p, low if i == 0 else found[i - 1] + gap)
    for i in reversed(range(len(found))):
        found[i] = min(found[i], high if i == len(found) - 1 else found[i + 1] - gap)
    return found
