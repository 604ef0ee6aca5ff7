"""Energy, kappa, signal and noise of one scope (some rows, some groups) from its totals, by the names of the result."""

from __future__ import annotations

import numpy as np

from gradlog.analysis.common.jackknife import ENDS, Control, jackknife, named, total
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures import gradient_noise, order_baseline
from gradlog.analysis.measures.gradient_noise import HalfBatches
from gradlog.analysis.measures.interpretation import NEGLIGIBLE
from gradlog.analysis.measures.order_baseline import Order, coherences
from gradlog.analysis.measures.predictors import Evidence, Fitted
from gradlog.analysis.measures.ranks import freedom_of
from gradlog.analysis.measures.spec import AnalysisSpec, Values, control
from gradlog.analysis.streaming.in_range import LEAST

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


def kappas(evidence: Evidence, energy: float, order: Order, spec: AnalysisSpec) -> dict[str, Float64]:
    """Kappa and path length with intervals, shuffled baseline and gain, each (predictor,).

    The path length is kappa times the energy: with exact norms it has kappa's interval, else one of its own.
    """
    fitted = [p.fit(evidence) for p in spec.predictors]
    freedom, known = freedom_of(evidence, spec), control(evidence, energy, spec)
    columns = [_kappa(f, evidence, order, spec, freedom, known) for f in fitted]
    found: dict[str, Float64] = {name: np.array([c[name] for c in columns]) for name in columns[0]}
    some = np.isfinite(found["kappa"])  # not where every gradient is zero
    for end in ENDS:
        found[f"path_length{end}"] = found[f"kappa{end}"] * energy
    for i in range(len(fitted)) if not spec.norms else np.flatnonzero(~some):
        for name, own in named("path_length", _summed(fitted[i].path, spec)).items():
            found[name][i] = own
    betas = np.array([np.nan if f.beta is None else f.beta for f in fitted])
    found["beta"] = np.where(some, betas, np.nan)
    return found


def _summed(per_column: Float64, spec: AnalysisSpec) -> tuple[float, float, float]:
    """Sum of squares from the sketch, with its interval, in the gradient's units."""
    value, low, high = jackknife(lambda x: x, spec.pool(per_column) / spec.scale**2, exact=spec.exact)
    return value, float(np.maximum(low, 0.0)), high


def _kappa(
    fitted: Fitted, evidence: Evidence, order: Order, spec: AnalysisSpec, freedom: float, known: Control | None
) -> dict[str, float]:
    rows = int(evidence.totals["rows"])
    squared = np.square(evidence.of("total"))
    epochs, pairs = evidence.epochs() if order.rows else (squared, float(rows) ** 2)
    path, power, square, together = (spec.pool(x) for x in (fitted.path, evidence.of("energy"), squared, epochs))
    if not power.sum() > rows * LEAST**2:  # nothing to predict, or too little to be summed
        return dict.fromkeys(KAPPA, float("nan"))
    of_rows, of_sum, of_epochs = (total(x, known) for x in (power, square, together))
    mean = coherences(of_rows, of_sum, of_epochs, rows, pairs)
    shuffled = order_baseline.refitted(fitted, float(mean[0]), float(mean[1]), order)

    def null_of(power: Float64, square: Float64, together: Float64) -> Float64:
        return order_baseline.kappa_null(shuffled, *coherences(power, square, together, rows, pairs), order)

    def gain(path: Float64, power: Float64, square: Float64, together: Float64) -> Float64:
        return 1 - path / power / null_of(power, square, together)  # at the best weights no slope in them matters

    value, low, high = jackknife(np.divide, path, power, exact=spec.exact, control=known)
    gains = jackknife(gain, path, power, square, together, exact=spec.exact, control=known)
    c = order_baseline.coherence(float(of_rows), float(of_sum), rows)
    null = float(null_of(of_rows, of_sum, of_epochs))
    chance = order_baseline.chance(shuffled, freedom, rows) * (1 - c) / null
    floor = NEGLIGIBLE * order_baseline.movable(fitted, order.ages) * (1 - c) / null
    value, low = (float(np.maximum(x, 0.0)) for x in (value, low))  # no path length is negative
    told = order.rows or spec.drawn_anew
    epoch = float("nan") if told else order_baseline.epoch_gain(fitted, c, null, order, gains[0])
    return dict(zip(KAPPA, (value, low, high, null, *gains, chance, floor, epoch), strict=True))


def measure(
    evidence: Evidence,
    energy: float,
    order: Order,
    spec: AnalysisSpec,
    batch: float,
    halves: HalfBatches | None = None,
) -> Values:
    """Energies, kappas, signal and noise of one scope.

    Parameters
    ----------
    energy : float
        Sum of the squared norms of the counted rows, over the scope's groups; exact where ``spec.norms``.
    order : Order
        History and epochs of the counted rows.
    batch : float
        Mean batch size of the counted rows, NaN where it is not logged.
    halves : HalfBatches, optional
        Where the gradients of two halves of each batch are known.
    """
    low, high = (energy, energy) if spec.norms else _summed(evidence.of("energy"), spec)[1:]
    found: Values = {
        "rows": float(evidence.totals["rows"]),
        **named("energy", (energy, low, high)),
        "increment_energy": float(evidence.of("increment").sum()) / spec.scale**2,
    }
    known = control(evidence, energy, spec)
    power, square = (total(spec.pool(x), known) for x in (evidence.of("energy"), np.square(evidence.of("total"))))
    found["coherence"] = order_baseline.coherence(float(power), float(square), int(evidence.totals["rows"]))
    found |= kappas(evidence, energy, order, spec)
    return found | signal_and_noise(evidence, spec, batch, halves, order.rows, known)


def signal_and_noise(
    evidence: Evidence,
    spec: AnalysisSpec,
    batch: float,
    halves: HalfBatches | None,
    epoch: int = 0,
    known: Control | None = None,
) -> Values:
    """Lag coherence; signal and noise from half batches where they are known, else from lags where these tell."""
    found = gradient_noise.lag_coherence(evidence, spec.k, spec.exact, spec.exact_groups, known)
    if halves is not None:
        return found | gradient_noise.from_half_batches(halves, batch)
    if gradient_noise.withheld(found, epoch):
        return found | gradient_noise.unknown()
    signal = gradient_noise.from_lags(evidence, spec.k, spec.exact, batch, spec.exact_groups, known)
    for name in (f"{n}{end}" for n in ("signal", "noise") for end in ENDS):
        signal[name] /= spec.scale**2
    return found | signal
