"""Labels: every xarray Dataset of the analyzer is built here, with dims, units and attrs; nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradlog.analysis.measures.fluctuation import REASONS
from gradlog.analysis.measures.gradient_noise import LAGS
from gradlog.analysis.measures.scope_values import Question, Values
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.scopes import Range
from gradlog.analysis.spectrum.shuffled_rank import METHODS

P, E = ("predictor",), ("eps",)
G2 = "gradient^2"

REASON_CODES = ", ".join(f"{code} {reason or 'it is not'}" for code, reason in REASONS.items())

VARIABLES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "rows": ((), "1", "finite rows counted"),
    "energy": ((), G2, "sum of squared gradient norms"),
    "increment_energy": ((), G2, "squared Frobenius norm of the logged increments"),
    "coherence": ((), "1", "mean inner product of different rows over the mean squared norm"),
    "kappa": (P, "1", "predictability index, path length over energy; NaN without energy"),
    "kappa_low": (P, "1", "lower end of the sketch 95 % interval of kappa"),
    "kappa_high": (P, "1", "upper end of the sketch 95 % interval of kappa"),
    "kappa_null": (P, "1", "kappa expected of the same rows in random order"),
    "gain": (P, "1", "1 - kappa / kappa_null"),
    "gain_low": (P, "1", "lower end of the sketch 95 % interval of the gain"),
    "gain_high": (P, "1", "upper end of the sketch 95 % interval of the gain"),
    "gain_chance": (P, "1", "gain up or down that about 19 of 20 random orders of the same rows stay below"),
    "gain_floor": (P, "1", "gain up or down that is too small to matter: of a correlation of 2 % with the prediction"),
    "gain_epochs": (
        P,
        "1",
        "gain that epochs of 4 steps would show with frozen parameters; NaN where epochs are known",
    ),
    "kappa_run": (P, "1", "half-width of the 95 % fluctuation of kappa within the run; NaN where withheld"),
    "kappa_run_withheld": (P, "1", f"why it is withheld: {REASON_CODES}"),
    "kappa_total": (P, "1", "half-width of both errors of kappa together, the sketch's and the fluctuation"),
    "gain_run": (P, "1", "half-width of the 95 % fluctuation of the gain within the run, its baseline taken as known"),
    "gain_total": (P, "1", "half-width of both errors of the gain together"),
    "kappa_difference": (("predictor", "other"), "1", "kappa less that of another predictor"),
    "kappa_difference_low": (("predictor", "other"), "1", "lower end of its sketch 95 % interval"),
    "kappa_difference_high": (("predictor", "other"), "1", "upper end of its sketch 95 % interval"),
    "kappa_difference_run": (("predictor", "other"), "1", "half-width of its 95 % fluctuation within the run"),
    "kappa_difference_total": (("predictor", "other"), "1", "half-width of both errors of the difference together"),
    "path_length": (P, G2, "kappa times energy"),
    "path_share": (P, "1", "path length over that of all"),
    "path_share_low": (P, "1", "lower end of the sketch 95 % interval of the share"),
    "path_share_high": (P, "1", "upper end of the sketch 95 % interval of the share"),
    "path_share_run": (P, "1", "half-width of the 95 % fluctuation of the share within the run"),
    "path_share_total": (P, "1", "half-width of both errors of the share together"),
    "step_path_share": (
        ("path_step",),
        "1",
        "share in the path length of the predictor last, of the steps where it is largest",
    ),
    "half_path_steps": ((), "1", "fewest steps that hold half of the path length of the predictor last"),
    "beta": (P, "1", "decay in use, for exponential moving averages"),
    "rank": (E, "1", "r*(eps) of the logged increments; its certified upper bound where it is not closed"),
    "rank_low": (E, "1", "certified lower bound of r*(eps) of the logged increments"),
    "rank_high": (E, "1", "certified upper bound of r*(eps) of the logged increments"),
    "rank_null": (E, "1", "r*(eps) of the same rows in random order, mean"),
    "rank_null_low": (E, "1", "lower end of the range of r*(eps) in 9 of 10 random orders"),
    "rank_null_high": (E, "1", "upper end of the range of r*(eps) in 9 of 10 random orders"),
    "rank_null_method": ((), "1", "how the random orders were drawn"),
    "rank_estimate": (E, "1", "r*(eps) of the gradients themselves, NaN where not identifiable"),
    "rank_estimate_low": (E, "1", "lower end of its range: spread over sub-sketches and usual error"),
    "rank_estimate_high": (E, "1", "upper end of its range: spread over sub-sketches and usual error"),
    "stable_rank": ((), "1", "E / sigma_1^2"),
    "participation_rank": ((), "1", "(sum sigma^2)^2 / sum sigma^4"),
    "participation_estimate": ((), "1", "participation ratio of the gradients themselves, sketch bias removed"),
    "entropy_rank": ((), "1", "exp(-sum p log p), p = sigma^2 / E"),
    "singular_value": (("mode",), "gradient", "singular values of the logged increments"),
    "tail_energy": (("tail_rank",), "1", "relative energy beyond the leading singular values"),
    "lag_coherence": (("lag",), "1", "mean product of rows so many apart over the mean squared norm"),
    "lag_coherence_low": (("lag",), "1", "lower end of its sketch 95 % interval"),
    "lag_coherence_high": (("lag",), "1", "upper end of its sketch 95 % interval"),
    "lag_coherence_run": (("lag",), "1", "half-width of its 95 % fluctuation within the run"),
    "lag_coherence_total": (("lag",), "1", "half-width of both errors together"),
    "signal_share_run": ((), "1", "half-width of the 95 % fluctuation of a signal share from lags within the run"),
    "signal_share_total": ((), "1", "half-width of both errors of a signal share from lags together"),
    "signal": ((), G2, "mean squared norm of the gradient free of minibatch noise; see the attribute signal_source"),
    "signal_share": ((), "1", "signal over the mean squared norm"),
    "noise": ((), G2, "trace of the minibatch noise covariance"),
    "noise_scale": ((), "samples", "batch size times noise over signal, which estimates the critical batch size"),
    "stationarity_left": (P, G2, "mean squared gradient norm"),
    "stationarity_left_noise_free": (P, G2, "mean squared gradient norm free of minibatch noise"),
    "stationarity_right": (P, G2, "2 (F_0 - F_*) / (eta T) + P / T"),
    "stationarity_ratio": (P, "1", "right side over left side; the bound holds from 1 on"),
    "stationarity_ratio_noise_free": (P, "1", "right side over the noise-free left side"),
    "regret_left": (P, "loss", "sum of logged losses above F_*"),
    "regret_right": (P, "loss", "D^2 / eta + eta P / 2"),
    "regret_ratio": (P, "1", "right side over left side"),
    "regret_best_eta": (P, "step size", "D sqrt(2 / P), the eta that minimises the right side"),
    "regret_best": (P, "loss", "D sqrt(2 P), the right side at the best eta"),
    "components": (("component", "group", "k"), "1", "right singular vectors of the increments"),
    "scores": (("increment_step", "component"), "gradient", "increments projected on the components"),
    "explained_variance": (("component",), G2, "energy of the increments along each component"),
    "explained_variance_ratio": (("component",), "1", "its share in the energy of the increments"),
    "window_overlap": (("window", "other_window"), "1", "mean squared cosine between leading increment subspaces"),
    "window_overlap_random": ((), "1", "overlap expected of random subspaces"),
}
SIDES = (
    *(f"stationarity_{side}" for side in ("left", "left_noise_free", "right", "ratio", "ratio_noise_free")),
    *(f"regret_{side}" for side in ("left", "right", "ratio", "best_eta", "best")),
)
"""Sides of the bounds; what comes from a sketch has an interval."""

for _name in (
    "energy",
    "path_length",
    "participation_estimate",
    *SIDES,
):
    _dims, _units, _ = VARIABLES[_name]
    for _end, _which in (("_low", "lower end"), ("_high", "upper end")):
        VARIABLES[_name + _end] = (_dims, _units, f"{_which} of the sketch 95 % interval of {_name}")

for _name in ("signal", "signal_share", "noise", "noise_scale"):
    _dims, _units, _ = VARIABLES[_name]
    for _end, _which in (("_low", "lower end"), ("_high", "upper end")):
        _spread = f"{_which} of its 95 % interval: what other minibatches would give; from lags the sketch 95 %"
        VARIABLES[_name + _end] = (_dims, _units, _spread)

SCOPES = {
    "": ((), ""),
    "group": (("group",), ", by parameter group"),
    "window": (("window",), ", by window of rows"),
    "prefix": (("prefix",), ", by growing prefix"),
    "window_group": (("window", "group"), ", by window and group"),
    "prefix_group": (("prefix", "group"), ", by growing prefix and group"),
}
LENGTHS = {"mode": "{}_mode", "tail_rank": "{}_tail_rank"}


def result_dataset(
    run: Run, ask: Question, values: dict[str, list[Values]], ranges: dict[str, list[Range]], attrs: dict[str, Any]
) -> xr.Dataset:
    """Dataset of an analysis, from the values of every scope in order."""
    groups = list(run.header.groups)
    sizes = {"group": len(groups), "window": len(ranges["window"]), "prefix": len(ranges["prefix"])}
    coords: dict[str, Any] = {"predictor": _text([p.name for p in ask.predictors]), "eps": list(ask.eps)}
    coords["group"] = _text(groups)
    coords["other"] = coords["predictor"]
    coords["lag"] = np.arange(1, LAGS + 1)
    variables: dict[str, Any] = {}
    for scope, found in values.items():
        if found:
            variables |= _scope(scope, found, sizes, ask.scale)
    for kind in ("window", "prefix"):
        if ranges[kind]:
            edges = {"first": [r.start for r in ranges[kind]], "last": [r.stop - 1 for r in ranges[kind]]}
            for end, rows in edges.items():
                about = {"long_name": f"{end} step of the {kind}", "units": "step"}
                coords[f"{kind}_{end}_step"] = ((kind,), run.numbers.at(np.array(rows)), about)
    for name in ("increment_step", "path_step"):
        if name in values[""][0]:
            coords[name] = values[""][0][name]
    return xr.Dataset(variables, coords, _attrs(run, attrs))


def _scope(scope: str, found: list[Values], sizes: dict[str, int], scale: float) -> dict[str, Any]:
    outer, about = SCOPES[scope]
    variables = {}
    for name in dict.fromkeys(name for v in found for name in v):
        if name not in VARIABLES:
            continue
        dims, units, text = VARIABLES[name]
        # a signal share may be known of some groups and not of others
        rows = [np.asarray(v.get(name, np.nan), np.float64) / (scale if units == "gradient" else 1.0) for v in found]
        dims = tuple(LENGTHS[d].format(scope) if scope and d in LENGTHS else d for d in dims)
        stacked = _stacked(rows)
        data = stacked.reshape((*(sizes[d] for d in outer), *stacked.shape[1:]))
        label = f"{scope}_{name}" if scope else name
        variables[label] = (outer + dims, data, {"units": units, "long_name": text + about} | _flags(name))
    return variables


def _flags(name: str) -> dict[str, Any]:
    """Meanings of the values 0, 1, ... of a flag, as the CF conventions name them."""
    if name != "rank_null_method":
        return {}
    words = " ".join(method.replace(" ", "_") for method in METHODS)
    return {"flag_values": list(range(len(METHODS))), "flag_meanings": words}


def _stacked(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Stack, filling shorter spectra with NaN."""
    longest = tuple(map(max, zip(*(r.shape for r in rows), strict=True))) if rows[0].ndim else ()
    out = np.full((len(rows), *longest), np.nan)
    for i, row in enumerate(rows):
        inside: tuple[Any, ...] = (i, *map(slice, row.shape))
        out[inside] = row
    return out


def _attrs(run: Run, attrs: dict[str, Any]) -> dict[str, Any]:
    plain = {k: v if isinstance(v, int | float | str) else json.dumps(v, allow_nan=True) for k, v in attrs.items()}
    try:
        library = version("gradlog-zarr")
    except PackageNotFoundError:
        library = "source tree"
    return {
        "title": "gradlog analysis",
        "Conventions": "CF-1.10",
        "references": "arXiv:2601.04270",
        "gradlog_version": library,
        "run": json.dumps(run.info),
        **plain,
    }


def _text(labels: list[str]) -> NDArray[np.object_]:
    """Labels of variable length: the form in which zarr and netCDF give strings back."""
    return np.array(labels, dtype=object)


def _about(units: str, text: str) -> dict[str, str]:
    return {"units": units, "long_name": text}


def names(ds: xr.Dataset, dim: str) -> Sequence[str]:
    """Labels of a dimension as plain strings."""
    return [str(x) for x in ds[dim].values]
