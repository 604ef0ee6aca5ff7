"""Figures of a result for papers: each function takes a Dataset of ``analyze``, draws on ``ax`` and returns it.

Colours are those of Okabe and Ito (2008). What is certified is a bar, what is shuffled is hollow or dashed.

>>> from gradlog.analysis import analyze, plots
>>> ax = plots.kappa(analyze("run.zarr"))                       # doctest: +SKIP
>>> plots.save(analyze("run.zarr", window=100), "run.pdf")      # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlog.analysis.common.text import abbreviate
from gradlog.analysis.measures.predictors.registry import usual, without_reference
from gradlog.analysis.report.palette import SERIES_LIGHT
from gradlog.errors import UnusableInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradlog.analysis.comparison.compare import Comparison
    from gradlog.analysis.comparison.divergence import Cosines
    from gradlog.analysis.comparison.replicates import Replicates
    from gradlog.analysis.results.group_time import GroupTime

STYLE: dict[str, Any] = {
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
    ax = _axes(ax)
    shown = ds.sel(predictor=without_reference(ds["predictor"].values))
    y = np.arange(shown.sizes["predictor"])
    value, low, high, null = (shown[f"kappa{end}"].values for end in ("", "_low", "_high", "_null"))
    ax.hlines(y, np.minimum(value, null), np.maximum(value, null), color=colour, lw=0.8, alpha=0.5)
    ax.hlines(y, low, high, color=colour, lw=4, alpha=0.4)
    ax.plot(null, y, "o", mfc="white", mec=colour, ms=5, label=f"{label} shuffled".strip())
    ax.plot(value, y, "o", color=colour, ms=5, label=label or "as recorded")
    ax.axvline(1, color="0.75", lw=0.8, zorder=0)
    ax.set_xscale("log")
    _plain_ticks(ax.xaxis)
    ax.set_yticks(y, [str(p) for p in shown["predictor"].values])
    ax.set_ylim(len(y) - 0.5, -0.5)
    ax.set_xlabel("kappa = squared prediction error / energy")
    return ax


def kappa_over_time(ds: xarray.Dataset, ax: Axes | None = None, predictors: Sequence[str] = ()) -> Axes:
    """Kappa by window with its sketch 95 % interval; dashed: the window's steps in random order.

    Raises
    ------
    ValueError
        The result has no windows.
    """
    ax = _axes(ax)
    at = _windows(ds)
    names = predictors or [str(p) for p in ds["predictor"].values if p in usual("windows")]
    for colour, name in zip(_cycle(len(names)), names, strict=True):
        here = ds.sel(predictor=name)
        value, low, high, null = (here[f"window_kappa{end}"].values for end in ("", "_low", "_high", "_null"))
        ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(at, value, color=colour, label=name)
        ax.plot(at, null, color=colour, ls="--", lw=0.8)
    ax.axhline(1, color="0.75", lw=0.8, zorder=0)
    ax.set_yscale("log")
    _plain_ticks(ax.yaxis)
    ax.set_xlabel("step")
    ax.set_ylabel("kappa")
    return ax


def spectrum(ds: xarray.Dataset, ax: Axes | None = None, colour: str = SERIES_LIGHT[0], label: str = "") -> Axes:
    """Singular values of the logged increments, falling, on logarithmic axes."""
    ax = _axes(ax)
    values = ds["singular_value"].values
    values = values[np.isfinite(values) & (values > 1e-9 * np.nanmax(values, initial=0.0))]
    ax.plot(np.arange(1, len(values) + 1), values, color=colour, label=label or None)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("number of the singular value")
    ax.set_ylabel("singular value of the logged increments")
    return ax


def tail(ds: xarray.Dataset, ax: Axes | None = None, colour: str = SERIES_LIGHT[0], label: str = "") -> Axes:
    """Energy outside the leading r directions, with the certified band, the shuffled rank and the estimate.

    A bar spans the certified r*(eps); a ring stands at the mean of random orders of the same steps, with a dashed line
    over 9 in 10 of them; a cross where the gradients themselves are estimated to be, with its range.
    """
    ax = _axes(ax)
    curve, unseen, eps = ds["tail_energy"].values, float(ds.attrs["svd_certificate"]), ds["eps"].values
    r = np.arange(len(curve))
    if unseen > 0:
        ax.fill_between(r, np.maximum(curve - unseen, 1e-9), curve, color=colour, alpha=0.2, lw=0)
    ax.plot(r, curve, color=colour, label=label or "logged matrix")
    ax.hlines(eps, ds["rank_low"], ds["rank_high"], color=colour, lw=4, alpha=0.4)
    ax.plot(ds["rank_high"], eps, "o", color=colour, ms=4, label=f"{label} certified r*".strip())
    far = [ds["rank_high"].values, ds["rank_low"].values]
    if "rank_null" in ds:
        if "rank_null_low" in ds:
            ax.hlines(eps, ds["rank_null_low"], ds["rank_null_high"], color=colour, lw=0.8, ls="--")
            far.append(ds["rank_null_high"].values)
        ax.plot(ds["rank_null"], eps, "o", mfc="white", mec=colour, ms=5, label=f"{label} shuffled".strip())
        far.append(ds["rank_null"].values)
    if "rank_estimate" in ds:
        ax.hlines(eps, ds["rank_estimate_low"], ds["rank_estimate_high"], color=colour, lw=0.8)
        ax.plot(ds["rank_estimate"], eps, "x", color=colour, ms=5, label=f"{label} gradients (est.)".strip())
        far.append(ds["rank_estimate_high"].values)
    for e in eps:
        ax.axhline(e, color="0.8", lw=0.8, ls=":", zorder=0)
    ax.set_yscale("log")
    ax.set_yticks([1, *eps], ["1", *(f"{e:g}" for e in eps)])
    ax.yaxis.set_minor_locator(_no_ticks())
    ax.set_ylim(float(np.min(eps)) / 2.5, 1.1)
    ax.set_xlim(0, max(8.0, 1.1 * np.nanmax(np.concatenate(far), initial=1)))
    ax.set_xlabel("directions r")
    ax.set_ylabel("increment energy left out")
    return ax


def rank_over_time(ds: xarray.Dataset, ax: Axes | None = None) -> Axes:
    """r*(eps) by window with its certified range; dashed: the window's steps in random order.

    Raises
    ------
    ValueError
        The result has no windows.
    """
    ax = _axes(ax)
    at = _windows(ds)
    for colour, e in zip(_cycle(ds.sizes["eps"]), ds["eps"].values, strict=True):
        here = ds.sel(eps=e)
        low, high = here["window_rank_low"].values, here["window_rank_high"].values
        ax.fill_between(
            at, low, np.where(np.isfinite(high), high, np.nanmax([high, low])), color=colour, alpha=0.2, lw=0
        )
        ax.plot(at, high, color=colour, label=f"eps = {e:g}")
        if "window_rank_null" in ds:
            ax.plot(at, here["window_rank_null"].values, color=colour, ls="--", lw=0.8)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("step")
    ax.set_ylabel("directions r*(eps)")
    ax.yaxis.set_major_locator(_whole_ticks())
    return ax


def group_shares(shares: GroupTime, ax: Axes | None = None) -> Axes:
    """Heat map of path length by parameter group and time; every column adds up to 1.

    Parameters
    ----------
    shares : GroupTime
        From ``grouptime.group_time``.
    """
    ax = _axes(ax)
    edges = np.append(shares.first, shares.last[-1])
    mesh = ax.pcolormesh(edges, np.arange(len(shares.groups) + 1), shares.share.T, cmap="cividis", vmin=0)
    ax.set_yticks(np.arange(len(shares.groups)) + 0.5, list(shares.groups))
    ax.invert_yaxis()
    ax.set_xlabel("step")
    bar = ax.figure.colorbar(mesh, ax=ax)
    bar.set_label(f"share of the path length of {shares.predictor}")
    return ax


def overview(ds: xarray.Dataset) -> Figure:
    """Kappa and tail side by side; below them kappa and rank over time if the result has windows."""
    from matplotlib.figure import Figure

    timed = "window_kappa" in ds
    figure = Figure(figsize=(7.0, 4.8 if timed else 2.6), layout="constrained")
    axes = figure.subplots(1 + timed, 2, squeeze=False)
    kappa(ds, axes[0, 0]).legend()
    tail(ds, axes[0, 1]).legend(loc="upper right")
    if timed:
        _legend_above(kappa_over_time(ds, axes[1, 0]))
        _legend_above(rank_over_time(ds, axes[1, 1]))
    return figure


def cosine(found: Cosines, ax: Axes | None = None) -> Axes:
    """Cosine similarity of two runs' gradients by step, with its sketch 95 % interval and the step where they part."""
    ax = _axes(ax)
    ax.fill_between(found.steps, found.low, found.high, color=SERIES_LIGHT[0], alpha=0.2, lw=0)
    ax.plot(found.steps, found.value, color=SERIES_LIGHT[0], lw=0.8)
    if found.parted is not None:
        ax.axvline(found.parted, color="0.4", lw=0.8, ls=":", label=f"parted at step {found.parted:,}")
    ax.axhline(0, color="0.75", lw=0.8, zorder=0)
    ax.set_ylim(min(-0.1, float(np.nanmin(found.low, initial=0.0))), 1.05)
    ax.set_xlabel("step")
    ax.set_ylabel("cosine of the two gradients")
    return ax


def comparison(found: Comparison) -> Figure:
    """Kappa of several runs over windows, a panel for each predictor; the cosine of two runs if there is one.

    Raises
    ------
    UnusableInputError
        Neither windows nor cosines to draw.
    """
    from matplotlib.figure import Figure

    timed = found.predictors if found.rows[0].document["windows"] else ()
    spread = list(found.replicates.configurations[0].kappa) if found.replicates else []
    panels = len(timed) + (found.cosines is not None) + len(spread)
    if panels == 0:
        raise UnusableInputError("nothing to draw: compare with window=N, runs of several seeds, or two of one map")
    figure = Figure(figsize=(7.0, 2.2 * -(-panels // 2)), layout="constrained")
    axes = figure.subplots(-(-panels // 2), 2, squeeze=False).ravel()
    for ax, name in zip(axes[panels - len(spread) :], spread, strict=False):
        assert found.replicates is not None
        configurations(found.replicates, name, ax)
    for ax, name in zip(axes, timed, strict=False):
        for colour, row in zip(_cycle(len(found.rows)), found.rows, strict=True):
            _curve(ax, row.document["windows"], name, colour, row.label)
        ax.set_title(name, loc="left")
        ax.set_xlabel("step")
        ax.set_ylabel("kappa")
    if timed:
        axes[0].legend()
    if found.cosines is not None:
        ax = cosine(found.cosines, axes[len(timed)])
        if found.cosines.parted is not None:
            ax.legend()
    for ax in axes[panels:]:
        ax.remove()
    return figure


def configurations(found: Replicates, predictor: str, ax: Axes | None = None) -> Axes:
    """Kappa over seeds: a dot for each run, and for each configuration the mean with its 95 % interval."""
    ax = _axes(ax)
    names = [c.label for c in found.configurations]
    for row, (colour, c) in enumerate(zip(_cycle(len(names)), found.configurations, strict=True)):
        mean = c.kappa[predictor]
        ax.plot(c.values[predictor], np.full(len(c.runs), row), "o", ms=3, color=colour, alpha=0.5)
        ax.plot([mean.low, mean.high], [row + 0.22] * 2, color=colour, lw=2)
        ax.plot([mean.value], [row + 0.22], "o", ms=5, color=colour)
    ax.set_yticks(range(len(names)), [abbreviate(name, 24) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_title(predictor, loc="left")
    ax.set_xlabel("kappa")
    return ax


def _curve(ax: Axes, windows: list[dict[str, Any]], name: str, colour: str, label: str) -> None:
    at = [(w["first_step"] + w["last_step"]) / 2 for w in windows]
    value, low, high, null = (
        np.array([np.nan if w["kappa"][name][end] is None else w["kappa"][name][end] for w in windows])
        for end in ("value", "low", "high", "null")
    )
    ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
    ax.plot(at, value, color=colour, label=label)
    ax.plot(at, null, color=colour, ls="--", lw=0.8)


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
    import matplotlib as mpl

    suffix = os.path.splitext(os.fspath(target))[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{os.fspath(target)!r} ends in none of {', '.join(SUFFIXES)}")
    style: Any = STYLE
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None, "ModDate": None}, ".png": {}}[suffix]
    with mpl.rc_context(style):
        draw().savefig(target, dpi=200, facecolor="white", metadata=undated)


def _legend_above(ax: Axes) -> None:
    legend = ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=4, borderpad=0.2, handletextpad=0.5)
    legend.set_in_layout(False)


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def _cycle(count: int) -> list[str]:
    return [SERIES_LIGHT[i % len(SERIES_LIGHT)] for i in range(count)]


def _windows(ds: xarray.Dataset) -> Any:
    if "window_kappa" not in ds:
        raise ValueError("the result has no windows; analyze the run with window=N, such as window=200")
    return (ds["window_first_step"].values + ds["window_last_step"].values) / 2


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2, 3, 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(_no_ticks())


def _whole_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
