"""Every xarray Dataset of results is made here; nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from gradlog.analysis.results.forms.labelled_arrays import BY_PLACE, LabelledArrays


def to_dataset(result: LabelledArrays) -> xr.Dataset:
    """Dataset of an analysis."""
    parts: tuple[dict[str, xr.Variable], dict[str, xr.Variable]] = {}, {}
    for name, array in result.variables.items():
        parts[name in result.coordinates][name] = xr.Variable(*array)
    return xr.Dataset(*parts, attrs=result.attrs)


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
