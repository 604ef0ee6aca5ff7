"""What a figure shows, as data: curves, bands and marks on two axes. ``svg`` and ``on_axes`` draw it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from numpy.typing import ArrayLike

from gradlog.analysis.common.types import Float64
from gradlog.analysis.report.axes import Axis

NARROW, WIDE = 350, 690
"""Widths of a figure, and of one that spans two columns: for text of 12 pixels on a narrow screen."""

Legend = Sequence[tuple[str, str, str]]
"""(mark, style, text); marks: line, dashed, dot, ring, cross, band, bar."""

STYLES = 7


def style(index: int) -> str:
    """Name the colour of a series. The other styles are plain and ink; faint, thin, over and thick go with a colour."""
    return f"s{index % STYLES}"


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve, broken where a value is missing; ``tip`` is its hover text."""

    x: ArrayLike
    y: ArrayLike
    style: str
    dashed: bool = False
    tip: str = ""


@dataclasses.dataclass(frozen=True)
class Band:
    """The area between two curves, where both are known."""

    x: ArrayLike
    low: ArrayLike
    high: ArrayLike
    style: str


@dataclasses.dataclass(frozen=True)
class Dots:
    """A dot, ring or cross at each point, with its hover text; a spot is seen only by a pointer."""

    x: ArrayLike
    y: ArrayLike
    style: str
    tips: Sequence[str] = ()
    mark: str = "dot"


@dataclasses.dataclass(frozen=True)
class Bars:
    """Intervals of x values, each at its y."""

    y: ArrayLike
    low: ArrayLike
    high: ArrayLike
    style: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """A line of reference at a y value, named at its right end, or a vertical one at an x value, named at its top."""

    value: float
    vertical: bool = False
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Tips:
    """Hover texts for the stretches of the x axis between ``edges``."""

    edges: Sequence[float]
    texts: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Cells:
    """A heat map: for each named row its values between ``edges``, the darkest ``top``, and their hover texts."""

    edges: Sequence[float]
    values: Float64
    top: float
    tips: Sequence[Sequence[str]]
    label: str


Mark = Line | Band | Dots | Bars | Rule | Tips | Cells


@dataclasses.dataclass
class Figure:
    """One chart: its title in one line or two, axes and marks, and a description that is read out in its place.

    Names of rows may stand instead of a y axis; row 0 is the uppermost. ``width`` of the whole and ``height`` of the
    plot are pixels on a narrow screen; ``names`` are (y, style, text) of lines, at their right ends; ``note`` is added
    to the caption.
    """

    title: str
    description: str
    x: Axis
    y: Axis | Sequence[str]
    legend: Legend = ()
    width: int = NARROW
    height: int = 160
    marks: list[Mark] = dataclasses.field(default_factory=list)
    names: list[tuple[float, str, str]] = dataclasses.field(default_factory=list)
    note: str = ""

    @property
    def run(self) -> str:
        """Label of the run that it is about, where there are several."""
        return self.title.partition("\n")[2]

    def add(self, *marks: Mark) -> None:
        """Put marks above those that are there."""
        self.marks += marks
