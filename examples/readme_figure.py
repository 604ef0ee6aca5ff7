"""Draw the picture in the README from the shipped runs.

python examples/readme_figure.py [FILE.svg|png]
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from gradlog.analysis import analyze, open_run

ROOT = Path(__file__).resolve().parent.parent
RUNS = {
    "tiny_sort_rmsprop": ("transformer, RMSprop", "#0072B2"),
    "cnn_digits_sgd": ("CNN, SGD momentum", "#D55E00"),
}
PREDICTORS = ["last", "ema(0.9)", "ema(0.99)", "trend", "ar(8)"]
EPS = (0.1, 0.05, 0.01)
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "svg.hashsalt": "gradlog", "svg.fonttype": "path", "legend.frameon": False,
}  # fmt: skip


def kappas(ax, results):
    """Draw kappa of each predictor as a dot, and what random order would give as an open one."""
    for i, (name, ds) in enumerate(results.items()):
        label, colour = RUNS[name]
        y = np.arange(len(PREDICTORS)) + 0.15 * (2 * i - 1)
        kappa = ds["kappa"].sel(predictor=PREDICTORS).values
        null = ds["kappa_null"].sel(predictor=PREDICTORS).values
        ax.hlines(y, np.minimum(kappa, null), np.maximum(kappa, null), color=colour, lw=1, alpha=0.5)
        ax.plot(null, y, "o", mfc="white", mec=colour, ms=5.5)
        ax.plot(kappa, y, "o", color=colour, ms=5.5, label=label)
    ax.plot([], [], "o", mfc="white", mec="0.4", ms=5.5, label="same gradients, shuffled")
    ax.axvline(1, color="0.75", lw=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set_xticks([0.3, 1, 2, 6, 14], ["0.3", "1", "2", "6", "14"])
    ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    ax.set_yticks(range(len(PREDICTORS)), PREDICTORS)
    ax.invert_yaxis()
    ax.set_xlabel("kappa = squared prediction error / energy")
    ax.set_title("How well do past gradients predict the next one?")
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.63), handletextpad=0.3, fontsize=8)


def tails(ax, results, truth):
    """Draw the energy that the leading directions leave, and the exact ranks of the full gradients."""
    for name, ds in results.items():
        label, colour = RUNS[name]
        ax.plot(ds["tail_energy"].values, color=colour, lw=1.6, label=label)
        exact = [truth[name]["rank"][str(e)] for e in EPS]
        ax.plot(exact, EPS, "x", color=colour, ms=7, mew=1.6)
    ax.plot([], [], "x", color="0.4", ms=7, mew=1.6, label="exact rank, from the full gradients")
    for e in EPS:
        ax.axhline(e, color="0.8", lw=0.8, ls=":", zorder=0)
    ax.set_yscale("log")
    ax.set_xlim(0, 130)
    ax.set_ylim(4e-3, 1.1)
    ax.set_yticks([1, *EPS], ["1", *map(str, EPS)])
    ax.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    ax.set_xlabel("directions r")
    ax.set_ylabel("energy outside the leading r")
    ax.set_title("How many directions hold the increments?")
    ax.legend(loc="upper right", fontsize=8)


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "img" / "two_runs.svg"
    truth = json.loads((ROOT / "sample_logs" / "expected.json").read_text())
    results = {
        name: analyze(open_run(ROOT / "sample_logs" / f"{name}.zarr"), predictors=PREDICTORS, eps=EPS) for name in RUNS
    }
    with mpl.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
        kappas(left, results)
        tails(right, results, truth)
        figure.savefig(
            target, dpi=150, facecolor="white", metadata={"Date": None} if str(target).endswith("svg") else {}
        )


if __name__ == "__main__":
    mpl.use("Agg")
    main()
