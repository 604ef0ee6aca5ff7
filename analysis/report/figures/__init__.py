"""Figures of a report, one a file: each says where it stands and how to read it. A new file here is a new figure.

``charts()`` finds them all. What several share (titles, columns of a result) stands here as well.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.common.types import Float64
from gradlog.analysis.report.axes import STEP, Axis, exact
from gradlog.analysis.report.figure import Figure
from gradlog.analysis.report.study import Analysis, Study

if TYPE_CHECKING:
    import xarray

SectionName = Literal[
    "configurations", "runs", "groups", "events", "training", "predictability", "directions", "updates", "noise",
    "dimension", "bounds",
]  # fmt: skip
Draw = TypeVar("Draw", bound=Callable[[Sequence[Study]], Iterable[Figure]])


@dataclasses.dataclass
class Chart:
    """A kind of figure on the page: its name, section and place there, how to read it, and what makes it of runs.

    It stands above the function that makes it. ``many``: all runs share it, on pages about more than 12 of them.
    """

    name: str
    section: SectionName
    place: int
    caption: str
    many: bool = False

    def __call__(self, figures: Draw) -> Draw:
        """Put what a function draws of the runs on the page."""
        self.figures = figures
        _CHARTS[self.name] = self
        return figures


_CHARTS: dict[str, Chart] = {}


def charts(many: bool) -> list[Chart]:
    """All kinds of figures for a page about many runs, or about few, in the order of their places."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return sorted((c for c in _CHARTS.values() if c.many == many), key=lambda c: c.place)


def interval(low: float | None, high: float | None, show: Callable[[float], str] | None = None) -> str:
    """Words for an interval; says so where there is none."""
    return PAGE.interval(low, high, show) or "no interval"


def columns(runs: Sequence[Analysis]) -> int:
    """Figures side by side: four runs make a square."""
    return 2 if len(runs) in (1, 2, 4) else 3


def titled(text: str, run: Analysis, runs: Sequence[Analysis]) -> str:
    """Name the run, on a line of its own, where there are several."""
    return text if len(runs) == 1 else f"{text}\n{run.label}"


def column(ds: xarray.Dataset, name: str, like: str) -> Float64:
    """Values of a variable of a result; NaN in the shape of another where it does not exist."""
    return np.asarray(ds[name].values, np.float64) if name in ds else np.full(ds[like].shape, np.nan)


def windowed(runs: Sequence[Analysis]) -> list[tuple[Analysis, xarray.Dataset]]:
    """Select the runs that were cut into windows, with the results of these."""
    return [(run, run.windows) for run in runs if run.windows is not None]


def steps_axis(runs: Sequence[Analysis]) -> Axis:
    """Axis of all steps that were recorded."""
    recorded = [json.loads(run.result.attrs["run"]) for run in runs]
    return exact(STEP, *([r["first_step"], r["last_step"]] for r in recorded))


def middle_steps(windows: xarray.Dataset) -> Float64:
    """Middle step of each window."""
    return np.asarray((windows["window_first_step"].values + windows["window_last_step"].values) / 2)


def spans(windows: xarray.Dataset) -> list[str]:
    """Words for the steps of each window."""
    first, last = (windows[f"window_{end}_step"].values for end in ("first", "last"))
    return [f"steps {a:,.0f} to {b:,.0f}" for a, b in zip(first, last, strict=True)]
