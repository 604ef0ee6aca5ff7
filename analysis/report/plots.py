"""Figures of a result for papers: each function takes a Dataset of ``analyze``, draws on ``ax`` and returns it.

Colours are those of Okabe and Ito (2008). What is certified is a bar, what is shuffled is hollow or dashed.

>>> from gradlog.analysis import analyze, plots
>>> ax = plots.kappa(analyze("run.zarr"))                       # doctest: +SKIP
>>> plots.save(analyze("run.zarr", window=100), "run.pdf")      # doctest: +SKIP
"""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

from gradlog.analysis.measures.predictors.registry import usual
from gradlog.analysis.report.figures import comparison as of_runs
from gradlog.analysis.report.figures import dimension, heat_map, predictability
from gradlog.analysis.report.on_axes import draw
from gradlog.analysis.report.palette import SERIES_LIGHT
from gradlog.analysis.report.study import Analysis
from gradlog.errors import UnusableInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcStyleType

    from gradlog.analysis.comparison.compare import Comparison
    from gradlog.analysis.comparison.divergence import Cosines
    from gradlog.analysis.comparison.replicates import Replicates
    from gradlog.analysis.results.group_time import GroupTime

STYLE: RcStyleType = {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
    "figure.constrained_layout.w_pad": 0.08, "figure.constrained_layout.hspace": 0.08,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.linewidth": 1.2,
    "legend.frameon": False, "legend.fontsize": 7.5, "svg.fonttype": "path", "svg.hashsalt": "gradlog",
    "pdf.fonttype": 42, "legend.handlelength": 1.4, "legend.columnspacing": 1.2,
}  # fmt: skip
"""What ``save`` and the command line draw with; use it as ``matplotlib.rc_context(plots.STYLE)``."""

SUFFIXES = (".png", ".svg", ".pdf")


def kappa(ds: xarray.Dataset, ax: Axes | None = None, colour: str = SERIES_LIGHT[0], label: str = "") -> Axes:
    """Kappa of each predictor as a dot with its sketch 95 % interval; hollow: the same steps in random order.

    Parameters
    ----------
    ds : xarray.Dataset
        From ``analyze``.
    ax : matplotlib Axes, optional
        Default: the current ones.
    colour, label : str
        Of the run, to draw several on the same axes.

    Returns
    -------
    matplotlib Axes
    """
    return draw(predictability.kappas([Analysis(label, ds, None)])[0], _axes(ax), colour, label)


def kappa_over_time(ds: xarray.Dataset, ax: Axes | None = None, predictors: Sequence[str] = ()) -> Axes:
    """Kappa by window with its sketch 95 % interval; dashed: the window's steps in random order.

    Raises
    ------
    ValueError
        The result has no windows.
    """
    names = list(predictors) or [str(p) for p in ds["predictor"].values if p in usual("windows")]
    return draw(predictability.kappa_over_time([_windows(ds.sel(predictor=names))])[0], _axes(ax))


def spectrum(ds: xarray.Dataset, ax: Axes | None = None, colour: str = SERIES_LIGHT[0], label: str = "") -> Axes:
    """Singular values of the logged increments, falling, on logarithmic axes."""
    return draw(dimension.spectrum([Analysis(label, ds, None)])[0], _axes(ax), colour, label)


def tail(ds: xarray.Dataset, ax: Axes | None = None, colour: str = SERIES_LIGHT[0], label: str = "") -> Axes:
    """Energy outside the leading r directions, with the certified band, the shuffled rank and the estimate.

    A thick bar spans the certified r*(eps). A ring marks the mean of random orders of the same steps, and a thin bar 9
    in 10 of them. A cross marks the estimate for the gradients themselves, with its range.
    """
    return draw(dimension.tail([Analysis(label, ds, None)])[0], _axes(ax), colour, label)


def rank_over_time(ds: xarray.Dataset, ax: Axes | None = None) -> Axes:
    """r*(eps) by window with its certified range; dashed: the window's steps in random order.

    Raises
    ------
    ValueError
        The result has no windows.
    """
    return draw(dimension.rank_over_time([_windows(ds)])[0], _axes(ax))


def group_shares(shares: GroupTime, ax: Axes | None = None) -> Axes:
    """Heat map of path length by parameter group and time; every column adds up to 1.

    Parameters
    ----------
    shares : GroupTime
        From ``group_time``.
    """
    return draw(heat_map.of_shares(shares, "", "", len(shares.groups)), _axes(ax))


def overview(ds: xarray.Dataset) -> Figure:
    """Kappa and tail side by side; below them kappa and rank over time if the result has windows."""
    from matplotlib.figure import Figure

    timed = "window_kappa" in ds
    figure = Figure(figsize=(7.0, 4.8 if timed else 2.6), layout="constrained")
    axes = figure.subplots(1 + timed, 2, squeeze=False)
    kappa(ds, axes[0, 0]).legend()
    for text in tail(ds, axes[0, 1]).legend(loc="upper right").get_texts():
        text.set_text(textwrap.fill(text.get_text(), 22))
    if timed:
        _legend_above(kappa_over_time(ds, axes[1, 0]))
        _legend_above(rank_over_time(ds, axes[1, 1]))
    return figure


def cosine(found: Cosines, ax: Axes | None = None) -> Axes:
    """Cosine similarity of two runs' gradients by step, with its sketch 95 % interval and the step where they part."""
    return draw(of_runs.cosine(found), _axes(ax))


def comparison(found: Comparison) -> Figure:
    """Kappa of several runs over windows, a panel for each predictor; the cosine of two runs if there is one.

    Raises
    ------
    UnusableInputError
        Neither windows nor cosines to draw.
    """
    from matplotlib.figure import Figure

    curves = {r.label: r.document["windows"] for r in found.rows if r.document["windows"]}
    timed = found.predictors if curves else ()
    panels = [of_runs.kappa_of_runs(name, curves) for name in timed]
    panels += [of_runs.cosine(found.cosines)] if found.cosines else []
    seeds = found.replicates
    panels += [of_runs.configurations(seeds, p) for p in seeds.configurations[0].kappa] if seeds else []
    if not panels:
        raise UnusableInputError("nothing to draw: compare with window=N, runs of several seeds, or two of one map")
    figure = Figure(figsize=(7.0, 2.2 * -(-len(panels) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        draw(panel, ax).set_title(panel.title, loc="left")
    if timed:
        axes[0].legend()
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure


def configurations(found: Replicates, predictor: str, ax: Axes | None = None) -> Axes:
    """Kappa over seeds: a dot for each run, and for each configuration the mean with its 95 % interval."""
    ax = draw(of_runs.configurations(found, predictor), _axes(ax))
    ax.set_title(predictor, loc="left")
    return ax


def save(ds: xarray.Dataset, target: str | os.PathLike[str]) -> None:
    """Draw the overview into a .png, .svg or .pdf file, the same bytes for the same result.

    Raises
    ------
    ValueError
        Another suffix.
    """
    _write(lambda: overview(ds), target)


def save_comparison(found: Comparison, target: str | os.PathLike[str]) -> None:
    """Draw a comparison into a .png, .svg or .pdf file.

    Raises
    ------
    ValueError
        Another suffix, or nothing to draw.
    """
    _write(lambda: comparison(found), target)


def _write(draw: Callable[[], Figure], target: str | os.PathLike[str]) -> None:
    from matplotlib import style

    suffix = os.path.splitext(os.fspath(target))[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{os.fspath(target)!r} ends in none of {', '.join(SUFFIXES)}")
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None, "ModDate": None}, ".png": {}}[suffix]
    with style.context(STYLE):
        draw().savefig(target, dpi=200, facecolor="white", metadata=undated)


def _legend_above(ax: Axes) -> None:
    legend = ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=4, borderpad=0.2, handletextpad=0.5)
    legend.set_in_layout(False)


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def _windows(ds: xarray.Dataset) -> Analysis:
    if "window_kappa" not in ds:
        raise ValueError("the result has no windows; analyze the run with window=N, such as window=200")
    return Analysis("", ds, ds)
