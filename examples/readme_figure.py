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
    "cnn_digits_sgd": "CNN, digits, SGD momentum",
    "mlp_wine_exact": "perceptron, wine, SGD",
    "resnet18_photo100_adamw": "ResNet-18, photos, AdamW",
    "mlp_synth_adamw": "perceptron, AdamW, 2,000 steps",
    "gpt2_manual_adamw": "GPT-2, text, AdamW, 50 steps",
    "tiny_sort_rmsprop": "transformer, sorting, RMSprop",
}
CURVES = {"tiny_sort_rmsprop": "#D55E00", "cnn_digits_sgd": "#0072B2"}
"""Runs with a curve of directions; their exact rank is known from their full gradients."""
STEPS_PER_EPOCH = {"mlp_wine_exact": 5, "cnn_digits_sgd": 28}
"""Where batches repeat after an epoch, random order keeps to epochs."""
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "svg.hashsalt": "gradlog", "svg.fonttype": "path",
    "legend.frameon": False,
}  # fmt: skip


def predictability(ax, results):
    """Draw the error of predicting the last gradient again, over that of the same gradients in random order."""
    ratio = [float((ds["kappa"] / ds["kappa_null"]).sel(predictor="last")) for ds in results.values()]
    y = np.arange(len(ratio))
    colours = [CURVES.get(name, "0.35") for name in results]
    ax.axvline(1, color="0.6", lw=1)
    ax.hlines(y, 1, ratio, color=colours, lw=2.5)
    ax.scatter(ratio, y, color=colours, s=36, zorder=3)
    for value, at in zip(ratio, y, strict=True):
        ax.annotate(f"{value:.2f}", (value, at), (8 if value >= 1 else -8, 0), textcoords="offset points",
                    ha="left" if value >= 1 else "right", va="center", fontsize=8)  # fmt: skip
    ax.set_xlim(0.3, 2.1)
    ax.set_ylim(len(ratio) - 0.3, -1.1)
    ax.set_yticks(y, [RUNS[name] for name in results])
    ax.tick_params(axis="y", length=0)
    ax.text(0.97, -0.75, "steps resemble\neach other", ha="right", va="center", fontsize=8, color="0.35")
    ax.text(1.03, -0.75, "steps oppose\neach other", ha="left", va="center", fontsize=8, color="0.35")
    ax.set_xlabel("error of guessing the previous gradient again\n(1 = the same gradients in random order)")
    ax.set_title("Is the next gradient like the last one?")


def directions(ax, results, truth):
    """Draw the share of the change that the leading directions hold, with the exact rank of the full gradients."""
    for height, (name, colour) in zip((58, 34), CURVES.items(), strict=True):
        held = 100 * (1 - results[name]["tail_energy"].values)
        exact, dimension = truth[name]["rank"]["0.1"], truth[name]["dimension"]
        ax.plot(held, color=colour, lw=1.8)
        ax.plot(exact, 90, "o", color=colour, ms=6)
        ax.text(26, height, f"{RUNS[name]}:\n{exact} of {dimension:,} directions", color=colour)
    ax.axhline(90, color="0.75", lw=0.8, ls=":", zorder=0)
    ax.text(80, 91, "90 %", ha="right", va="bottom", color="0.35", fontsize=8)
    ax.set_xlim(0, 80)
    ax.set_ylim(0, 103)
    ax.set_xlabel("number of directions")
    ax.set_ylabel("% of the change from step to step")
    ax.set_title("In how many directions does it change?")


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "img" / "sample_runs.svg"
    truth = json.loads((ROOT / "sample_logs" / "expected.json").read_text())
    results = {
        name: analyze(
            open_run(ROOT / "sample_logs" / f"{name}.zarr"),
            predictors=["last"],
            eps=[0.1],
            steps_per_epoch=STEPS_PER_EPOCH.get(name),
        )
        for name in RUNS
    }
    with mpl.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        predictability(left, results)
        directions(right, results, truth)
        figure.savefig(
            target, dpi=150, facecolor="white", metadata={"Date": None} if str(target).endswith("svg") else {}
        )


if __name__ == "__main__":
    mpl.use("Agg")
    main()
