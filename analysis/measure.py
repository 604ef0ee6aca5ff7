"""Every number of one scope (some rows, some groups) from its totals and its spectrum. Labels are put on elsewhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis import baseline, bounds, inversion, noise, rank
from gradlog.analysis.carriers import Carriers
from gradlog.analysis.intervals import jackknife, pool
from gradlog.analysis.predictors import Evidence, Fitted, Predictor
from gradlog.analysis.rank import Spectrum
from gradlog.analysis.summary import Float64

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of every scope.

    ``k`` coordinates a group, ``exact`` whether they are the gradient's own.
    """

    predictors: list[Predictor]
    eps: tuple[float, ...]
    k: int
    exact: bool


def kappas(evidence: Evidence, energy: float, ages: NDArray[np.int64], ask: Question) -> Values:
    """Kappa, its interval, path length, shuffled baseline and gain, each (predictor,)."""
    fitted = [p.fit(evidence) for p in ask.predictors]
    columns = [_kappa(f, evidence, ages, ask) for f in fitted]
    found = {name: np.array([c[name] for c in columns]) for name in columns[0]}
    logged = np.array([f.path.sum() for f in fitted])
    known = np.isfinite(found["kappa"])  # not where every gradient is zero
    found["path_length"] = np.where(known, np.where(known, found["kappa"], 0.0) * energy, logged)
    found["beta"] = np.array([np.nan if f.beta is None else f.beta for f in fitted])
    return found


def _kappa(fitted: Fitted, evidence: Evidence, ages: NDArray[np.int64], ask: Question) -> dict[str, float]:
    rows = int(evidence.totals["rows"])
    energy, total = evidence.of("energy"), evidence.of("total")
    path, power = pool(fitted.path, ask.k), pool(energy, ask.k)
    square = pool(np.square(total), ask.k)
    material = [] if fitted.material is None else [pool(fitted.material, ask.k)]

    def gain(path: Float64, power: Float64, square: Float64, *material: Float64) -> Float64:
        c = (square - power) / (power * max(rows - 1, 1))
        used = fitted
        for sums in material:  # weights fitted to the rows vary with the sketch, and the baseline with them
            used = dataclasses.replace(fitted, **fitted.refit(sums))
        return 1 - path / power / baseline.kappa_null(used, c, ages)

    value, low, high = jackknife(np.divide, path, power, exact=ask.exact)
    gains = jackknife(gain, path, power, square, *material, exact=ask.exact)
    null = float(baseline.kappa_null(fitted, float(baseline.coherence(energy, total, rows)), ages))
    found = {"kappa": value, "kappa_low": low, "kappa_high": high, "kappa_null": null}
    return found | dict(zip(("gain", "gain_low", "gain_high"), gains, strict=True))


def ranks(spectrum: Spectrum | None, shuffled: Spectrum | None, eps: tuple[float, ...]) -> Values:
    """Rank of the logged matrix with its certified interval, rank of shuffled steps, and the smooth measures."""
    if spectrum is None:
        nothing = np.full(len(eps), np.nan)
        names = ("stable", "participation", "entropy")
        return dict.fromkeys(("rank", "rank_low", "rank_high", "rank_null"), nothing) | {
            f"{n}_rank": np.nan for n in names
        }
    pairs = [rank.rank_interval(spectrum, e) for e in eps]
    low, high = (np.array(x) for x in zip(*pairs, strict=True))
    nulls = [rank.rank_interval(shuffled, e)[1] for e in eps] if shuffled else [np.nan] * len(eps)
    found = {"rank": high, "rank_low": low, "rank_high": high, "rank_null": np.array(nulls)}
    return found | {f"{name}_rank": value for name, value in rank.measures(spectrum).items()}


def estimates(gram: Float64 | None, limit: float, ask: Question, found: Values) -> Values:
    """Rank of the gradients themselves, NaN where not identifiable; in exact mode the measured one."""
    if ask.exact:
        return {f"rank_estimate{end}": found["rank"] for end in ("", "_low", "_high")} | {
            "participation_estimate": found["participation_rank"]
        }
    if gram is None:
        nothing = np.full(len(ask.eps), np.nan)
        return {f"rank_estimate{end}": nothing for end in ("", "_low", "_high")} | {"participation_estimate": np.nan}
    each = inversion.estimate(gram, ask.eps, limit)
    return {
        "rank_estimate": np.ceil([e.value for e in each]),
        "rank_estimate_low": np.floor([e.low for e in each]),
        "rank_estimate_high": np.ceil([e.high for e in each]),
        "participation_estimate": inversion.participation(gram),
    }


def scope(
    evidence: Evidence,
    energy: float,
    ages: NDArray[np.int64],
    ask: Question,
    batch: float,
) -> Values:
    """Energies, kappas, signal and noise of one scope.

    Parameters
    ----------
    energy : float
        Sum of the exact squared norms of the counted rows, over the scope's groups.
    ages : int64 (chains, 2)
        Past rows available, as a range [first, stop) for the counted rows of each chain.
    batch : float
        Mean batch size of the counted rows, NaN where it is not logged.
    """
    found: Values = {
        "rows": float(evidence.totals["rows"]),
        "energy": energy,
        "increment_energy": float(evidence.of("increment").sum()),
        "coherence": float(
            baseline.coherence(evidence.of("energy"), evidence.of("total"), int(evidence.totals["rows"]))
        ),
    }
    found |= kappas(evidence, energy, ages, ask)
    return found | noise.signal_and_noise(evidence, ask.k, ask.exact, batch)


def step_shares(path: Carriers, whole: float) -> Values:
    """Shares of the rows in the path length of ``last``: the largest, and the fewest rows that hold half of it."""
    share = path.largest / whole if whole > 0 else np.zeros(len(path.largest))
    return {"step_path_share": share, "half_path_steps": float(path.fewest(0.5)), "path_rows": path.at}


def shares(parts: list[Values], whole: Float64) -> None:
    """Give each part, a group or a window, its share in a path length (predictor,)."""
    for part in parts:
        part["path_share"] = np.divide(part["path_length"], whole, out=np.zeros_like(whole), where=whole > 0)


def group_shares(evidence: Evidence, ask: Question) -> list[Values]:
    """Shares of each group in a window's path length (predictor,), with intervals; NaN where there is no path.

    Predictors are fitted to the window as a whole.
    """
    paths = [p.fit(evidence).path.reshape(-1, ask.k) for p in ask.predictors]
    found = np.array([[jackknife(np.divide, own, path.sum(axis=0), exact=ask.exact) for own in path] for path in paths])
    found[..., 1:] = np.clip(found[..., 1:], 0, 1)
    ends = ("path_share", "path_share_low", "path_share_high")
    return [dict(zip(ends, group.T, strict=True)) for group in found.swapaxes(0, 1)]


def bound_sides(given: bounds.Inputs, found: Values) -> Values:
    """Both sides of both bounds, with the raw and with the noise-free left side."""
    path, rows = found["path_length"], int(found["rows"])
    raw = bounds.stationarity(given, path, found["energy"], rows)
    free = bounds.stationarity(given, path, found["signal"] * rows, rows)
    regret = bounds.regret(given, path)
    return (
        {f"stationarity_{name}": value for name, value in raw.items()}
        | {"stationarity_left_noise_free": free["left"], "stationarity_ratio_noise_free": free["ratio"]}
        | {f"regret_{name}": value for name, value in regret.items()}
    )
