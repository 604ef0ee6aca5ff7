"""Labels: every xarray Dataset of the analyzer is made here, with dims, units and attrs; nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradlog.analysis.measures.gradient_noise import LAGS
from gradlog.analysis.measures.spec import AnalysisSpec, Values
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.plan import Range
from gradlog.analysis.results.quantities import VARIABLES
from gradlog.analysis.spectrum.shuffled_rank import METHODS

SCOPES = {
    "": ((), ""),
    "group": (("group",), ", by parameter group"),
    "window": (("window",), ", by window of rows"),
    "prefix": (("prefix",), ", by growing prefix"),
    "window_group": (("window", "group"), ", by window and group"),
    "prefix_group": (("prefix", "group"), ", by growing prefix and group"),
}
BY_PLACE = ("path_step", "increment_step")
"""Dimensions whose labels are steps of one run: many runs line them up by place."""
LENGTHS = {"mode": "{}_mode", "tail_rank": "{}_tail_rank"}


def result_dataset(
    run: Run, spec: AnalysisSpec, values: dict[str, list[Values]], ranges: dict[str, list[Range]],
    attrs: Mapping[str, object],
) -> xr.Dataset:  # fmt: skip
    """Dataset of an analysis, from the values of every scope in order."""
    groups = list(run.header.groups)
    sizes = {"group": len(groups), "window": len(ranges["window"]), "prefix": len(ranges["prefix"])}
    predictors = _text([p.name for p in spec.predictors])
    coords: dict[str, object] = {"predictor": predictors, "eps": list(spec.eps), "group": _text(groups)}
    coords |= {"other": predictors, "lag": np.arange(1, LAGS + 1)}
    variables: dict[str, object] = {}
    for scope, found in values.items():
        if found:
            variables |= _scope(scope, found, sizes, spec.scale)
    for kind in ("window", "prefix"):
        if ranges[kind]:
            edges = {"first": [r.start for r in ranges[kind]], "last": [r.stop - 1 for r in ranges[kind]]}
            for end, rows in edges.items():
                about = {"long_name": f"{end} step of the {kind}", "units": "step"}
                coords[f"{kind}_{end}_step"] = ((kind,), run.steps[np.array(rows, int)], about)
    for name in ("increment_step", "path_step"):
        if name in values[""][0]:
            coords[name] = values[""][0][name]
    return xr.Dataset(variables, coords, _attrs(run, attrs))


def _scope(scope: str, found: list[Values], sizes: dict[str, int], scale: float) -> dict[str, object]:
    outer, about = SCOPES[scope]
    variables: dict[str, object] = {}
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


def _flags(name: str) -> dict[str, object]:
    """Meanings of the values 0, 1, ... of a flag, as the CF conventions name them."""
    if name != "rank_null_method":
        return {}
    words = " ".join(method.replace(" ", "_") for method in METHODS)
    return {"flag_values": list(range(len(METHODS))), "flag_meanings": words}


def _stacked(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Stack, filling shorter spectra with NaN."""
    longest = np.max([r.shape for r in rows], axis=0)
    padded = [np.pad(r, [(0, n) for n in longest - r.shape], constant_values=np.nan) if r.ndim else r for r in rows]
    return np.stack(padded)


def _attrs(run: Run, attrs: Mapping[str, object]) -> dict[str, object]:
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


def to_arrays(ds: xr.Dataset) -> dict[str, NDArray[np.generic]]:
    """Arrays of a Dataset by name, and one of JSON with the rest; text as fixed-width unicode."""
    values = {f"v.{name}": variable.values for name, variable in ds.variables.items()}
    plain = {name: array.astype("U") if array.dtype.hasobject else array for name, array in values.items()}
    return {"layout": np.array(json.dumps(ds.to_dict(data=False))), **plain}


def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> xr.Dataset:
    """Dataset of ``to_arrays``."""
    layout = json.loads(str(arrays["layout"]))
    for name, variable in (layout["coords"] | layout["data_vars"]).items():
        variable["data"] = arrays[f"v.{name}"].astype(variable["dtype"])
    return xr.Dataset.from_dict(layout)


def stack(results: Sequence[xr.Dataset], labels: Sequence[str], attrs: Mapping[str, object]) -> xr.Dataset:
    """One Dataset of several analyses, NaN where a run has no such group, mode or window.

    Parameters
    ----------
    results : Datasets of ``analyze``
    labels : names of the runs, the coordinate ``run``
    attrs : attributes of the whole

    Returns
    -------
    xarray.Dataset
        Every variable with a leading dimension ``run``; what each run's own attributes said, as JSON in
        ``run_attrs`` (run,).
    """
    run = xr.DataArray(np.array(labels, dtype=object), dims="run", name="run")
    if not results:
        return xr.Dataset(coords={"run": run}, attrs=attrs)
    aligned = [_by_place(ds) for ds in results]
    joined = xr.concat(
        aligned, dim=run, data_vars="all", coords="different", compat="equals", join="outer", combine_attrs="drop"
    )
    for name, variable in joined.variables.items():
        first = next(ds.variables[name] for ds in aligned if name in ds.variables) if name != "run" else variable
        variable.attrs = dict(first.attrs)
    kept = np.array([json.dumps(ds.attrs) for ds in results], dtype=object)
    joined["run_attrs"] = (("run",), kept, {"long_name": "attributes of each analysis, JSON"})
    joined.attrs = attrs
    return joined


def _by_place(ds: xr.Dataset) -> xr.Dataset:
    """Give dimensions without common labels their place as one, so that runs of any length line up."""
    for name in BY_PLACE:
        if name in ds.dims:
            ds = ds.reset_index(name).reset_coords(name).rename_dims({name: name.replace("step", "place")})
    bare = [d for d in ds.dims if d not in ds.indexes]
    return ds.assign_coords({d: np.arange(ds.sizes[d]) for d in bare})
