"""The paper's two bounds with both sides: what the logged losses and learning rates make of a path length.

Nonconvex stationarity: (1/T) sum ||grad F||^2 <= 2 (F_0 - F_*) / (eta T) + P / T.
Optimistic mirror descent: Regret_T <= D^2 / eta + (eta / 2) P, least at eta = D sqrt(2 / P) with value D sqrt(2 P).
Source: arXiv 2601.04270, convergence and regret sections; Rakhlin and Sridharan (2013).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gradlog.analysis.ledger import Column
from gradlog.analysis.summary import Float64


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Quantities of the bounds and where each came from: "logged", "measured", "assumed" or "missing"."""

    eta: float
    first_loss: float
    lowest_loss: float
    regret: float
    diameter: float
    sources: dict[str, str]


def inputs(
    loss: Column | None,
    lr: Column | None,
    eta: float | None = None,
    lowest_loss: float | None = None,
    diameter: float | None = None,
) -> Inputs:
    """Gather the inputs from logged columns (NaN = not logged) and the caller's assumptions.

    eta is the mean logged learning rate; F_* is assumed to be 0, or the lowest logged loss where that is negative.
    """
    sources = {"eta": "assumed", "first_loss": "missing", "lowest_loss": "assumed", "diameter": "assumed"}
    if eta is None:
        logged = lr is not None and lr.count > 0
        eta, sources["eta"] = lr.mean if lr and logged else float("nan"), "logged" if logged else "missing"
    known = loss is not None and loss.count > 0
    seen = loss if loss and known else Column.of(np.empty(0))
    if lowest_loss is None:
        lowest_loss = min(0.0, seen.least)
    regret = seen.total - seen.count * lowest_loss if known else float("nan")
    sources["first_loss"] = sources["regret"] = "logged" if known else "missing"
    return Inputs(eta, seen.first, lowest_loss, regret, 1.0 if diameter is None else diameter, sources)


def stationarity(given: Inputs, path: Float64, energy: float, rows: int) -> dict[str, Float64]:
    """Left side (mean squared norm), right side and their ratio (>= 1: the bound holds), per predictor."""
    left = energy / rows
    with np.errstate(divide="ignore", invalid="ignore"):
        right = 2 * (given.first_loss - given.lowest_loss) / (given.eta * rows) + path / rows
        return {"left": np.full_like(path, left), "right": right, "ratio": right / left}


def regret(given: Inputs, path: Float64) -> dict[str, Float64]:
    """Right side at the logged eta and at the best one, that eta, and the logged left side, per predictor."""
    D = given.diameter
    with np.errstate(divide="ignore", invalid="ignore"):
        right = D**2 / given.eta + given.eta / 2 * path
        return {
            "left": np.full_like(path, given.regret),
            "right": right,
            "ratio": right / given.regret,
            "best_eta": D * np.sqrt(2 / path),
            "best": D * np.sqrt(2 * path),
        }
