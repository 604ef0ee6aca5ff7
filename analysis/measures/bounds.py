"""The paper's two bounds with both sides: what the logged losses and learning rates make of a path length.

Nonconvex stationarity: (1/T) sum ||grad F||^2 <= 2 (F_0 - F_*) / (eta T) + P / T.
Optimistic mirror descent: Regret_T <= D^2 / eta + (eta / 2) P, least at eta = D sqrt(2 / P) with value D sqrt(2 P).
Source: arXiv 2601.04270, convergence and regret sections; Rakhlin and Sridharan (2013).

Losses and learning rates are logged; a path length from a sketch has an interval, and with it whatever it enters. Where
both sides have one, the ends of the ratio take the worst of both (interval arithmetic): wide enough whatever the two
errors have in common. The ends are about the sketch's error alone, not about the assumptions of a bound.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from gradlog.analysis.common.jackknife import ENDS, named
from gradlog.analysis.common.types import Column, Float64
from gradlog.analysis.measures.spec import Values


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Quantities of the bounds and where each came from: "logged", "measured", "assumed" or "missing"."""

    eta: float
    first_loss: float
    lowest_loss: float
    regret: float
    diameter: float
    sources: dict[str, str]
    losses: int = 0
    optimizer: str = ""


class Ends(NamedTuple):
    """A value and the ends of its interval, each (predictor,) or one for all; NaN where not known."""

    value: Float64
    low: Float64
    high: Float64

    def over(self, other: Ends) -> Ends:
        """Ratio of two positive quantities."""
        return Ends(_ratio(self.value, other.value), _ratio(self.low, other.high), _ratio(self.high, other.low))


def _ratio(a: Float64, b: Float64) -> Float64:
    """Divide, NaN where the divisor is not positive."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return np.asarray(np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0))


def inputs(
    loss: Column | None,
    lr: Column | None,
    eta: float | None = None,
    lowest_loss: float | None = None,
    diameter: float | None = None,
    optimizer: str = "",
) -> Inputs:
    """Gather the inputs from logged columns (NaN = not logged), the logged optimizer and the caller's assumptions.

    eta is the mean logged learning rate; F_* is assumed to be 0, or the lowest logged loss where that is negative.

    Raises
    ------
    ValueError
        A step size or diameter that is not positive, or a lowest loss above a logged one.
    """
    for name, value in (("eta", eta), ("diameter", diameter)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    sources = {"eta": "assumed", "first_loss": "missing", "lowest_loss": "assumed", "diameter": "assumed"}
    if eta is None:
        logged = lr is not None and lr.count > 0
        eta, sources["eta"] = lr.mean if lr and logged else float("nan"), _source(lr)
    known = loss is not None and loss.count > 0
    seen = loss if loss and known else Column.of(np.empty(0))
    if lowest_loss is None:
        lowest_loss = min(0.0, seen.least)
    elif not lowest_loss <= seen.least:
        raise ValueError(f"lowest_loss={lowest_loss} lies above a logged loss of {seen.least}")
    regret = seen.total - seen.count * lowest_loss if known else float("nan")
    sources["first_loss"] = sources["regret"] = "logged" if known else "missing"
    return Inputs(
        eta, seen.first, lowest_loss, regret, 1.0 if diameter is None else diameter, sources, seen.count, optimizer
    )


def about(optimizer: str) -> str:
    """Say whose bounds these are, and whether the run's optimizer is that one; ``optimizer`` as it was logged, or "".

    >>> about("SGD").endswith("This run's optimizer, SGD, is the row zero; the others are of runs not made.")
    True
    """
    said = "The bounds are those of optimistic gradient descent, which steps along the prediction at a constant rate."
    if not optimizer:
        return f"{said} Which optimizer this run had was not logged."
    plain = re.fullmatch(r"(plain |vanilla )?(sgd|gd|gradient descent)", optimizer.strip().lower())
    if plain:
        return f"{said} This run's optimizer, {optimizer}, is the row zero; the others are of runs not made."
    return f"{said} This run's optimizer, {optimizer}, is another: the bounds promise nothing about it."


def _source(lr: Column | None) -> str:
    if lr is None or not lr.count:
        return "missing"
    return "logged" if lr.least == lr.most else "mean of the logged"


def stationarity(given: Inputs, path: Ends, energy: Ends, rows: int) -> dict[str, Ends]:
    """Left side (mean squared norm), right side and their ratio (>= 1: the bound holds), per predictor.

    NaN without a positive step size, and a ratio without a positive left side.
    """
    start = _ratio(np.asarray(2 * (given.first_loss - given.lowest_loss)), np.asarray(given.eta * rows))
    left = Ends(*(np.broadcast_to(e / rows, path.value.shape) for e in energy))
    right = Ends(*(start + p / rows for p in path))
    return {"left": left, "right": right, "ratio": right.over(left)}


def regret(given: Inputs, path: Ends, rows: int) -> dict[str, Ends]:
    """Right side at the logged eta and at the best one, that eta, and the logged left side, per predictor.

    The left side is NaN where the loss was not logged at every row: the right side sums over all of them.
    """
    D = given.diameter
    eta = given.eta if given.eta > 0 else float("nan")
    left = np.full_like(path.value, given.regret if given.losses == rows else np.nan)
    right = Ends(*(D**2 / eta + eta / 2 * p for p in path))
    value, low, high = (D * np.sqrt(_ratio(np.asarray(2.0), p)) for p in path)
    return {
        "left": Ends(left, left, left),
        "right": right,
        "ratio": right.over(Ends(left, left, left)),
        "best_eta": Ends(value, high, low),
        "best": Ends(*(D * np.sqrt(2 * p) for p in path)),
    }


def bound_sides(given: Inputs, found: Values) -> Values:
    """Both sides of both bounds with their intervals, with the raw and with the noise-free left side."""
    rows = int(found["rows"])
    path, energy, signal = (
        Ends(*(np.asarray(found[name + end], np.float64) for end in ENDS))
        for name in ("path_length", "energy", "signal")
    )
    raw = stationarity(given, path, energy, rows)
    free = stationarity(given, path, Ends(*(s * rows for s in signal)), rows)
    sides = {f"stationarity_{name}": ends for name, ends in raw.items()}
    sides |= {f"stationarity_{name}_noise_free": free[name] for name in ("left", "ratio")}
    sides |= {f"regret_{name}": ends for name, ends in regret(given, path, rows).items()}
    return {name: values for side, ends in sides.items() for name, values in named(side, ends).items()}
