"""The result as one JSON object, schema ``gradlog.analysis/1``: fields may be added, never renamed."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from gradlog.analysis.measures.bounds import about
from gradlog.analysis.measures.fluctuation import REASONS
from gradlog.analysis.measures.interpretation import looked_at, verdict
from gradlog.analysis.measures.predictors.registry import fits_beta, is_reference

if TYPE_CHECKING:
    import xarray

SCHEMA = "gradlog.analysis/1"
RUN_FIELDS = (
    "path", "steps", "first_step", "last_step", "every", "groups", "k", "seed", "kind", "stage", "what", "status",
    "dimension", "view", "gaps", "nonfinite", "abandoned", "norms", "created", "uuid",
)  # fmt: skip
WITHHELD = (
    ".estimate", ".participation_estimate", "noise.", "_noise_free", ".gain_chance", ".gain_floor", ".gain_epochs",
    "lag_coherence", "_half",
)  # fmt: skip
"""What rows and sketch often do not tell: a rank behind the sketch, signal and noise, sides of a bound with them."""
UNDEFINED = "undefined values written as null"
NO_BOUNDS = "no bounds: they need the logged loss and learning rate"
MEASURES = ("stable", "participation", "entropy")
ENDS = ("", "_low", "_high")
FIELDS = ("value", "low", "high")
ERRORS = ("run", "total")
NOISE = ("signal", "signal_share", "noise", "noise_scale")


def to_json(ds: xarray.Dataset) -> dict[str, Any]:
    """Plain object of an analysis, ready for ``json.dumps(..., allow_nan=False)``.

    Parameters
    ----------
    ds : xarray.Dataset
        From ``analyze``, or read back from netCDF or zarr.

    Returns
    -------
    dict
        NaN and inf are None, with a warning that names their fields.
    """
    warnings = list(json.loads(ds.attrs["warnings"]))
    run = json.loads(ds.attrs["run"])
    result: dict[str, Any] = {"schema": SCHEMA, "run": {f: run[f] for f in RUN_FIELDS}}
    result |= _scope(ds, "")
    result["noise"] |= {"source": ds.attrs["signal_source"] or None, "withheld": ds.attrs["signal_withheld"]}
    result["singular_values"] = ds["singular_value"].values.tolist()
    result["tail_energy"] = ds["tail_energy"].values.tolist()
    result["svd"] = {
        "method": ds.attrs["svd_method"],
        "reason": ds.attrs["svd_reason"],
        "passes": int(ds.attrs["svd_passes"]),
        "certificate": float(ds.attrs["svd_certificate"]),
        "seed": int(ds.attrs["svd_seed"]),
        "bytes_read": int(ds.attrs["bytes_read"]),
        "predicted_memory": int(ds.attrs["predicted_memory"]),
    }
    result["epochs"] = {
        "steps": int(ds.attrs["steps_per_epoch"]) or None,
        "source": ds.attrs["epoch_source"] or None,
        "unknown": ds.attrs["epoch_unknown"],
    }
    result["kernel"] = ds.attrs["kernel"]
    result["exact_groups"] = json.loads(ds.attrs.get("exact_groups", "[]"))
    result["path_shares"] = _shares(ds)
    result["differences"] = _differences(ds)
    result["burn_in"] = int(ds.attrs["burn_in"])
    result["bounds"] = _bounds(ds)
    result["windows"] = _ranges(ds, "window")
    result["prefixes"] = _ranges(ds, "prefix")
    if "window_overlap" in ds:
        result["subspace"] = {
            "overlap": ds["window_overlap"].values.tolist(),
            "random": float(ds["window_overlap_random"]),
        }
    result["by_group"] = {}
    if "group_kappa" in ds:
        for i, name in enumerate(ds["group"].values):
            here = ds.isel(group=i)
            result["by_group"][str(name)] = _scope(here, "group_") | {
                "singular_values": [x for x in here["group_singular_value"].values.tolist() if not math.isnan(x)]
            }
    lost: list[str] = []
    plain: dict[str, Any] = _plain(result, "", lost)
    plain["verdicts"] = {"looked_at": _judge(plain)}
    if "missing" in result["bounds"]["inputs"]["sources"].values():
        warnings.append(NO_BOUNDS)
    if lost:
        shown = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        warnings.append(f"{UNDEFINED}: {shown}")
    plain["warnings"] = warnings
    return plain


def of_lags(document: dict[str, Any]) -> str:
    """Say of a signal from lags what its interval covers, and that short epochs, if there are any, would lower it."""
    if document["noise"]["source"] != "lags":
        return ""
    covers = "" if document["run"]["kind"] == "exact/1" else ", within the sketch's error only"
    return covers + (", if epochs are long" if document["epochs"]["unknown"] else "")


def _scope(ds: xarray.Dataset, prefix: str) -> dict[str, Any]:
    def value(name: str, **at: Any) -> float:
        return float(ds[prefix + name].sel(at).values)

    predictors = [str(p) for p in ds["predictor"].values]
    kappa: dict[str, dict[str, Any]] = {}
    for p in predictors:
        ends = {"value": "kappa", "low": "kappa_low", "high": "kappa_high", "null": "kappa_null", "gain": "gain"}
        ends |= {field: field for field in ("gain_low", "gain_high", "gain_chance", "gain_floor", "gain_epochs")}
        kappa[p] = {field: value(name, predictor=p) for field, name in ends.items()}
        if fits_beta(p):
            kappa[p]["beta"] = value("beta", predictor=p)
        if prefix + "kappa_run" in ds:
            kappa[p] |= {f"{n}_half": value(f"kappa_{n}", predictor=p) for n in ERRORS}
            kappa[p] |= {f"gain_{n}_half": value(f"gain_{n}", predictor=p) for n in ERRORS}
            kappa[p]["run_withheld"] = REASONS[int(value("kappa_run_withheld", predictor=p))] or None
    found: dict[str, Any] = {
        "rows": int(value("rows")),
        **{f"energy{end}": value(f"energy{end}") for end in ENDS},
        **{f"path_length{end}": {p: value(f"path_length{end}", predictor=p) for p in predictors} for end in ENDS},
        "kappa": kappa,
        "increment_energy": value("increment_energy"),
        "coherence": value("coherence"),
        "rank": {f"{e:g}": _rank(ds.sel(eps=e), prefix) for e in ds["eps"].values},
        "rank_null_method": _flag(ds, prefix + "rank_null_method"),
        "rank_measures": {name: value(f"{name}_rank") for name in MEASURES},
        "noise": {n + end: value(n + end) for n in NOISE for end in ENDS},
        "lag_coherence": {
            str(a): {field: value(f"lag_coherence{end}", lag=a) for field, end in zip(FIELDS, ENDS, strict=True)}
            for a in ds["lag"].values
        },
    }
    if prefix + "lag_coherence_run" in ds:
        for a in ds["lag"].values:
            found["lag_coherence"][str(a)] |= {f"{n}_half": value(f"lag_coherence_{n}", lag=a) for n in ERRORS}
    if prefix + "signal_share_run" in ds:
        found["noise"] |= {f"signal_share_{n}_half": value(f"signal_share_{n}") for n in ERRORS}
    if prefix + "participation_estimate" in ds:
        found["rank_measures"] |= {
            f"participation_estimate{end}": value(f"participation_estimate{end}") for end in ENDS
        }
    return found


def _judge(scope: dict[str, Any]) -> int:
    """Add the verdict on each predictor of a scope and of those inside it; return how many there are."""
    said = []
    for name, kappa in scope["kappa"].items():
        kappa["verdict"] = "reference" if is_reference(name) else verdict(kappa)
        said.append(kappa["verdict"])
    inside = [*scope.get("windows", []), *scope.get("prefixes", []), *scope.get("by_group", {}).values()]
    return looked_at(said) + sum(map(_judge, inside))


def _flag(ds: xarray.Dataset, name: str) -> str | None:
    """Meaning of a flag; None in results of earlier versions."""
    if name not in ds:
        return None
    meanings = str(ds[name].attrs["flag_meanings"]).split()
    return meanings[int(ds[name])].replace("_", " ")


def _rank(ds: xarray.Dataset, prefix: str) -> dict[str, Any]:
    fields = {"value": "rank", "low": "rank_low", "high": "rank_high", "null": "rank_null"}
    fields |= {f"null{end}": f"rank_null{end}" for end in ("_low", "_high")}
    fields |= {f"estimate{end}": f"rank_estimate{end}" for end in ("", "_low", "_high")}
    found = {f: float(ds[prefix + name].values) if prefix + name in ds else None for f, name in fields.items()}
    return {f: int(x) if x is not None and x == int(x if math.isfinite(x) else 0) else x for f, x in found.items()}


def _ranges(ds: xarray.Dataset, kind: str) -> list[dict[str, Any]]:
    if f"{kind}_kappa" not in ds:
        return []
    found = []
    for i in range(ds.sizes[kind]):
        here = ds.isel({kind: i})
        steps = {f"{end}_step": int(here[f"{kind}_{end}_step"]) for end in ("first", "last")}
        entry = steps | _scope(here, f"{kind}_")
        if f"{kind}_group_kappa" in ds:
            entry["by_group"] = {
                str(g): _scope(here.isel(group=j), f"{kind}_group_") for j, g in enumerate(ds["group"].values)
            }
        found.append(entry)
    return found


def _shares(ds: xarray.Dataset) -> dict[str, Any]:
    """Which steps and groups carry the path length; of steps, the ten largest shares."""
    share = ds["step_path_share"]
    largest = share.values.argsort(kind="stable")[::-1][:10]
    found: dict[str, Any] = {
        "steps": [{"step": int(ds["path_step"][i]), "share": float(share[i])} for i in largest],
        "half_steps": int(ds["half_path_steps"]),
        "by_group": {},
    }
    if "group_path_share" in ds:
        predictors = [str(p) for p in ds["predictor"].values]
        for name, row in zip(ds["group"].values, ds["group_path_share"].values, strict=True):
            found["by_group"][str(name)] = dict(zip(predictors, row.tolist(), strict=True))
    if "group_path_share_run" in ds:
        found["by_group_errors"] = {
            str(g): {
                p: {f"{n}_half": float(here[f"group_path_share_{n}"].sel(predictor=p)) for n in ERRORS}
                | {end: float(here[f"group_path_share_{end}"].sel(predictor=p)) for end in ("low", "high")}
                for p in predictors
            }
            for g in ds["group"].values
            for here in [ds.sel(group=g)]
        }
    return found


def _differences(ds: xarray.Dataset) -> dict[str, Any]:
    """Kappa of each predictor less that of each later one, with both errors."""
    names = [str(p) for p in ds["predictor"].values]
    fields = dict(zip(FIELDS, ("", "_low", "_high"), strict=True)) | {f"{n}_half": f"_{n}" for n in ERRORS}
    values = {field: ds[f"kappa_difference{end}"].values for field, end in fields.items()}
    return {
        p: {q: {field: float(x[i, j]) for field, x in values.items()} for j, q in enumerate(names) if j > i}
        for i, p in enumerate(names[:-1])
    }


def _bounds(ds: xarray.Dataset) -> dict[str, Any]:
    inputs = json.loads(ds.attrs["bound_inputs"])
    found: dict[str, Any] = {"inputs": inputs, "about": about(inputs.get("optimizer", ""))}
    found |= {"stationarity": {}, "regret": {}}
    for p in ds["predictor"].values:
        here = ds.sel(predictor=p)
        for kind in ("stationarity", "regret"):
            names = [str(n) for n in ds.data_vars if str(n).startswith(kind + "_")]
            found[kind][str(p)] = {n.removeprefix(kind + "_"): float(here[n].values) for n in names}
    return found


def _plain(value: Any, path: str, lost: list[str]) -> Any:
    """Replace non-finite numbers by None, noting where (what is withheld for a reason is no loss)."""
    if isinstance(value, dict):
        return {k: _plain(v, f"{path}.{k}" if path else k, lost) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, f"{path}[{i}]", lost) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if not any(name in path for name in WITHHELD):
            lost.append(path)
        return None
    return value
