"""What known trainings show: figures to stand beside those of a run, from which no verdict follows."""

from __future__ import annotations

import math
from typing import NamedTuple

from gradlog.analysis.common.text import listed
from gradlog.analysis.results.forms.json_document import Document

FAR, LONGER = 10.0, 2.0
"""Factors in parameters and in steps up to which two runs are alike in them."""

CAVEAT = (
    "No verdict follows from known trainings: kappa and rank change with model, data, batch size, learning rate, "
    "number of steps and k. A run may differ from all of them and be in order."
)


class Training(NamedTuple):
    """A training with its figures.

    Attributes
    ----------
    name, optimizer : str
    parameters, steps : int
    batch : int or None
        Samples per step; None where the recording does not say.
    kappa : dict
        Of the predictors that all of them have.
    rank, shuffled : float
        Directions of the logged changes that hold 90 % of their energy, and of the same steps in random order.
    coherence : float or None
        At lag 1.
    signal : float or None
        Share of the mean squared norm that is not minibatch noise, where it is known.
    """

    name: str
    optimizer: str
    parameters: int
    steps: int
    batch: int | None
    kappa: dict[str, float]
    rank: float
    shuffled: float
    coherence: float | None = None
    signal: float | None = None


def _kappa(last: float, ema: float, slow: float, trend: float) -> dict[str, float]:
    return {"last": last, "ema(0.9)": ema, "ema(0.99)": slow, "trend": trend}


KNOWN = (
    Training("resnet18_adamw", "AdamW", 11_220_132, 200, 32, _kappa(1.819, 1.059, 1.007, 5.287), 77, 74, 0.089),
    Training("resnet18_sgdmom", "SGD", 11_220_132, 200, 32, _kappa(1.971, 1.064, 1.006, 5.607), 52, 53, 0.014),
    Training("vit_tiny_adamw", "AdamW", 5_380_132, 200, 32, _kappa(1.759, 1.046, 0.999, 5.053), 83, 80, 0.118),
    Training("tiny_transformer_adamw", "AdamW", 102_282, 200, 64, _kappa(1.377, 1.077, 1.009, 3.549), 11, 10, 0.310),
    Training("tiny_transformer_rmsprop", "RMSprop", 102_282, 200, 64, _kappa(3.385, 1.097, 1.007, 12.439), 18, 24,
             -0.703),
    Training("mlp_tabular_adamw", "AdamW", 6_532, 200, 128, _kappa(1.642, 0.963, 0.960, 4.864), 62, 59, 0.176, 0.204),
    Training("mlp_tabular_sgdmom", "SGD", 6_532, 200, 128, _kappa(1.664, 1.070, 1.008, 4.568), 88, 80, 0.167),
    Training("gpt2_adamw", "AdamW", 124_439_808, 200, 2, _kappa(1.975, 1.047, 1.002, 5.879), 2, 2, 0.012),
    Training("cnn_digits_sgd", "SGD", 6_090, 300, None, _kappa(1.365, 1.073, 1.006, 3.282), 15, 13, 0.318),
    Training("gpt2_manual_adamw", "AdamW", 124_439_808, 50, 2, _kappa(1.761, 0.950, 0.965, 4.492), 5, 6.1, 0.121),
    Training("mlp_synth_adamw", "AdamW", 6_532, 2000, 128, _kappa(1.879, 1.051, 1.004, 5.606), 82, 81, 0.061, 0.080),
    Training("mlp_wine_exact", "SGD", 139, 300, None, _kappa(0.883, 0.544, 0.792, 2.589), 13, 8.8, 0.560),
    Training("resnet18_photo100_adamw", "AdamW", 11_220_132, 200, 32, _kappa(1.832, 1.06, 1.007, 5.320), 76, 73, 0.083),
    Training("tiny_sort_rmsprop", "RMSprop", 102_282, 400, 32, _kappa(3.599, 1.103, 1.009, 13.578), 12, 16, -0.808),
)  # fmt: skip
"""The eight systems of the paper as docs/paper.md has them, and the runs of sample_logs."""

EPS = "0.1"
"""Share of the energy that their ranks leave out."""


def nearest(document: Document) -> list[tuple[Training, str]]:
    """Known trainings, those with most in common with a run first, and what that is.

    Parameters
    ----------
    document : mapping
        ``to_json(result)``.

    Returns
    -------
    list of (Training, str)
        ``"optimizer, size and steps"`` or a part of it; empty for nothing in common.
    """
    run, own = document["run"], _family(document["bounds"]["inputs"].get("optimizer", ""))
    found = []
    for known in KNOWN:
        apart = abs(math.log(max(run["dimension"], 1) / known.parameters))
        alike = {
            "optimizer": own != "" and own == _family(known.optimizer),
            "size": apart <= math.log(FAR),
            "steps": 1 / LONGER <= run["steps"] / known.steps <= LONGER,
        }
        shared = [name for name, holds in alike.items() if holds]
        found.append((-len(shared), apart, known, listed(shared)))
    return [(known, said) for _, _, known, said in sorted(found, key=lambda entry: entry[:2])]


def of_run(document: Document) -> Training:
    """Figures of a run under the same names; NaN for what was not measured.

    Parameters
    ----------
    document : mapping
        ``to_json(result)``.
    """
    run, missing = document["run"], {"value": None, "null": None}
    rank, lag = document["rank"].get(EPS, missing), document["lag_coherence"].get("1", missing)
    kappa = {name: _number(document["kappa"].get(name, missing)["value"]) for name in KNOWN[0].kappa}
    ends = (_number(rank.get("value")), _number(rank.get("null")))
    optimizer = document["bounds"]["inputs"].get("optimizer", "")
    shares = (lag["value"], document["noise"]["signal_share"])
    return Training("this run", optimizer, run["dimension"], run["steps"], None, kappa, *ends, *shares)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _family(optimizer: str) -> str:
    """Kind of an optimizer; empty for one that is not among the known."""
    return next((kind for kind in ("adam", "rmsprop", "sgd") if kind in optimizer.lower()), "")
