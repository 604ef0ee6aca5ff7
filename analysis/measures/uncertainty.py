"""Both errors of a run's ratios side by side: the sketch's, and the fluctuation within the run; and their sum.

All are half-widths of 95 % intervals. The two errors are independent, so their squares add up.
"""

from __future__ import annotations

import numpy as np

from gradlog.analysis.common.jackknife import ENDS, jackknife, named
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.fluctuation import Blocks, Ratios
from gradlog.analysis.measures.gradient_noise import LAGS, signal_weights
from gradlog.analysis.measures.predictors import Evidence
from gradlog.analysis.measures.shares import group_shares
from gradlog.analysis.measures.spec import AnalysisSpec, Values, control


def add_to(
    main: Values, groups: list[Values], blocks: Blocks | None, evidence: Evidence, spec: AnalysisSpec, lags: bool
) -> None:
    """Add to the values of the whole run and of its groups what both errors make of them.

    Parameters
    ----------
    main, groups : dict, list of dict
        Changed in place; no groups where they were not asked for.
    blocks : Blocks or None
        None: the run is too short for a fluctuation.
    evidence : Evidence
        Of the whole run.
    spec : AnalysisSpec
    lags : bool
        Whether signal shares come from lags; those from half batches have intervals of their own.
    """
    whole = None if blocks is None else Ratios.of(blocks, spec.predictors, LAGS)
    _scope(main, whole, len(spec.predictors), lags)
    main |= _differences(evidence, float(main["energy"]), spec, whole)
    shares = group_shares(evidence, spec) if groups else []
    for g, (found, share) in enumerate(zip(groups, shares, strict=True)):
        own = None if blocks is None else Ratios.of(blocks, spec.predictors, LAGS, g)
        _scope(found, own, len(spec.predictors), lags)
        sketch = (share["path_share_high"] - share["path_share_low"]) / 2
        found["path_share_low"] = np.clip(found["path_share"] - sketch, 0, 1)
        found["path_share_high"] = np.clip(found["path_share"] + sketch, 0, 1)
        run = np.full(len(spec.predictors), np.nan) if own is None or whole is None else own.shares(whole)
        found |= {"path_share_run": run, "path_share_total": np.hypot(sketch, run)}


def _scope(found: Values, ratios: Ratios | None, predictors: int, from_lags: bool) -> None:
    """Fluctuation of kappa, gain and lag coherence, and of the signal share where it comes from lags."""
    nothing = np.full(predictors, np.nan)
    run = nothing if ratios is None else ratios.kappas()
    found["kappa_run"] = run
    found["kappa_run_withheld"] = np.ones(predictors) if ratios is None else ratios.withheld()
    found["kappa_total"] = np.hypot(run, found["kappa_high"] - found["kappa"])
    found["gain_run"] = run / found["kappa_null"]
    found["gain_total"] = np.hypot(found["gain_run"], found["gain_high"] - found["gain"])
    lags = [np.nan] * LAGS if ratios is None else [ratios.over_energy(p) for p in ratios.products]
    found["lag_coherence_run"] = np.array(lags)
    found["lag_coherence_total"] = np.hypot(lags, found["lag_coherence_high"] - found["lag_coherence"])
    if from_lags and ratios is not None and np.isfinite(found["signal_share"]):
        share = ratios.over_energy(signal_weights(LAGS) @ ratios.products)
        found["signal_share_run"] = share
        value, low, high = (found[f"signal_share{end}"] for end in ENDS)
        found["signal_share_total"] = float(np.hypot(share, np.maximum(high - value, value - low)))


def _differences(evidence: Evidence, energy: float, spec: AnalysisSpec, ratios: Ratios | None) -> Values:
    """Differences of the kappas of every two predictors, (predictor, other), with both errors."""
    power, known = spec.pool(evidence.of("energy")), control(evidence, energy, spec)
    paths = [spec.pool(p.fit(evidence).path) for p in spec.predictors]
    ends: Float64 = np.zeros((3, len(paths), len(paths)))
    for i, mine in enumerate(paths):
        for j, other in enumerate(paths[:i]):
            ends[:, i, j] = (
                jackknife(np.divide, mine - other, power, exact=spec.exact, control=known) if power.any() else np.nan
            )
            ends[:, j, i] = -ends[[0, 2, 1], i, j]
    value, _, high = ends
    run = np.full(value.shape, np.nan) if ratios is None else ratios.differences()
    errors = {"kappa_difference_run": run, "kappa_difference_total": np.hypot(run, high - value)}
    return named("kappa_difference", ends) | errors
