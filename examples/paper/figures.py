"""The figures of docs/paper.md, drawn from recorded runs by ``table`` and ``studies``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from examples.paper.measured import STAND_IN, Measured
from examples.paper.rows import PREDICTORS

if TYPE_CHECKING:
    from examples.paper.studies import Lines

STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "svg.hashsalt": "gradlog", "svg.fonttype": "path", "legend.frameon": False,
}  # fmt: skip
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito 2008: told apart with any colour vision
MARKS = ("o", "s", "^")


def draw_rows(rows: Sequence[Measured], target: Path) -> None:
    """Kappa of ``last`` and ``trend`` of every row: printed, measured with its interval, shuffled."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.5 + 0.36 * len(rows)), layout="constrained")
        for ax, name in zip(figure.subplots(1, 2, sharey=True), ("last", "trend"), strict=True):
            for y, m in enumerate(rows):
                k = m.found["kappa"][name]
                ax.plot(m.row.paper[PREDICTORS.index(name)], y, "x", color="black", ms=7, mew=1.6)
                ax.plot(k["null"], y, "o", mfc="white", mec="0.5", ms=5.5)
                ax.errorbar(k["value"], y, xerr=[[k["value"] - k["low"]], [k["high"] - k["value"]]], color=BLUE, lw=1.4)
                ax.plot(k["value"], y, "o", color=BLUE, ms=5)
            ax.set_yticks(range(len(rows)), [m.row.name.replace("_", " ") for m in rows])
            ax.set_xlabel(f"kappa of {name}")
            ax.grid(axis="y", color="0.92", lw=0.8)
        ax.invert_yaxis()
        ax.plot([], [], "x", color="black", ms=7, mew=1.6, label="printed in the paper")
        ax.plot([], [], "o", color=BLUE, ms=5, label=f"{here(rows)}, with sketch 95 %")
        ax.plot([], [], "o", mfc="white", mec="0.5", ms=5.5, label="here, same gradients in random order")
        figure.legend(loc="outside upper center", ncols=3, fontsize=8.5)
        save(figure, target)


def here(rows: Sequence[Measured]) -> str:
    """Name what was measured, and on what."""
    return f"here, {STAND_IN}" if any(m.data.startswith(STAND_IN) for m in rows) else "here"


def draw_windows(rows: Sequence[Measured], windows: Sequence[Any], target: Path) -> None:
    """Kappa of ``last`` in windows along each run, with what shuffling the window would give; one result a row."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots(2, 4, sharey=True).flat
        for ax, m, ds in zip(axes, rows, windows, strict=False):
            middle = (ds["window_first_step"] + ds["window_last_step"]).values / 2
            ax.plot(middle, ds["window_kappa_null"].sel(predictor="last"), color="0.5", lw=1.2, ls="--")
            low, high = (ds[f"window_kappa_{end}"].sel(predictor="last") for end in ("low", "high"))
            ax.fill_between(middle, low, high, color=BLUE, alpha=0.25, lw=0)
            ax.plot(middle, ds["window_kappa"].sel(predictor="last"), color=BLUE, lw=1.6)
            ax.set_title(m.row.name.replace("_", " "))
            ax.set_ylim(0, 4.2)
        figure.supxlabel("step", fontsize=9)
        figure.supylabel("kappa of last, in windows", fontsize=9)
        ax.plot([], [], color=BLUE, lw=1.6, label=here(rows))
        ax.plot([], [], color="0.5", lw=1.2, ls="--", label="window shuffled")
        figure.legend(loc="outside upper center", ncols=2, fontsize=8.5)
        save(figure, target)


def draw_studies(studies: dict[str, Lines], target: Path) -> None:
    """One panel a study: kappa of ``last``, and the same gradients in random order."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        for ax, (title, lines) in zip(figure.subplots(2, 2).flat, studies.items(), strict=True):
            named = isinstance(next(iter(lines.values()))[0].x, str)
            for (label, points), colour, mark in zip(lines.items(), (BLUE, ORANGE, GREEN), MARKS, strict=False):
                x = range(len(points)) if named else [p.x for p in points]
                ax.plot(x, [p.null for p in points], mark, mfc="white", mec=colour, ms=4.5, alpha=0.7)
                ax.plot(x, [p.kappa for p in points], mark, color=colour, ms=4.5, ls="" if named else "-", label=label)
                ax.vlines(x, [p.low for p in points], [p.high for p in points], color=colour, lw=1.4)
            if named:
                ax.set_xticks(range(len(points)), [p.x for p in points])
            elif title != "steps recorded":
                ax.set_xscale("log", base=2 if title == "batch size" else 10)
                ax.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
            ax.set_ylim(0, 4)
            ax.set_title({"optimizer": "optimizer of the MLP"}.get(title, title))
            ax.legend(loc="upper right" if named else "lower left", fontsize=8)
        figure.supylabel("kappa of last (open: the same gradients in random order)", fontsize=9)
        save(figure, target)


def save(figure: Figure, target: Path) -> None:
    """Write without a date, so that the same runs give the same file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if target.suffix == ".svg" else {}
    figure.savefig(target, dpi=150, facecolor="white", metadata=metadata)
