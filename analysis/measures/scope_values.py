"""Every number of one scope (some rows, some groups) from its totals and its spectrum. Labels are put on elsewhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gradlog.analysis.common.jackknife import FEWEST, Control, by_group, jackknife, pool, total
from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.measures import bounds, gradient_noise, order_baseline
from gradlog.analysis.measures import shuffled as baseline
from gradlog.analysis.measures.gradient_noise import HalfBatches
from gradlog.analysis.measures.interpretation import NEGLIGIBLE
from gradlog.analysis.measures.order_baseline import Order, coherences
from gradlog.analysis.measures.predictors import Evidence, Fitted, Predictor
from gradlog.analysis.spectrum import population, rank, shuffled_rank
from gradlog.analysis.spectrum.rank import Spectrum
from gradlog.analysis.spectrum.shuffled_rank import ShuffledRank

Values = dict[str, Any]

MOST_STEPS = 1000
"""Steps whose shares in the path length are listed."""

LEAST = 2.0**-40
"""Least root mean square of (scaled) rows that float32 products sum up to all digits, their increments included."""

FAR = 5.0
"""Standard deviations of a sketched energy, at the most they can be, beyond which the norms are not of these rows."""

KAPPA = (
    "kappa",
    "kappa_low",
    "kappa_high",
    "kappa_null",
    "gain",
    "gain_low",
    "gain_high",
    "gain_chance",
    "gain_floor",
    "gain_epochs",
)


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of every scope.

    ``k`` is the number of coordinates per group. ``exact`` says that the sketch has no error at all, ``norms`` that the
    logged norms have none. ``scale``, a power of two, is what the rows were multiplied by. ``exact_groups`` says which
    groups the sketch shows without error. ``drawn_anew`` says that there are no epochs of minibatches.
    """

    predictors: list[Predictor]
    eps: tuple[float, ...]
    k: int
    exact: bool
    norms: bool = True
    scale: float = 1.0
    exact_groups: tuple[bool, ...] = ()
    drawn_anew: bool = False

    def within(self, group: int | None) -> Question:
        """Ask the same of one group, or of all."""
        if group is None or not self.exact_groups:
            return self
        own = self.exact_groups[group]
        return dataclasses.replace(self, exact=own, exact_groups=(own,))

    def pool(self, per_column: Float64) -> Float64:
        """Sum over the groups in question: (..., columns) -> (..., k)."""
        return pool(per_column, self.k, self.exact_groups)


def control(evidence: Evidence, energy: float, ask: Question) -> Control | None:
    """Return what the exact norms tell of the sketch's error; None where they are not exact, or not of these rows."""
    if ask.exact or not ask.norms or ask.k < FEWEST or contradict(evidence, energy, ask):
        return None
    return Control(ask.pool(evidence.of("energy")), energy * ask.scale**2)


def contradict(evidence: Evidence, energy: float, ask: Question) -> bool:
    """Whether an energy is too far from the sketch's, whose variance is at most 2 / k times the square."""
    away = abs(float(evidence.of("energy").sum()) / ask.scale**2 - energy)
    return away > FAR * float(np.sqrt(2 / ask.k)) * energy


def kappas(evidence: Evidence, energy: float, order: Order, ask: Question) -> Values:
    """Kappa and path length with intervals, shuffled baseline and gain, each (predictor,).

    The path length is kappa times the energy: with exact norms it has kappa's interval, else one of its own.
    """
    fitted = [p.fit(evidence) for p in ask.predictors]
    freedom, known = _freedom(evidence, ask), control(evidence, energy, ask)
    columns = [_kappa(f, evidence, order, ask, freedom, known) for f in fitted]
    found = {name: np.array([c[name] for c in columns]) for name in columns[0]}
    some = np.isfinite(found["kappa"])  # not where every gradient is zero
    for end in ("", "_low", "_high"):
        found[f"path_length{end}"] = found[f"kappa{end}"] * energy
    for i in range(len(fitted)) if not ask.norms else np.flatnonzero(~some):
        for end, own in zip(("", "_low", "_high"), _summed(fitted[i].path, ask), strict=True):
            found[f"path_length{end}"][i] = own
    betas = np.array([np.nan if f.beta is None else f.beta for f in fitted])
    found["beta"] = np.where(some, betas, np.nan)
    return found


def _summed(per_column: Float64, ask: Question) -> tuple[float, float, float]:
    """Sum of squares from the sketch, with its interval, in the gradient's units."""
    value, low, high = jackknife(lambda x: x, ask.pool(per_column) / ask.scale**2, exact=ask.exact)
    return value, float(np.maximum(low, 0.0)), high


def _kappa(
    fitted: Fitted, evidence: Evidence, order: Order, ask: Question, freedom: float, known: Control | None
) -> dict[str, float]:
    rows = int(evidence.totals["rows"])
    squared = np.square(evidence.of("total"))
    epochs, pairs = evidence.epochs() if order.rows else (squared, float(rows) ** 2)
    path, power, square, together = (ask.pool(x) for x in (fitted.path, evidence.of("energy"), squared, epochs))
    if not power.sum() > rows * LEAST**2:  # nothing to predict, or too little to be summed
        return dict.fromkeys(KAPPA, float("nan"))
    of_rows, of_sum, of_epochs = (total(x, known) for x in (power, square, together))
    mean = coherences(of_rows, of_sum, of_epochs, rows, pairs)
    shuffled = order_baseline.refitted(fitted, float(mean[0]), float(mean[1]), order)

    def null_of(power: Float64, square: Float64, together: Float64) -> Float64:
        return order_baseline.kappa_null(shuffled, *coherences(power, square, together, rows, pairs), order)

    def gain(path: Float64, power: Float64, square: Float64, together: Float64) -> Float64:
        return 1 - path / power / null_of(power, square, together)  # at the best weights no slope in them matters

    value, low, high = jackknife(np.divide, path, power, exact=ask.exact, control=known)
    gains = jackknife(gain, path, power, square, together, exact=ask.exact, control=known)
    c = baseline.coherence(float(of_rows), float(of_sum), rows)
    null = float(null_of(of_rows, of_sum, of_epochs))
    chance = baseline.chance(shuffled, freedom, rows) * (1 - c) / null
    floor = NEGLIGIBLE * baseline.movable(fitted, order.ages) * (1 - c) / null
    value, low = (float(np.maximum(x, 0.0)) for x in (value, low))  # no path length is negative
    told = order.rows or ask.drawn_anew
    epoch = float("nan") if told else order_baseline.epoch_gain(fitted, c, null, order, gains[0])
    return dict(zip(KAPPA, (value, low, high, null, *gains, chance, floor, epoch), strict=True))


def _freedom(evidence: Evidence, ask: Question) -> float:
    """Participation ratio of the rows about their mean; NaN where the pass kept no Gram of the rows for this scope."""
    summed, gram = evidence.of("total"), evidence.totals.get("gram_rows")
    group, alone = (evidence.columns.start or 0) // ask.k, len(summed) == ask.k
    if not alone and "pooled_rows" in evidence.totals:
        summed, gram = pool(summed, ask.k), evidence.totals["pooled_rows"]
    elif gram is not None and gram.ndim == 3:
        gram = gram[group] if alone else None
    elif gram is not None:
        gram = gram[evidence.columns, evidence.columns]
    if gram is None:
        return float("nan")
    centred = shuffled_rank.shuffled_gram(gram, summed, int(evidence.totals["rows"]))
    if ask.exact:
        return float(np.trace(centred) ** 2 / np.square(centred).sum()) if np.trace(centred) > 0 else float("nan")
    return population.participation(centred)[0]


def ranks(spectrum: Spectrum | None, shuffled: ShuffledRank | None, eps: tuple[float, ...]) -> Values:
    """Rank of the logged matrix with its certified interval, rank of shuffled steps, and the smooth measures."""
    null = shuffled or shuffled_rank.unknown(len(eps))
    found = {"rank_null": null.mean, "rank_null_low": null.low, "rank_null_high": null.high}
    found["rank_null_method"] = np.array(float(shuffled_rank.METHODS.index(null.method)))
    if spectrum is None:
        nothing = np.full(len(eps), np.nan)
        smooth = dict.fromkeys(("stable_rank", "participation_rank", "entropy_rank"), np.nan)
        return found | dict.fromkeys(("rank", "rank_low", "rank_high"), nothing) | smooth
    pairs = [rank.rank_interval(spectrum, e) for e in eps]
    low, high = (np.array(x) for x in zip(*pairs, strict=True))
    smooth = {f"{name}_rank": value for name, value in rank.measures(spectrum).items()}
    return found | {"rank": high, "rank_low": low, "rank_high": high} | smooth


def estimates(gram: Float64 | None, limit: float, ask: Question, found: Values) -> Values:
    """Rank of the gradients themselves, NaN where not identifiable; in exact mode the measured one."""
    ends = ("", "_low", "_high")
    if ask.exact or gram is None:
        ranks = found["rank"] if ask.exact else np.full(len(ask.eps), np.nan)
        participation = found["participation_rank"] if ask.exact else np.nan
        return {f"rank_estimate{e}": ranks for e in ends} | {f"participation_estimate{e}": participation for e in ends}
    each = population.estimate(gram, ask.eps, limit)
    smooth = dict(zip((f"participation_estimate{e}" for e in ends), population.participation(gram), strict=True))
    return smooth | {
        "rank_estimate": np.ceil([e.value for e in each]),
        "rank_estimate_low": np.floor([e.low for e in each]),
        "rank_estimate_high": np.ceil([e.high for e in each]),
    }


def scope(
    evidence: Evidence,
    energy: float,
    order: Order,
    ask: Question,
    batch: float,
    halves: HalfBatches | None = None,
) -> Values:
    """Energies, kappas, signal and noise of one scope.

    Parameters
    ----------
    energy : float
        Sum of the squared norms of the counted rows, over the scope's groups; exact where ``ask.norms``.
    order : Order
        History and epochs of the counted rows.
    batch : float
        Mean batch size of the counted rows, NaN where it is not logged.
    halves : HalfBatches, optional
        Where the gradients of two halves of each batch are known.
    """
    ends = (energy,) * 3 if ask.norms else _summed(evidence.of("energy"), ask)
    found: Values = {
        "rows": float(evidence.totals["rows"]),
        "energy": energy,
        "energy_low": ends[1],
        "energy_high": ends[2],
        "increment_energy": float(evidence.of("increment").sum()),
    }
    found["increment_energy"] /= ask.scale**2
    known = control(evidence, energy, ask)
    power, square = (total(ask.pool(x), known) for x in (evidence.of("energy"), np.square(evidence.of("total"))))
    found["coherence"] = baseline.coherence(float(power), float(square), int(evidence.totals["rows"]))
    found |= kappas(evidence, energy, order, ask)
    return found | signal_and_noise(evidence, ask, batch, halves, order.rows, known)


def signal_and_noise(
    evidence: Evidence,
    ask: Question,
    batch: float,
    halves: HalfBatches | None,
    epoch: int = 0,
    known: Control | None = None,
) -> Values:
    """Lag coherence; signal and noise from half batches where they are known, else from lags where these tell."""
    found: Values = gradient_noise.lag_coherence(evidence, ask.k, ask.exact, ask.exact_groups, known)
    why = gradient_noise.withheld(found, epoch)
    if halves is not None:
        return found | gradient_noise.from_half_batches(halves, batch) | {"signal_withheld": ""}
    if why:
        return found | gradient_noise.unknown() | {"signal_withheld": why}
    signal = gradient_noise.from_lags(evidence, ask.k, ask.exact, batch, ask.exact_groups, known)
    for name in (f"{n}{end}" for n in ("signal", "noise") for end in ("", "_low", "_high")):
        signal[name] /= ask.scale**2
    return found | signal | {"signal_withheld": ""}


def step_shares(path: Float32, whole: float) -> Values:
    """Shares of the rows in the path length of ``last``: the largest, and the fewest rows that hold half of it.

    Parameters
    ----------
    path : float32 (rows,)
        Squared error of each row.
    whole : float
        Path length.

    Examples
    --------
    >>> found = step_shares(np.array([1, 5, 2], np.float32), 8.0)
    >>> found["path_rows"].tolist(), found["half_path_steps"]
    ([0, 1, 2], 1.0)
    """
    listed = np.arange(len(path))
    if len(path) > MOST_STEPS:  # of equals the first
        least = np.partition(path, -MOST_STEPS)[-MOST_STEPS]
        above, equal = np.flatnonzero(path > least), np.flatnonzero(path == least)
        listed = np.sort(np.concatenate([above, equal[: MOST_STEPS - len(above)]]))
    share = path[listed].astype(np.float64) / whole if whole > 0 else np.zeros(len(listed))
    reached = np.cumsum(np.sort(path)[::-1], dtype=np.float64)
    half = np.searchsorted(reached, reached[-1] / 2) + 1 if len(path) and reached[-1] > 0 else 0
    return {"step_path_share": share, "half_path_steps": float(half), "path_rows": listed}


def shares(parts: list[Values], whole: Float64) -> None:
    """Give each part, a group or a window, its share in a path length (predictor,)."""
    for part in parts:
        part["path_share"] = np.divide(part["path_length"], whole, out=np.zeros_like(whole), where=whole > 0)


def group_shares(evidence: Evidence, ask: Question) -> list[Values]:
    """Shares of each group in a window's path length (predictor,), with intervals; NaN where there is no path.

    Predictors are fitted to the window as a whole.
    """
    paths = [by_group(p.fit(evidence).path, ask.k, ask.exact_groups) for p in ask.predictors]
    found = np.array([[jackknife(np.divide, own, path.sum(axis=0), exact=ask.exact) for own in path] for path in paths])
    found[..., 1:] = np.clip(found[..., 1:], 0, 1)
    ends = ("path_share", "path_share_low", "path_share_high")
    return [dict(zip(ends, group.T, strict=True)) for group in found.swapaxes(0, 1)]


def bound_sides(given: bounds.Inputs, found: Values) -> Values:
    """Both sides of both bounds with their intervals, with the raw and with the noise-free left side."""
    rows = int(found["rows"])
    path, energy, signal = (
        bounds.Ends(*(np.asarray(found[name + end], np.float64) for end in ("", "_low", "_high")))
        for name in ("path_length", "energy", "signal")
    )
    raw = bounds.stationarity(given, path, energy, rows)
    free = bounds.stationarity(given, path, bounds.Ends(*(s * rows for s in signal)), rows)
    sides = {f"stationarity_{name}": ends for name, ends in raw.items()}
    sides |= {f"stationarity_{name}_noise_free": free[name] for name in ("left", "ratio")}
    sides |= {f"regret_{name}": ends for name, ends in bounds.regret(given, path, rows).items()}
    return {name: values for side, ends in sides.items() for name, values in ends.named(side).items()}
